"""The compiled step against the plain one: any matrix, any type, any number of threads."""

import logging
import os
import subprocess
import sys

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from specdens import _kernels, aslinearoperator, density, explicit
from specdens.moments import EscapeError, chebyshev_moments
from specdens.operators import Counting, Shifted
from specdens.testing import laplacian

numba = pytest.importorskip("numba")
csr = pytest.importorskip("specdens._kernels.csr")

DTYPES = ["float32", "float64", "complex64", "complex128"]
UNIT = {name: float(np.finfo(name).eps) for name in DTYPES}


def random_rows(rng, n, dtype, index):
    """Rows of very different lengths, empty ones among them; unsorted, with duplicates."""
    lengths = np.where(rng.random(n) < 0.3, 0, rng.integers(0, 6, size=n))
    if n:
        lengths[rng.integers(n)] = 3 * n  # a huge row
    indptr = np.concatenate([[0], np.cumsum(lengths)]).astype(index)
    indices = rng.integers(0, max(n, 1), size=indptr[-1]).astype(index)
    return indptr, indices, block(rng, (indptr[-1],), dtype)


def block(rng, shape, dtype):
    real = rng.standard_normal(shape)
    imaginary = 1j * rng.standard_normal(shape) if dtype.startswith("complex") else 0
    return (real + imaginary).astype(dtype)


def plain(indptr, indices, data, x, y, a, b, c):
    """The step by SciPy, in double precision; the sums of absolute values bound its rounding."""
    n = len(indptr) - 1
    wide = np.complex128 if np.iscomplexobj(data) else np.float64
    matrix = sp.csr_array((data.astype(wide), indices, indptr), shape=(n, n), copy=True)
    new = a * (matrix @ x.astype(wide)) + b * x + c * y
    size = np.abs(a) * (abs(matrix) @ np.abs(x)) + np.abs(b) * np.abs(x) + np.abs(c) * np.abs(y)
    return new, size


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", _kernels.WIDTHS)
@given(n=st.sampled_from([0, 1, 2, 7, 300, csr.CHUNK, csr.CHUNK + 1]), seed=st.integers(0, 999),
       index=st.sampled_from(["int32", "int64"]))  # fmt: skip
@settings(max_examples=8, deadline=None)
def test_the_step_is_the_plain_one(dtype, width, n, seed, index):
    rng = np.random.default_rng(seed)
    a, b, c = rng.standard_normal((3, width)) if seed % 2 else rng.standard_normal(3)
    matrix = random_rows(rng, n, dtype, index)
    x, y = block(rng, (n, width), dtype), block(rng, (n, width), dtype)
    expected, size = plain(*matrix, x, y, a, b, c)
    before = [part.copy() for part in (*matrix, x)]
    squares, mixed = csr.csr_step(*matrix, x, y, a, b, c)
    assert np.all(np.abs(y - expected) <= (20 + 3 * n) * UNIT[dtype] * size)
    wide = np.result_type(y.dtype, np.float64)
    tolerance = 1e-12 * (1 + (np.abs(y.astype(wide)) ** 2).sum(axis=0))
    assert np.all(np.abs(squares - (np.abs(y.astype(wide)) ** 2).sum(axis=0)) <= tolerance)
    products = (y.astype(wide).conj() * x.astype(wide)).sum(axis=0)
    assert np.all(np.abs(mixed - products.real) <= 1e-12 * (1 + np.abs(y).astype(float).sum()) * 10)
    for part, old in zip((*matrix, x), before, strict=True):
        assert np.array_equal(part, old)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", _kernels.WIDTHS)
def test_nothing_beside_the_block_is_written(dtype, width):
    rng = np.random.default_rng(0)
    n, guard = 50, 64
    matrix = random_rows(rng, n, dtype, "int32")
    around = block(rng, (guard + n * width + guard,), dtype)
    y = around[guard : guard + n * width].reshape(n, width)
    before = around.copy()
    csr.csr_step(*matrix, block(rng, (n, width), dtype), y, 0.5, 0.25, -1.0)
    assert np.array_equal(around[:guard], before[:guard])
    assert np.array_equal(around[-guard:], before[-guard:])
    assert not np.array_equal(around, before)


def test_the_bits_do_not_depend_on_threads():
    rng = np.random.default_rng(1)
    n = 5 * csr.CHUNK + 3
    matrix = random_rows(rng, n, "float64", "int32")
    x, y = block(rng, (n, 8), "float64"), block(rng, (n, 8), "float64")
    found = []
    most = numba.config.NUMBA_NUM_THREADS
    try:
        for threads in (1, most):
            numba.set_num_threads(threads)
            new = y.copy()
            found.append((*csr.csr_step(*matrix, x, new, 0.3, -0.2, -1.0), new))
    finally:
        numba.set_num_threads(most)
    for one, many in zip(*found, strict=True):
        assert np.array_equal(one, many)


@pytest.fixture
def for_small_ones(monkeypatch):
    """Compiled code for matrices of any size."""
    monkeypatch.setattr(explicit, "LEAST_ENTRIES", 0)
    monkeypatch.delenv("SPECDENS_KERNELS", raising=False)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("columns", [1, 3, 8, 32, 33])
@pytest.mark.parametrize("count", [1, 2, 3, 10, 11])
def test_moments_are_the_same(for_small_ones, monkeypatch, dtype, columns, count):
    a = sp.csr_array(laplacian(9, 11)).astype(dtype)
    if dtype.startswith("complex"):
        hop = sp.csr_array(sp.diags_array(np.full(98, 0.5j), offsets=1))
        a = sp.csr_array(a + hop + hop.conj().T).astype(dtype)
    start = block(np.random.default_rng(0), (99, columns), dtype)
    fused, bare = Counting(Shifted(a, 0.5)), Counting(Shifted(a, 0.5))
    found = chebyshev_moments(fused, start, count, -2, 12)
    monkeypatch.setenv("SPECDENS_KERNELS", "off")
    expected = chebyshev_moments(bare, start, count, -2, 12)
    assert np.abs(found - expected).max() <= 100 * count * UNIT[dtype]
    assert fused.count == bare.count == columns * (count // 2)


def test_escapes_and_nan_are_noticed(for_small_ones):
    a = sp.csr_array(laplacian(200))
    start = np.ones((200, 2))
    with pytest.raises(EscapeError):
        chebyshev_moments(aslinearoperator(a), start, 200, 0.0, 2.0)
    a.data[5] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        chebyshev_moments(aslinearoperator(a), start, 4, 0.0, 4.0)


def test_results_are_the_same_to_whoever_calls(for_small_ones, monkeypatch):
    a = sp.csr_array(laplacian(20, 20))
    options = {"moments": 60, "probes": 5, "rng": 0, "bounds": (0, 8)}
    with_it = density(a, **options)
    monkeypatch.setenv("SPECDENS_KERNELS", "off")
    without = density(a, **options)
    x = np.linspace(0.1, 7.9, 50)
    np.testing.assert_allclose(with_it(x), without(x), rtol=1e-10, atol=1e-12)


def test_without_numba_the_plain_path_is_taken_with_one_line():
    code = (
        "import sys, logging\n"
        "logging.basicConfig(level=logging.INFO)\n"
        "sys.modules['numba'] = None\n"
        "import scipy.sparse as sp, specdens, numpy as np\n"
        "from specdens.testing import laplacian\n"
        "a = sp.csr_array(laplacian(300, 300))\n"
        "for _ in range(2): specdens.density(a, moments=8, probes=2, rng=0, bounds=(0, 8))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.count("numba is not installed") == 1


def test_small_matrices_load_no_compiled_code():
    code = (
        "import sys, scipy.sparse as sp, specdens\n"
        "from specdens.testing import laplacian\n"
        "specdens.density(sp.csr_array(laplacian(30, 30)), moments=8, probes=2, rng=0)\n"
        "assert 'numba' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env=dict(os.environ))


def test_widths():
    assert [_kernels.padded_width(k) for k in (1, 4, 5, 17, 32, 33)] == [4, 4, 8, 32, 32, None]
    assert logging.getLogger("specdens._kernels").level == logging.NOTSET
