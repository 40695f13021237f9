"""Stencils and diagonals: against naive loops and SciPy, on every library, plain and compiled."""

import pickle
import warnings

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import specdens
from specdens import AccuracyWarning, Diagonals, Stencil, aslinearoperator
from specdens.arrays.libraries import to_host
from specdens.operators import sliced as slices
from specdens.operators import sparse
from specdens.operators.diagonals import diagonals_of_dia
from specdens.operators.hermitian import is_known_hermitian
from specdens.problem.bounds import known_bounds
from specdens.recurrences.chebyshev_moments import chebyshev_moments
from specdens.testing import laplacian, laplacian_eigenvalues

DTYPES = ["float32", "float64", "complex64", "complex128"]
SQUARE = {(0, 1): -1.0, (0, -1): -1.0, (1, 0): -1.0, (-1, 0): -1.0, (0, 0): 4.0}
CUBE = {
    **{tuple(s * np.eye(3, dtype=int)[a]): -1.0 for s in (1, -1) for a in range(3)},
    (0, 0, 0): 6.0,
}


def naive(shape, coefficients, periodic, diagonal=None):
    """The matrix of a stencil, site by site."""
    n = int(np.prod(shape))
    a = np.zeros((n, n), dtype=np.result_type(float, *coefficients.values()))
    for site in np.ndindex(*shape):
        row = np.ravel_multi_index(site, shape)
        for offset, value in coefficients.items():
            other = np.add(site, offset)
            other = np.where(periodic, other % shape, other)
            if np.all((other >= 0) & (other < shape)):
                a[row, np.ravel_multi_index(other, shape)] += value
    return a if diagonal is None else a + np.diag(np.ravel(diagonal))


def numbers(rng, shape, dtype):
    real = rng.standard_normal(shape)
    return (real + 1j * rng.standard_normal(shape) if "complex" in dtype else real).astype(dtype)


@st.composite
def stencils(draw, *, hermitian):
    """Arguments of a stencil with offsets beyond its axes and onto themselves, and its array."""
    axes = draw(st.integers(1, 4))
    shape = tuple(draw(st.lists(st.sampled_from([1, 2, 3, 5]), min_size=axes, max_size=axes)))
    periodic = tuple(draw(st.lists(st.booleans(), min_size=axes, max_size=axes)))
    rng = np.random.default_rng(draw(st.integers(0, 999)))
    dtype = draw(st.sampled_from(["float64", "complex128"]))
    values = {
        tuple(rng.integers(-3, 4, axes).tolist()): numbers(rng, (), dtype).item() for _ in range(4)
    }
    if hermitian:
        both = list(values.items())
        both += [(tuple(-x for x in o), np.conj(v).item()) for o, v in values.items()]
        values = {o: sum(v for p, v in both if p == o) for o, _ in both}
    options = {"periodic": periodic}
    if draw(st.booleans()):
        options["diagonal"] = rng.standard_normal(shape)
    return (shape, values), options, naive(shape, values, periodic, options.get("diagonal"))


def is_that(op, a):
    """Check all that an operator says of its entries against an array."""
    rng = np.random.default_rng(0)
    x, y = (numbers(rng, (side, 3), str(a.dtype)) for side in a.shape[::-1])
    size = 1e-12 * (1 + np.abs(a).sum())
    assert np.abs(op @ x - a @ x).max() <= size
    assert np.abs(op.rmatmat(y) - a.conj().T @ y).max() <= size
    assert np.allclose(op.dense(), a, atol=size, rtol=0)
    assert np.allclose(op.csc_on_host().toarray(), a, atol=size, rtol=0)
    assert np.allclose(op.diagonal(), np.diag(a), atol=size, rtol=0)
    assert np.allclose(op.absolute_row_sums(), np.abs(a).sum(axis=1), atol=size, rtol=0)
    assert abs(op.frobenius_norm() - np.linalg.norm(a)) <= size
    assert abs(op.largest - np.abs(a).max(initial=0)) <= size
    if a.shape[0] == a.shape[1]:
        assert abs(op.asymmetry() - np.abs(a - a.conj().T).max(initial=0)) <= size


def spectrum_is_that(op, a):
    """Check what an operator says of its eigenvalues."""
    assert op.equals_adjoint(1e-12)
    exact = np.linalg.eigvalsh(a)
    low, high, *_ = known_bounds(op)
    assert low - 1e-9 <= exact[0]
    assert exact[-1] <= high + 1e-9
    for k, found in enumerate(op.power_traces(), 1):
        assert abs(found - (exact**k).sum()) <= 1e-10 * (1 + np.abs(exact**k).sum())
    return exact


@given(stencils(hermitian=False))
@settings(deadline=None)
def test_a_stencil_is_its_array(case):
    arguments, options, a = case
    is_that(Stencil(*arguments, **options), a)


@given(stencils(hermitian=True))
@settings(deadline=None)
def test_the_spectrum_of_a_hermitian_stencil(case):
    arguments, options, a = case
    op = Stencil(*arguments, **options)
    assert op.hermitian
    exact = spectrum_is_that(op, a)
    if op.circulant:
        assert np.allclose(np.sort(op.symbol(), axis=None), exact)
    if not op.circulant or len(exact) == 0:
        with pytest.raises(ValueError, match="no plane wave"):
            op.symbol()


@given(rows=st.integers(1, 7), columns=st.integers(1, 7), seed=st.integers(0, 999),
       dtype=st.sampled_from(["float64", "complex128"]))  # fmt: skip
@settings(deadline=None)
def test_diagonals_are_those_of_scipy(rows, columns, seed, dtype):
    rng = np.random.default_rng(seed)
    there = np.arange(-rows + 1, columns)
    offsets = rng.permutation(there)[: rng.integers(1, len(there) + 1)].tolist()
    shape = (rows, columns)
    lengths = [min(rows + min(k, 0), columns - max(k, 0)) for k in offsets]
    lines = [numbers(rng, (n if rng.random() < 0.7 else 1,), dtype) for n in lengths]
    a = sp.diags_array(lines, offsets=offsets, shape=shape).toarray()
    is_that(Diagonals(lines, offsets, shape=shape), a)
    is_that(diagonals_of_dia(sp.dia_array(a)), a)


@given(n=st.integers(1, 9), seed=st.integers(0, 999))
@settings(deadline=None)
def test_the_spectrum_of_hermitian_diagonals(n, seed):
    rng = np.random.default_rng(seed)
    offsets = rng.permutation(n)[: rng.integers(1, n + 1)].tolist()
    lines = [numbers(rng, (n - k,), "complex128" if k else "float64") for k in offsets]
    lines += [line.conj() for line, k in zip(lines, offsets, strict=True) if k]
    offsets += [-k for k in offsets if k]
    op = Diagonals(lines, offsets, shape=(n, n))
    spectrum_is_that(op, op.dense())


def test_dia_arrays_that_store_less_or_more_than_their_diagonals():
    data = np.arange(1.0, 13).reshape(3, 4)
    for shape in [(4, 4), (6, 6), (3, 3), (3, 6)]:
        a = sp.dia_array((data, [-1, 0, 2]), shape=shape)
        is_that(diagonals_of_dia(a), a.toarray())
    data[0, 3] = np.nan  # beside the matrix
    assert diagonals_of_dia(sp.dia_array((data, [-1, 0, 2]), shape=(4, 4))).largest == 12


def test_every_library_has_the_same_products(backend):
    rng = np.random.default_rng(0)
    x, potential = rng.standard_normal((30, 2)), rng.uniform(-1, 1, (5, 6))
    a = naive((5, 6), SQUARE, (True, False), potential)
    op = Stencil((5, 6), SQUARE, periodic=(True, False), diagonal=backend(potential))
    assert op.xp is backend.xp
    assert np.allclose(to_host(op @ backend(x)), a @ x)
    assert np.allclose(to_host(op.dense()), a)
    assert abs(float(specdens.logdet(op)) - np.linalg.slogdet(a)[1]) < 1e-10
    ring = Stencil(3000, {1: 1j, -1: -1j, 0: 3.0}, periodic=True, like=backend(x))
    exact = np.linalg.eigvalsh(np.array([[3.0]])) + 2 * np.sin(2 * np.pi * np.arange(3000) / 3000)
    assert abs(float(specdens.logdet(ring)) - np.log(exact).sum()) < 1e-8
    lines = [backend(np.ones(29)), backend(potential.ravel()), 2.0]
    b = sp.diags_array([np.ones(29), potential.ravel(), [2.0]], offsets=[1, 0, -3], shape=(30, 30))
    op = Diagonals(lines, [1, 0, -3], shape=(30, 30))
    assert np.allclose(to_host(op @ backend(x)), b @ x)
    assert np.allclose(to_host(op.rmatmat(backend(x))), b.T @ x)


# --- The compiled step ---------------------------------------------------------------------------


@pytest.fixture
def for_small_ones(monkeypatch):
    """Compiled code for matrices of any size."""
    pytest.importorskip("numba")
    monkeypatch.setattr(slices, "LEAST_ENTRIES", 0)
    monkeypatch.delenv("SPECDENS_KERNELS", raising=False)


COMPILED = [("float64", 4), ("float32", 8), ("complex128", 4), ("complex64", 8), ("float64", 32)]
"""Each takes seconds to compile, once on a machine."""


def cases(dtype):
    """Matrices of many shapes, with more rows than go into a chunk among them."""
    rng = np.random.default_rng(0)
    turn = np.exp(0.3j) if dtype.startswith("complex") else 1.0
    hop = {(0, 1): turn, (0, -1): np.conj(turn), (2, 0): 0.5, (-2, 0): 0.5, (1, 1): -0.25}
    for shape in [(1, 1), (2, 3), (5, 1), (7, 6), (3, 2100)]:
        for periodic in [False, True, (True, False)]:
            yield Stencil(shape, hop, periodic=periodic, dtype=dtype)
            yield Stencil(shape, hop, periodic=periodic, diagonal=numbers(rng, shape, dtype))
    yield Stencil((4, 3, 2, 5), {(1, 0, -1, 0): 1.0, (0, 2, 0, 3): 2.0}, periodic=True, dtype=dtype)
    for n in (1, 2, 50, 2049):
        lines = [numbers(rng, (n,), dtype), numbers(rng, (max(0, n - 1),), dtype)]
        yield Diagonals(lines[: 1 + (n > 1)], [0, 1][: 1 + (n > 1)], shape=(n, n))
    yield Diagonals(
        [numbers(rng, (1,), dtype), numbers(rng, (20,), dtype)], [-49, 30], shape=(50, 50)
    )


@pytest.mark.parametrize(("dtype", "width"), COMPILED)
def test_the_step_is_the_plain_one(for_small_ones, dtype, width):
    rng, unit = np.random.default_rng(1), float(np.finfo(dtype).eps)
    for op in cases(dtype):
        n = op.shape[0]
        x, y = (numbers(rng, (n, width), dtype) for _ in range(2))
        a, b, c = rng.standard_normal((3, width))
        expected = a * op._sliced(x, adjoint=False) + b * x + c * y
        before = x.copy(), op.entries.copy()
        squares, mixed = op.recurrence(width)(x, y, a, b, c)
        size = 1 + float(np.max(op.absolute_row_sums(), initial=0))
        assert np.abs(y - expected).max() <= 100 * unit * size
        wide = y.astype(complex)
        assert np.allclose(squares, (np.abs(wide) ** 2).sum(axis=0), rtol=1e-12)
        assert np.allclose(mixed, (wide.conj() * x).real.sum(axis=0), rtol=1e-10, atol=1e-10 * n)
        assert np.array_equal(x, before[0])
        assert np.array_equal(op.entries, before[1])


def test_without_a_product_the_matrix_is_not_read(for_small_ones):
    op = Stencil((5, 9), SQUARE, diagonal=np.full(45, np.nan))
    x, y = np.ones((45, 4)), np.ones((45, 4))
    squares, mixed = op.recurrence(4)(x, y, 0.0, 2.0, -0.5)
    assert np.array_equal(y, np.full((45, 4), 1.5))
    assert np.array_equal(squares, np.full(4, 45 * 2.25))
    assert np.array_equal(mixed, np.full(4, 45 * 1.5))


def test_the_bits_depend_on_neither_threads_nor_width(for_small_ones):
    import numba

    op = Stencil((30, 20, 11), CUBE, diagonal=np.linspace(0, 1, 6600))
    x = np.random.default_rng(0).standard_normal((6600, 32))
    found, most = [], numba.config.NUMBA_NUM_THREADS
    try:
        for width, threads in [(32, 1), (32, most), (4, most)]:
            numba.set_num_threads(threads)
            y = np.ones((6600, width))
            dots = op.recurrence(width)(x[:, :width].copy(), y, 0.3, -0.2, -1.0)
            found.append([part[..., :4] for part in (*dots, y)])
    finally:
        numba.set_num_threads(most)
    for parts in zip(*found, strict=True):
        assert all(np.array_equal(parts[0], part) for part in parts)


def test_the_bits_are_those_of_a_csr_matrix(for_small_ones, monkeypatch):
    monkeypatch.setattr(sparse, "LEAST_ENTRIES", 0)
    for periodic in (False, True):
        op = Stencil((9, 20, 31), CUBE, periodic=periodic)
        csr = aslinearoperator(sp.csr_array(op.csc_on_host()))
        x = np.random.default_rng(0).standard_normal((op.shape[0], 4))
        found = []
        for one in (op, csr):
            y = np.ones_like(x)
            found.append((*one.recurrence(4)(x, y, 0.3, -0.2, -1.0), y))
        for ours, theirs in zip(*found, strict=True):
            assert np.array_equal(ours, theirs)


@pytest.mark.parametrize("width", [4, 32])
def test_nothing_beside_the_block_is_written_or_used(for_small_ones, width):
    op = Stencil((5, 9), SQUARE, periodic=(False, True))
    n, guard = 45, 64
    around = [np.full(2 * guard + n * width, np.nan) for _ in range(2)]
    x, y = (part[guard : guard + n * width].reshape(n, width) for part in around)
    x[:], y[:] = 1.0, 0.0
    op.recurrence(width)(x, y, 1.0, 0.0, 0.0)
    assert np.array_equal(y[:, 0], op.dense() @ np.ones(n))
    assert all(np.isnan(part[:guard]).all() and np.isnan(part[-guard:]).all() for part in around)


def test_nan_reaches_the_neighbours_alone(for_small_ones, monkeypatch):
    op = Stencil((5, 9), SQUARE)
    x = np.ones((45, 4))
    x[20] = np.nan
    touched = op.dense()[:, 20] != 0
    assert np.array_equal(np.isnan(op @ x).any(axis=1), touched)
    monkeypatch.setenv("SPECDENS_KERNELS", "off")
    assert np.array_equal(np.isnan(op @ x).any(axis=1), touched)


@pytest.mark.parametrize("home", [np, torch], ids=["numpy", "torch"])
@pytest.mark.parametrize("count", [1, 3, 33])
def test_products_and_moments_are_the_plain_ones(for_small_ones, monkeypatch, home, count):
    op = Stencil((9, 11), SQUARE, like=home.empty(0, dtype=home.float64))
    assert op.recurrence(4) is not None
    start = op.xp.asarray(np.random.default_rng(0).standard_normal((99, count)))
    product = to_host(op @ start)
    moments = chebyshev_moments(op, start, 12, 0.0, 8.0)
    monkeypatch.setenv("SPECDENS_KERNELS", "off")
    assert op.recurrence(4) is None
    assert np.allclose(product, to_host(op @ start), rtol=0, atol=1e-13)
    assert np.allclose(moments, chebyshev_moments(op, start, 12, 0.0, 8.0), rtol=0, atol=1e-12)


# --- Through the public functions ----------------------------------------------------------------


@pytest.mark.parametrize("make", ["stencil", "diagonals"])
def test_public_functions_see_the_matrix(make):
    csr = laplacian(50, 60)
    op = Stencil((50, 60), SQUARE)
    if make == "diagonals":
        dia = sp.dia_array(csr)
        op = diagonals_of_dia(dia)
    exact = np.log(laplacian_eigenvalues(50, 60)).sum()
    assert abs(specdens.logdet(op) - exact) < 1e-9 * abs(exact)
    assert abs(specdens.trace(op) - 4 * 3000) < 1e-9
    assert np.allclose(specdens.diagonal(op), 4.0)
    options = {"moments": 40, "probes": 4, "rng": 0}
    x = np.linspace(0.1, 7.9, 20)
    of_csr, of_op = (specdens.density(m, bounds=(0, 8), **options)(x) for m in (csr, op))
    assert np.allclose(of_csr, of_op, rtol=1e-9)
    of_csr, of_op = (specdens.trace_function(m, np.cosh, **options) for m in (csr, op))
    assert abs(of_csr - of_op) < 1e-8 * abs(of_csr)
    assert specdens.eigencount(op, 0, 4.05) == np.sum(laplacian_eigenvalues(50, 60) <= 4.05)
    assert specdens.inertia(op, shift=-4.05) == specdens.inertia(csr, shift=-4.05)
    _, determinant = specdens.inv_quad_logdet(op, np.ones(3000))
    assert abs(determinant - exact) < 1e-9 * abs(exact)
    moved = np.log(laplacian_eigenvalues(50, 60) + 1).sum()
    for b in (sp.eye_array(3000, format="csr"), Stencil((50, 60), {(0, 0): 1.0})):
        assert specdens.logdet(op, B=b) == pytest.approx(exact)
        assert specdens.logdet(op, B=b, shift=1.0) == pytest.approx(moved)


def test_periodic_lattices_are_exact_at_any_size():
    shape = (40, 50, 30)
    op = Stencil(shape, CUBE | {(0, 0, 0): 7.0}, periodic=True)
    exact = laplacian_eigenvalues(*shape, boundary="periodic") + 1
    value, info = specdens.logdet(op, return_info=True)
    assert info.method == "exact"
    assert info.matvecs == 0
    assert abs(value - np.log(exact).sum()) < 1e-9 * value
    assert abs(specdens.logdet(op, shift=1.0) - np.log(exact + 1).sum()) < 1e-9 * value
    assert abs(specdens.trace_function(op, "inv") - (1 / exact).sum()) < 1e-7
    assert specdens.inertia(op, shift=-4.03) == (np.sum(exact > 4.03), np.sum(exact < 4.03), 0)
    assert specdens.eigencount(op, 0, 4.03) == np.sum(exact < 4.03)
    assert specdens.density(op, moments=20).method == "exact"
    found = np.sort(np.abs(np.ravel(Stencil(300, {1: 1.0, 3: 2.0}, periodic=True).symbol())))
    dense = Stencil(300, {1: 1.0, 3: 2.0}, periodic=True).dense()
    assert np.allclose(found, np.linalg.svd(dense, compute_uv=False)[::-1])
    with pytest.warns(AccuracyWarning, match="singular"):
        assert specdens.logdet(Stencil(5000, {1: 1.0, -1: 1.0, 0: -2.0}, periodic=True)) == -np.inf


def test_the_laplacian_of_the_testing_module():
    for boundary, periodic in [("dirichlet", False), ("periodic", True)]:
        a = laplacian(4, 1, 2, boundary=boundary).toarray()
        assert np.array_equal(Stencil((4, 1, 2), CUBE, periodic=periodic).dense(), a)


def test_nothing_of_the_size_of_the_matrix_is_made():
    op = Stencil((10**4, 10**4, 10), CUBE)
    assert tuple(known_bounds(op)) == (0, 12)
    assert len(op.power_traces()) == 4
    assert is_known_hermitian(op)
    assert op.entries.shape == (7,)
    assert op.csc_on_host() is None


def test_operators_are_pickled():
    for op in [
        Stencil((4, 5), SQUARE, diagonal=np.arange(20.0)),
        Diagonals([1.0, np.arange(3.0)], [0, 1], shape=(4, 4)),
        aslinearoperator(torch.eye(4)),
    ]:
        again = pickle.loads(pickle.dumps(op))
        assert again.xp is op.xp
        assert np.array_equal(to_host(again.dense()), to_host(op.dense()))


def test_gradients_with_respect_to_the_shift():
    shift = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    op = Stencil((6, 7), SQUARE, diagonal=torch.linspace(0, 1, 42, dtype=torch.float64))
    specdens.logdet(op, shift=shift).backward()
    exact = np.trace(np.linalg.inv(op.dense().numpy() + 0.5 * np.eye(42)))
    assert abs(shift.grad.item() - exact) < 1e-10


def test_a_stencil_that_is_not_hermitian():
    op = Stencil(6, {1: 2.0, 0: 3.0}, dtype=np.float64)
    assert not op.hermitian
    assert abs(specdens.logdet(op) - 6 * np.log(3)) < 1e-12
    with pytest.raises(ValueError, match="not Hermitian"):
        specdens.density(op)
    with pytest.raises(ValueError, match="hermitian=True"):
        specdens.logdet(op, hermitian=True)


def test_precision_is_that_asked_for():
    assert Stencil(3, {0: 1}).dtype == np.float64
    assert Stencil(3, {0: 1j}).dtype == np.complex128
    assert Stencil(3, {0: 1}, dtype="float32").dtype == np.float32
    assert Stencil(3, {0: 1j}, diagonal=np.zeros(3, np.float32)).dtype == np.complex64
    assert Stencil(3, {0: 1}, diagonal=[1, 2, 3]).dtype == np.float64
    assert Stencil(3, {0: 1}, dtype=torch.float32).xp is aslinearoperator(torch.eye(2)).xp
    assert Diagonals([1], shape=(2, 2)).result_dtype == np.float64


@pytest.mark.parametrize(
    ("make", "kind", "message"),
    [
        (lambda: Stencil((), {}), ValueError, "at least one axis"),
        (lambda: Stencil((2, 0), {}), ValueError, "at least one site"),
        (lambda: Stencil(2.0, {}), TypeError, "an integer for each axis"),
        (lambda: Stencil((2, 2), {1: 1.0}), ValueError, "has 2 axes"),
        (lambda: Stencil(2, {0.5: 1.0}), TypeError, "expected 1 integers"),
        (lambda: Stencil(2, {1: np.nan}), ValueError, "finite"),
        (lambda: Stencil(2, {1: "a"}), TypeError, "a coefficient"),
        (lambda: Stencil(2, {1: 1j}, dtype=float), ValueError, "complex"),
        (lambda: Stencil(2, {}, diagonal=[1.0]), ValueError, r"expected \(2,\)"),
        (lambda: Stencil(2, {}, periodic=(True, False)), ValueError, "each of 1 axes"),
        (lambda: Diagonals([], []), ValueError, "0 diagonals"),
        (lambda: Diagonals([1.0, 2.0], [0]), ValueError, "2 diagonals and 1 offsets"),
        (lambda: Diagonals([1.0, 2.0], [1, 1], shape=(3, 3)), ValueError, "different ones"),
        (lambda: Diagonals([[1.0, 2.0]], [1], shape=(2, 2)), ValueError, "has 2 entries"),
        (lambda: Diagonals([1.0], [5], shape=(2, 2)), ValueError, "outside a matrix"),
        (lambda: Diagonals([[[1.0]]], [0]), ValueError, "one dimension"),
        (lambda: Diagonals([1.0], [0.5]), TypeError, "an integer"),
    ],
)
def test_errors_say_what_is_wrong(make, kind, message):
    with pytest.raises(kind, match=message):
        make()


def test_values_that_are_not_finite_are_refused():
    with pytest.raises(ValueError, match="NaN or infinity"):
        specdens.logdet(Stencil(3, {0: 1.0}, diagonal=[1.0, np.nan, 2.0]))
    with pytest.raises(ValueError, match="NaN or infinity"):
        specdens.trace(Diagonals([1.0, np.inf]))


def test_large_dia_arrays_keep_their_diagonals():
    a = sp.dia_array(laplacian(300, 300))
    assert isinstance(aslinearoperator(a), Diagonals)
    for other in (sp.dia_array(laplacian(5, 5)), a.astype(np.float32)):
        assert not isinstance(aslinearoperator(other), Diagonals)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = specdens.density(a, moments=16, probes=2, rng=0, bounds=(0, 8))
    expected = specdens.density(laplacian(300, 300), moments=16, probes=2, rng=0, bounds=(0, 8))
    assert np.allclose(found.moments, expected.moments, atol=1e-12)
