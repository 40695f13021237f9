"""The compiled step against the plain one: any matrix, any type, any number of threads."""

import logging
import os
import subprocess
import sys
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from specdens import aslinearoperator, density
from specdens.arrays import probes as _probes
from specdens.arrays.probes import make_probes, signs
from specdens.estimation.sampling import block_ranges, moments_by_chebyshev
from specdens.kernels import compiled as _kernels
from specdens.operators.algebra import Counting, Scaled, Shifted
from specdens.recurrences.chebyshev_moments import EscapeError, chebyshev_moments
from specdens.recurrences.lanczos import tridiagonalize
from specdens.results import SpectralBounds
from specdens.testing import laplacian
from tests.specdens.matrices import block, random_rows

numba = pytest.importorskip("numba")
csr = pytest.importorskip("specdens.kernels.cpu.csr_step")
update = pytest.importorskip("specdens.kernels.cpu.update")

DTYPES = ["float32", "float64", "complex64", "complex128"]
UNIT = {name: float(np.finfo(name).eps) for name in DTYPES}


def plain(indptr, indices, data, x, y, a, b, c):
    """The step by SciPy, in double precision; the sums of absolute values bound its rounding."""
    n = len(indptr) - 1
    wide = np.complex128 if np.iscomplexobj(data) else np.float64
    matrix = sp.csr_array((data.astype(wide), indices, indptr), shape=(n, n), copy=True)
    new = a * (matrix @ x.astype(wide)) + b * x + c * y
    size = np.abs(a) * (abs(matrix) @ np.abs(x)) + np.abs(b) * np.abs(x) + np.abs(c) * np.abs(y)
    return new, size


COMPILED = [
    ("float64", 4, "int32"), ("float64", 8, "int32"), ("float64", 16, "int32"),
    ("float64", 32, "int32"), ("float64", 8, "int64"), ("float32", 8, "int32"),
    ("float32", 32, "int32"), ("complex64", 4, "int32"), ("complex64", 16, "int64"),
    ("complex128", 4, "int32"), ("complex128", 32, "int32"), ("float64", 10, "int32"),
    ("float32", 20, "int32"), ("complex64", 12, "int32"),
]  # fmt: skip
"""Of all types, widths and indices each one: every combination takes seconds to compile."""


@pytest.mark.parametrize(("dtype", "width", "index"), COMPILED)
@given(n=st.sampled_from([0, 1, 2, 7, 300, csr.CHUNK, csr.CHUNK + 1]), seed=st.integers(0, 999))
@settings(max_examples=15, deadline=None)
def test_the_step_is_the_plain_one(dtype, width, index, n, seed):
    rng = np.random.default_rng(seed)
    a, b, c = rng.standard_normal((3, width)) if seed % 2 else rng.standard_normal(3)
    matrix = random_rows(rng, n, dtype, index, longest=3 * n)
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
@given(
    n=st.sampled_from([0, 1, 7, 8, 9, 300, update.CHUNK, update.CHUNK + 13]),
    width=st.integers(1, 33),
    seed=st.integers(0, 999),
)
@settings(max_examples=25, deadline=None)
def test_the_update_is_the_plain_one(dtype, width, n, seed):
    rng = np.random.default_rng(seed)
    a, b, c = rng.standard_normal((3, width)) if seed % 2 else rng.standard_normal(3)
    product, x, y = (block(rng, (n, width), dtype) for _ in range(3))
    wide = np.result_type(dtype, np.float64)
    expected = a * product.astype(wide) + b * x + c * y
    size = np.abs(a * product) + np.abs(b * x) + np.abs(c * y)
    kept, alone = x.copy(), y[:, :1].copy()
    squares, mixed = update.update_step(product, x, y, a, b, c)
    assert np.array_equal(x, kept)
    assert np.all(np.abs(y - expected) <= 4 * UNIT[dtype] * size)
    norms = (np.abs(y.astype(wide)) ** 2).sum(axis=0)
    np.testing.assert_allclose(squares, norms, rtol=1e-12)
    products = (y.astype(wide).conj() * x.astype(wide)).real.sum(axis=0)
    assert np.all(np.abs(mixed - products) <= 1e-12 * np.abs(y * x).astype(float).sum(axis=0))
    first = [np.asarray(number).reshape(-1)[:1] for number in (a, b, c)]
    one, other = update.update_step(product[:, :1].copy(), x[:, :1].copy(), alone, *first)
    assert np.array_equal(alone, y[:, :1])  # whatever the columns beside
    assert np.array_equal([one, other], [squares[:1], mixed[:1]])


@pytest.mark.parametrize("library", ["numpy", "torch"])
def test_products_of_a_function_take_the_compiled_update(monkeypatch, library):
    xp = pytest.importorskip(library)
    diagonal = np.linspace(-1, 1, 50_000)
    entries = xp.asarray(diagonal)
    op = aslinearoperator(
        lambda x: entries * x, matmat=lambda x: entries[:, None] * x, n=50_000, dtype=xp.float64,
        hermitian=True, like=entries,
    )  # fmt: skip
    calls = []
    step = update.update_step
    monkeypatch.setattr(update, "update_step", lambda *args: calls.append(1) or step(*args))
    _kernels._compiled.cache_clear()
    start = xp.ones((50_000, 7), dtype=xp.float64)
    found = chebyshev_moments(op, start, 20, -1.1, 1.1)
    assert len(calls) == 11
    _kernels._compiled.cache_clear()
    monkeypatch.setenv("SPECDENS_KERNELS", "off")
    np.testing.assert_allclose(found, chebyshev_moments(op, start, 20, -1.1, 1.1), atol=1e-14)


@pytest.mark.parametrize(("dtype", "width", "index"), COMPILED)
def test_nothing_beside_the_block_is_written(dtype, width, index):
    rng = np.random.default_rng(0)
    n, guard = 50, 64
    matrix = random_rows(rng, n, dtype, index, longest=3 * n)
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
    matrix = random_rows(rng, n, "float64", "int32", longest=3 * n)
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


CASES = [("float64", 1), ("float64", 8), ("float64", 33), ("float32", 7), ("complex64", 3),
         ("complex64", 33), ("complex128", 2)]  # fmt: skip


def hermitian(dtype, *shape):
    a = sp.csr_array(laplacian(*shape)).astype(dtype)
    if not dtype.startswith("complex"):
        return a
    hop = sp.csr_array(sp.diags_array(np.full(a.shape[0] - 1, 0.5j), offsets=1))
    return sp.csr_array(a + hop + hop.conj().T).astype(dtype)


@pytest.mark.parametrize(("dtype", "columns"), CASES)
@pytest.mark.parametrize("count", [1, 2, 3, 10, 11])
def test_moments_are_the_same(for_small_ones, monkeypatch, dtype, columns, count):
    a = hermitian(dtype, 9, 11)
    start = block(np.random.default_rng(0), (99, columns), dtype)
    fused, bare = Counting(Shifted(a, 0.5)), Counting(Shifted(a, 0.5))
    found = chebyshev_moments(fused, start, count, -2, 12)
    monkeypatch.setenv("SPECDENS_KERNELS", "off")
    expected = chebyshev_moments(bare, start, count, -2, 12)
    assert np.abs(found - expected).max() <= 100 * count * UNIT[dtype]
    assert fused.count == bare.count == columns * (count // 2)


@pytest.mark.parametrize(("dtype", "columns"), CASES)
def test_tridiagonals_are_the_same(for_small_ones, monkeypatch, dtype, columns):
    a = hermitian(dtype, 25, 30)
    start = block(np.random.default_rng(0), (750, columns), dtype)
    fused, bare = Counting(Shifted(Scaled(a, -2.0), 0.5)), Counting(Shifted(Scaled(a, -2.0), 0.5))
    found = tridiagonalize(fused, start, 12)
    monkeypatch.setenv("SPECDENS_KERNELS", "off")
    expected = tridiagonalize(bare, start, 12)
    for one, other in zip(found, expected, strict=True):
        assert np.abs(one.diagonal - other.diagonal).max() <= 1e4 * UNIT[dtype]
        assert np.abs(one.off_diagonal - other.off_diagonal).max() <= 1e4 * UNIT[dtype]
        assert abs(one.residual - other.residual) <= 1e4 * UNIT[dtype]
    assert fused.count == bare.count == columns * 12


def test_a_column_whose_space_is_exhausted_ends(for_small_ones):
    a = sp.csr_array(sp.diags_array(np.arange(1.0, 751)))
    start = np.tri(3, 750)[:, ::-1].T  # the last one, two, three entries
    start = np.hstack([start, np.random.default_rng(0).standard_normal((750, 1))])
    found = tridiagonalize(aslinearoperator(a), start, 9)
    assert [len(factor.diagonal) for factor in found] == [1, 2, 3, 9]
    assert [factor.residual == 0 for factor in found] == [True, True, True, False]


@pytest.mark.parametrize("size", [1e-200, 1e-100, 1e140, 1e200])
def test_entries_of_any_size(for_small_ones, size):
    a = hermitian("float64", 25, 30)
    start = block(np.random.default_rng(0), (750, 3), "float64")
    found = tridiagonalize(aslinearoperator(a * size), start, 12)
    expected = tridiagonalize(aslinearoperator(a), start, 12)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one.diagonal / size, other.diagonal, rtol=1e-10)
        np.testing.assert_allclose(one.off_diagonal / size, other.off_diagonal, rtol=1e-10)


def test_a_block_that_may_be_overwritten_gives_the_same(for_small_ones):
    op = aslinearoperator(hermitian("float64", 25, 30))
    start = block(np.random.default_rng(0), (750, 8), "float64")
    expected = chebyshev_moments(op, start, 12, -1, 9), tridiagonalize(op, start, 6)
    kept = start.copy()
    assert np.array_equal(
        chebyshev_moments(op, start.copy(), 12, -1, 9, overwrite=True), expected[0]
    )
    found = tridiagonalize(op, start, 6, overwrite=True)
    assert not np.array_equal(start, kept)
    for one, other in zip(found, expected[1], strict=True):
        assert np.array_equal(one.diagonal, other.diagonal)


@pytest.mark.parametrize("count", [1, 3, 10, 20, 33, 100])
def test_widths_do_not_matter_and_are_not_wasted(for_small_ones, count):
    a = hermitian("float64", 25, 30)
    results, bounds = [], SpectralBounds(-1, 9, True, True, "given")
    for memory in (None, 2 * 8 * 750 * 4, 2 * 8 * 750):
        op = aslinearoperator(a, max_memory=memory)
        probes = make_probes(count, 750, 0, xp=op.xp, dtype=op.dtype, where=op.device)
        ranges = block_ranges(op, probes)
        assert [i for part in ranges for i in part] == list(range(count))
        assert memory is None or max(map(len, ranges)) <= memory / (2 * 8 * 750)
        results.append(moments_by_chebyshev(op, probes, 9, bounds).table)
    assert np.array_equal(results[0], results[1])  # of the same code: to the last bit
    np.testing.assert_allclose(results[0], results[2], rtol=0, atol=1e-14)


@pytest.mark.parametrize("count", [8, 16])
@pytest.mark.parametrize("method", ["chebyshev", "lanczos"])
def test_memory_is_two_blocks(method, count):
    a = sp.csr_array(laplacian(400, 400))
    block_bytes = a.shape[0] * 8 * count
    run = partial(density, a, moments=8, probes=count, rng=0, bounds=(0, 8), method=method)
    run()
    tracemalloc.start()
    run()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak <= 2.2 * block_bytes


def test_powers_without_the_square():
    third_and_fourth = _kernels.kernel("cpu.csr_power_traces", "third_and_fourth")
    rng = np.random.default_rng(0)
    a = sp.random_array((300, 300), density=0.02, rng=rng, format="csr")
    for b in (a + a.T, a + a.T + 1j * (a - a.T), sp.csr_array((300, 300))):
        b = sp.csr_array(b)
        b.sort_indices()
        square = (b @ b).toarray()
        found = third_and_fourth(b.indptr, b.indices, b.data)
        expected = (np.trace(square @ b.toarray()).real, np.linalg.norm(square) ** 2)
        np.testing.assert_allclose(found, expected, rtol=1e-12)


@pytest.mark.parametrize("dtype", ["float32", "complex128"])
@given(
    n=st.sampled_from([0, 1, 5, 60]), seed=st.integers(0, 999), apart=st.sampled_from([0, 1e-9, 1])
)
@settings(max_examples=15, deadline=None)
def test_distances_from_the_adjoint_are_those_of_dense_matrices(dtype, n, seed, apart):
    rng = np.random.default_rng(seed)
    a = sp.random_array((n, n), density=0.1, rng=rng, format="csr")
    a = sp.csr_array(a + a.T + apart * sp.random_array((n, n), density=0.05, rng=rng)).astype(dtype)
    if dtype == "complex128":
        a = a + 1j * sp.triu(a, 1) - 1j * sp.triu(a, 1).T
    a = sp.csr_array(sp.diags_array(10.0 ** rng.integers(-9, 9, n)).astype(dtype) @ a)
    a.sum_duplicates()
    compare = _kernels.kernel("cpu.csr_statistics", "distances_from_adjoint")
    distance, share = compare(a.indptr, a.indices, a.data)
    dense = a.toarray()
    apart = np.abs(dense - dense.conj().T)
    largest = np.abs(dense).max(axis=1, initial=0)
    least = np.minimum(largest[:, None], largest[None, :])
    with np.errstate(divide="ignore", invalid="ignore"):
        expected = np.where(apart > 0, apart / least, 0).max(initial=0)
    assert distance == pytest.approx(apart.max(initial=0), rel=1e-6)
    assert share == pytest.approx(expected, rel=1e-6)
    sums = _kernels.kernel("cpu.csr_statistics", "absolute_row_sums")(a.indptr, a.data)
    np.testing.assert_allclose(sums, np.abs(dense).astype(float).sum(axis=1), rtol=1e-6)


def test_a_forked_child_takes_the_plain_path():
    """GNU's OpenMP would end it."""
    code = (
        "import multiprocessing, scipy.sparse as sp, specdens\n"
        "from specdens.testing import laplacian\n"
        "a = sp.csr_array(laplacian(300, 300))\n"
        "def mean(_): return specdens.density(a, moments=8, probes=2, rng=0).moments[2]\n"
        "if __name__ == '__main__':\n"
        "    here = mean(0)\n"
        "    with multiprocessing.get_context('fork').Pool(2) as pool:\n"
        "        assert all(abs(x - here) < 1e-12 for x in pool.map(mean, range(3)))\n"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, timeout=100)


def test_as_many_threads_as_numba_may_use():
    code = (
        "import os, numpy as np, scipy.sparse as sp, specdens, numba\n"
        "from specdens.testing import laplacian\n"
        "a = sp.csr_array(laplacian(300, 300))\n"
        "before = len(os.listdir('/proc/self/task'))\n"
        "specdens.density(a, moments=8, probes=2, rng=0, bounds=(0, 8))\n"
        "assert numba.get_num_threads() == 1\n"
        "assert len(os.listdir('/proc/self/task')) == before\n"
    )
    environment = os.environ | {"NUMBA_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)


def test_threads_of_python_wait_for_each_other(for_small_ones):
    a = hermitian("float64", 25, 30)
    run = partial(density, a, moments=40, rng=0, bounds=(-1, 9), method="chebyshev")
    with ThreadPoolExecutor(4) as pool:
        found = [f.result().moments for f in [pool.submit(run, probes=8) for _ in range(8)]]
    assert all(np.array_equal(one, found[0]) for one in found)


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
    assert logging.getLogger("specdens.kernels.compiled").level == logging.NOTSET


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("n", "columns"), [(0, 1), (1, 1), (127, 3), (1000, 20), (4097, 5)])
def test_signs_have_the_same_bits(monkeypatch, dtype, n, columns):
    home = {"xp": np, "dtype": np.dtype(dtype)}
    numbers, key = range(7, 7 + columns), 2**64 - 12345
    expected = signs(n, numbers, key, **home)
    monkeypatch.setattr(_probes, "LEAST_SIGNS", 0)
    found = signs(n, numbers, key, **home)
    assert found.dtype == expected.dtype
    assert np.array_equal(found, expected)
