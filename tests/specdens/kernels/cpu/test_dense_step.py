"""Dense symmetric matrices: compiled step and statistics against the plain ones."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from specdens import aslinearoperator, density, logdet, trace_function
from specdens.arrays.libraries import cholesky_diagonal
from specdens.arrays.probes import make_probes
from specdens.estimation.sampling import block_ranges
from specdens.operators import dense
from specdens.operators.algebra import Counting, Scaled, Shifted
from specdens.operators.hermitian import asymmetry_tolerance
from specdens.recurrences.chebyshev_moments import chebyshev_moments
from specdens.recurrences.lanczos import tridiagonalize
from specdens.testing import with_spectrum

numba = pytest.importorskip("numba")
symmetric = pytest.importorskip("specdens.kernels.cpu.dense_step")
entries = pytest.importorskip("specdens.kernels.cpu.dense_statistics")

UNIT = {name: float(np.finfo(name).eps) for name in ("float32", "float64")}
COMPILED = [("float64", 8), ("float64", 24), ("float64", 32), ("float32", 32)]
"""One, three and four vectors: every combination takes seconds to compile."""

SIZES = [0, 1, 2, 7, 65, 128, 300]


def random_symmetric(rng, n, dtype):
    a = rng.standard_normal((n, n))
    return (a + a.T).astype(dtype)


@pytest.fixture
def for_small_ones(monkeypatch):
    """Compiled code for matrices of any size."""
    monkeypatch.setattr(dense, "LEAST_ENTRIES", 0)
    monkeypatch.delenv("SPECDENS_KERNELS", raising=False)


@pytest.mark.parametrize(("dtype", "width"), COMPILED)
@given(n=st.sampled_from(SIZES), seed=st.integers(0, 999))
@settings(max_examples=15, deadline=None)
def test_the_step_is_the_plain_one(dtype, width, n, seed):
    rng = np.random.default_rng(seed)
    a, b, c = rng.standard_normal((3, width)) if seed % 2 else rng.standard_normal(3)
    a = 0.0 if seed % 5 == 0 else a
    matrix = random_symmetric(rng, n, dtype)
    x, y = rng.standard_normal((2, n, width)).astype(dtype)
    wide, old = matrix.astype(float), y.astype(float)
    expected = a * (wide @ x) + b * x + c * old
    size = np.abs(a) * (abs(wide) @ abs(x)) + np.abs(b) * abs(x) + np.abs(c) * abs(old)
    before = matrix.copy(), x.copy()
    squares, mixed = symmetric.dense_step(matrix, x, y, a, b, c)
    assert np.all(np.abs(y - expected) <= (20 + n) * UNIT[dtype] * size)
    new = y.astype(float)
    assert np.all(np.abs(squares - (new**2).sum(axis=0)) <= 1e-13 * (new**2).sum(axis=0))
    assert np.all(np.abs(mixed - (new * x).sum(axis=0)) <= 1e-13 * abs(new * x).sum(axis=0))
    assert np.array_equal(matrix, before[0])
    assert np.array_equal(x, before[1])


@pytest.mark.parametrize(("dtype", "width"), COMPILED)
def test_the_bits_depend_on_nothing_beside(monkeypatch, dtype, width):
    rng, n = np.random.default_rng(1), 5 * symmetric.CHUNK + 5
    monkeypatch.setattr(symmetric, "ALONE", 0)
    matrix = random_symmetric(rng, n, dtype)
    x, y = rng.standard_normal((2, n, width)).astype(dtype)
    most, found = numba.get_num_threads(), []
    try:
        for threads, portion in ((1, 2**18), (most, 2**18), (most, 2**12)):
            numba.set_num_threads(threads)
            monkeypatch.setattr(symmetric, "PORTION", portion)
            new = y.copy()
            found.append((*symmetric.dense_step(matrix, x, new, 0.3, -0.2, -1.0), new))
            assert numba.get_num_threads() == threads
    finally:
        numba.set_num_threads(most)
    if dtype == "float64":  # nor on other columns
        new = np.ascontiguousarray(y[:, :8])
        dots = symmetric.dense_step(matrix, x[:, :8].copy(), new, 0.3, -0.2, -1.0)
        assert all(np.array_equal(one, other[..., :8])
                   for one, other in zip((*dots, new), found[0], strict=True))  # fmt: skip
    for other in found[1:]:
        assert all(np.array_equal(*pair) for pair in zip(found[0], other, strict=True))


@pytest.mark.parametrize(("dtype", "width"), COMPILED)
def test_nothing_beside_the_block_is_written(dtype, width):
    rng, n, guard = np.random.default_rng(0), 61, 64
    around = rng.standard_normal(guard + n * width + guard).astype(dtype)
    y, before = around[guard : guard + n * width].reshape(n, width), around.copy()
    x = rng.standard_normal((n, width)).astype(dtype)
    symmetric.dense_step(random_symmetric(rng, n, dtype), x, y, 0.5, 0.25, -1.0)
    assert np.array_equal(around[:guard], before[:guard])
    assert np.array_equal(around[-guard:], before[-guard:])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@given(n=st.sampled_from(SIZES[1:]), seed=st.integers(0, 999))
@settings(max_examples=20, deadline=None)
def test_the_entries_are_those_of_numpy(dtype, n, seed):
    rng = np.random.default_rng(seed)
    graded = np.exp(rng.uniform(-20, 20, n)) if seed % 2 else np.ones(n)
    a = (random_symmetric(rng, n, dtype) * np.outer(graded, graded)).astype(dtype)
    i, j = rng.integers(n, size=2)
    a[i, j] *= 1 + 10.0 ** -(seed % 9)
    largest, sums, squares, deviation = entries.entry_statistics(a)
    wide = a.astype(float)
    assert np.array_equal(largest, abs(wide).max(axis=1))
    np.testing.assert_allclose(sums, abs(wide).sum(axis=1), rtol=1e-13)
    np.testing.assert_allclose(squares, (wide**2).sum(), rtol=1e-13)
    assert deviation == abs(wide - wide.T).max()


def test_statistics_do_not_depend_on_threads(monkeypatch):
    a = random_symmetric(np.random.default_rng(0), 700, "float64")
    alone = entries.entry_statistics(a)
    monkeypatch.setattr(entries, "ALONE", 0)
    for one, many in zip(alone, entries.entry_statistics(a), strict=True):
        assert np.array_equal(one, many)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("value", [np.nan, -np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [(0, 0), (33, 2), (64, 64), (1, 64)])
def test_what_is_not_finite_is_seen(for_small_ones, dtype, value, place):
    a = np.eye(65, dtype=dtype)
    a[place] = value
    largest = entries.entry_statistics(a)[0]
    assert np.array_equal(np.flatnonzero(~np.isfinite(largest)), [place[0]])
    assert np.isnan(largest[place[0]]) == np.isnan(value)
    with pytest.raises(ValueError, match="NaN or infinity"):
        logdet(a, method="lanczos", rng=0)


FACTS = [
    "symmetric", "by columns", "rounded", "graded", "asymmetric", "asymmetric by columns", "huge",
    "tiny", "zero",
]  # fmt: skip


def matrix_of(kind, dtype):
    rng, n = np.random.default_rng(3), 70
    a = random_symmetric(rng, n, dtype)
    if kind == "by columns":
        return np.asfortranarray(a)
    if kind == "rounded":
        a[np.triu_indices(n)] *= 1 + 2 * UNIT[dtype]
    if kind == "graded":
        scale = np.logspace(0, -9, n)
        a = (a * np.outer(scale, scale)).astype(dtype)
        a[-1, -2] *= 1.5
    if kind.startswith("asymmetric"):
        a[3, 50] += 1
    if kind in {"huge", "tiny"}:
        a = a * a.dtype.type(np.finfo(dtype).max / 100 if kind == "huge" else 1e-37)
        a = a if dtype == "float32" or kind == "huge" else a * 1e-140
    if kind == "zero":
        a[:] = 0
    return np.asfortranarray(a) if kind.endswith("columns") else a


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kind", FACTS)
def test_an_operator_knows_the_same(for_small_ones, monkeypatch, dtype, kind):
    a = matrix_of(kind, dtype)
    compiled, bare = aslinearoperator(a), aslinearoperator(a)
    limit = asymmetry_tolerance(UNIT[dtype], len(a))

    def facts(op):
        return op.largest, op.asymmetry(), op.equals_adjoint(limit), op.frobenius_norm(), (
            op.absolute_row_sums()
        )  # fmt: skip

    found = facts(compiled)
    assert compiled._statistics is not None or kind == "asymmetric by columns"
    monkeypatch.setenv("SPECDENS_KERNELS", "off")
    expected = facts(bare)
    assert bare._statistics is None
    assert found[0] == expected[0]
    assert found[1:3] == expected[1:3]
    np.testing.assert_allclose(found[3], expected[3], rtol=1e-12)
    np.testing.assert_allclose(found[4], expected[4], rtol=1e-12)


@pytest.mark.parametrize(("dtype", "columns"), [("float64", 20), ("float64", 3), ("float32", 20)])
def test_recurrences_are_the_same(for_small_ones, monkeypatch, dtype, columns):
    rng = np.random.default_rng(0)
    a = with_spectrum(np.geomspace(0.01, 1, 530), rng=0).astype(dtype)
    start = rng.standard_normal((len(a), columns)).astype(dtype)

    def run():
        op = Counting(Shifted(Scaled(a, -2.0), 0.5))
        assert op.widths == aslinearoperator(a).widths
        factors = tridiagonalize(op, start, 8)
        moments = chebyshev_moments(op, start, 15, -1.6, 0.6)
        table = np.array([[*t.diagonal, *t.off_diagonal, t.residual] for t in factors])
        return table, moments, op.count

    found = run()
    monkeypatch.setenv("SPECDENS_KERNELS", "off")
    expected = run()
    assert np.abs(found[0] - expected[0]).max() <= 1e4 * UNIT[dtype]
    assert np.abs(found[1] - expected[1]).max() <= 1e3 * UNIT[dtype]
    assert found[2] == expected[2] == columns * (8 + 7)


@pytest.mark.parametrize("order", ["C", "F"])
def test_results_are_the_same_to_whoever_calls(for_small_ones, monkeypatch, order):
    a = np.array(with_spectrum(np.geomspace(0.3, 1, 530), rng=0), order=order)

    def run():
        sampled = {"moments": 24, "probes": 20, "rng": 0}
        return (
            logdet(a, method="lanczos", **sampled),
            logdet(a, method="chebyshev", bounds=(0.25, 1.1), **sampled),
            trace_function(a, "sqrt", method="lanczos", **sampled),
            density(a, **sampled).moments[5],
            logdet(a),
        )

    found = run()
    monkeypatch.setenv("SPECDENS_KERNELS", "off")
    np.testing.assert_allclose(found, run(), rtol=1e-10)
    np.testing.assert_allclose(found[-1], np.log(np.geomspace(0.3, 1, 530)).sum(), rtol=1e-10)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("count", [1, 5, 20, 32, 33, 50, 65])
def test_a_matrix_is_read_as_seldom_as_can_be(for_small_ones, dtype, count):
    op = aslinearoperator(np.eye(70, dtype=dtype))
    probes = make_probes(count, 70, 0, xp=op.xp, dtype=op.dtype, where=op.device)
    ranges = block_ranges(op, probes)
    assert [i for part in ranges for i in part] == list(range(count))
    assert len(ranges) == -(-count // 32)


def test_only_what_it_is_for_is_compiled(for_small_ones):
    a = np.eye(10)
    assert aslinearoperator(a).recurrence(8) is not None
    assert aslinearoperator(np.eye(20)[::2, ::2]).recurrence(8) is None
    assert aslinearoperator(a + 0j).recurrence(8) is None
    assert aslinearoperator(a[:5]).recurrence(8) is None
    assert aslinearoperator(np.zeros((0, 0))).recurrence(8) is None


@pytest.mark.parametrize("dtype", ["float64", "complex128"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_the_diagonal_of_a_cholesky_factor(dtype, order):
    rng = np.random.default_rng(0)
    a = rng.standard_normal((30, 30)) + (1j * rng.standard_normal((30, 30)) if "c" in dtype else 0)
    a = np.array(a @ a.conj().T + np.eye(30), dtype=dtype, order=order)
    before = a.copy()
    found = cholesky_diagonal(a)
    np.testing.assert_allclose(found, np.diag(np.linalg.cholesky(a)).real, rtol=1e-12)
    assert np.array_equal(a, before)
    a[20, 20] = -1
    assert cholesky_diagonal(a) is None
    a[20, 20] = np.nan
    assert cholesky_diagonal(a) is None
