"""f(A) B against all eigenvectors, by every method; what is wrong with B, f and the bounds."""

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given
from hypothesis import strategies as st

from specdens import AccuracyWarning, Gram, apply_function, aslinearoperator
from specdens.arrays.libraries import to_host
from specdens.testing import laplacian, rotated, with_spectrum
from tests.specdens import naive

METHODS = ["exact", "lanczos", "chebyshev"]
F = naive.FUNCTIONS
EIGENVALUES = np.linspace(0.4, 3, 14)
RNG = np.random.default_rng(8)


@pytest.fixture(autouse=True)
def the_same_numbers_in_any_order(monkeypatch):
    monkeypatch.setitem(globals(), "RNG", np.random.default_rng(8))


B = RNG.standard_normal((14, 3))


@pytest.mark.parametrize("how", METHODS)
@pytest.mark.parametrize("name", F)
@pytest.mark.parametrize("dtype", ["float64", "complex128"])
def test_every_method_agrees(backend, how, name, dtype):
    a = with_spectrum(EIGENVALUES, rng=1, dtype=np.dtype(dtype))
    for f in (name, F[name]):
        found, info = apply_function(
            backend(a), f, backend(B), method=how, bounds=(0.4, 3.0), return_info=True
        )
        off = np.linalg.norm(to_host(found) - naive.function_times(a, F[name], B), axis=0)
        assert np.all(off <= info.error + 1e-13)
        assert np.all(off < 1e-6)
        assert info.converged
        assert info.method == how
        assert str(found.dtype).endswith(dtype)
    one = apply_function(backend(a), name, backend(B[:, 0]), method=how, bounds=(0.4, 3.0))
    assert np.allclose(
        to_host(one), naive.function_times(a, F[name], B[:, 0]), rtol=1e-6, atol=1e-6
    )
    assert one.shape == (14,)


@pytest.mark.parametrize("how", METHODS)
def test_precision_follows_the_matrix(backend, how):
    a = with_spectrum(EIGENVALUES, rng=1)
    options = {"method": how, "bounds": (0.4, 3.0)}
    for b in (B, B + 1j * B):
        found = apply_function(backend(a, "float32"), "sqrt", backend(b), **options)
        assert str(found.dtype).endswith("complex64" if np.iscomplexobj(b) else "float32")
        assert np.allclose(
            to_host(found), naive.function_times(a, np.sqrt, b), rtol=1e-3, atol=1e-3
        )
    found = apply_function(backend(np.eye(3), "int64"), "exp", backend(np.ones(3)), **options)
    assert str(found.dtype).endswith("float64")
    assert np.allclose(to_host(found), np.e)


@pytest.mark.parametrize("how", METHODS)
def test_an_operator_and_its_cost(how):
    x = np.linspace(1.0, 2.0, 600)
    b = RNG.standard_normal((600, 40))
    found, info = apply_function(rotated(x), "inv", b, method=how, return_info=True)
    assert np.allclose(found, rotated(1 / x) @ b, atol=1e-5)
    assert info.matvecs == {"exact": 600, "lanczos": 40 * info.steps}.get(how, info.matvecs)
    assert info.matvecs <= 40 * info.steps + 20 or how == "exact"


@given(
    shift=st.floats(-2, 2), scale=st.floats(0.1, 3), seed=st.integers(0, 99), n=st.integers(1, 12)
)
def test_shifts_and_inverse_functions(shift, scale, seed, n):
    rng = np.random.default_rng(seed)
    a = with_spectrum(rng.uniform(0.5, 2, n), rng=seed)
    b = rng.standard_normal(n)
    for how in METHODS:
        options = {"method": how, "bounds": (0.49, 2.01), "rtol": 1e-10}
        exponential = apply_function(a, "exp", b, shift=shift, **options)
        assert np.allclose(exponential, np.exp(shift) * apply_function(a, "exp", b, **options))
        root = apply_function(a, "sqrt", b, **options)
        assert np.allclose(apply_function(a, "sqrt", root, **options), a @ b)
        scaled = apply_function(a, lambda x: np.cos(scale * x), b, **options)
        assert np.allclose(scaled, naive.function_times(a, lambda x: np.cos(scale * x), b))


@pytest.mark.parametrize("how", METHODS)
def test_zeros_and_empty_blocks(backend, how, quiet):
    a = backend(with_spectrum(EIGENVALUES, rng=1))
    options = {"method": how, "bounds": (0.4, 3.0)}
    assert np.all(to_host(apply_function(a, "log", backend(np.zeros(14)), **options)) == 0)
    assert apply_function(a, "log", backend(np.zeros((14, 0))), **options).shape == (14, 0)
    empty = backend(np.zeros((0, 0)))
    assert apply_function(empty, "log", backend(np.zeros((0, 2))), method=how).shape == (0, 2)
    one = apply_function(backend(np.full((1, 1), 4.0)), "sqrt", backend(np.ones(1)), method=how)
    assert to_host(one)[0] == pytest.approx(2.0)
    same = apply_function(backend(4 * np.eye(5)), "log", backend(np.ones(5)), method=how)
    assert np.allclose(to_host(same), np.log(4))


@pytest.mark.parametrize("how", ["lanczos", "chebyshev"])
def test_too_few_steps_are_said(how):
    op = laplacian(24, 24)
    b = RNG.standard_normal(576)
    with pytest.warns(AccuracyWarning, match="Raise steps"):
        _, info = apply_function(
            op, "log", b, steps=12, method=how, bounds=(1e-3, 8.0), return_info=True
        )
    assert not info.converged
    assert info.steps == 12
    exact = apply_function(op, "log", b, method="exact")
    with pytest.warns(AccuracyWarning):
        found = apply_function(op, "log", b, steps=12, method=how, bounds=(1e-3, 8.0))
    assert np.linalg.norm(found - exact) <= info.error[0]


def test_a_gram_matrix_has_rigorous_errors():
    factor = RNG.standard_normal((50, 700))
    op = Gram(factor, shift=1.0)
    b = RNG.standard_normal(700)
    found, info = apply_function(op, "inv", b, return_info=True)
    assert info.rigorous
    assert np.linalg.norm(op @ found - b) < 1e-4
    assert info.error[0] < 1e-6


@pytest.mark.parametrize("how", ["lanczos", "chebyshev"])
def test_wrong_bounds_are_said(how):
    a = with_spectrum(EIGENVALUES, rng=1)
    with pytest.warns(AccuracyWarning, match="not inside the bounds"):
        found = apply_function(a, "exp", B, method=how, bounds=(0.4, 2.0))
    assert np.allclose(found, naive.function_times(a, np.exp, B), atol=1e-6)


@pytest.mark.parametrize("how", METHODS)
@pytest.mark.parametrize("name", ["log", "sqrt", "xlogx"])
def test_undefined(backend, how, name):
    with pytest.raises(ValueError, match="negative eigenvalue"):
        apply_function(backend(with_spectrum(EIGENVALUES - 1, rng=1)), name, backend(B), method=how)


@pytest.mark.parametrize("how", ["exact", "lanczos"])
def test_poles(backend, how, quiet):
    a = np.diag([0.0, 1.0, 2.0])
    with quiet(), pytest.raises(ValueError, match="not finite"):
        apply_function(backend(a), "inv", backend(np.ones(3)), method=how)
    # A pole that B does not meet does not matter.
    found = apply_function(backend(a), "inv", backend(np.array([0.0, 1.0, 1.0])), method=how)
    assert np.allclose(to_host(found), [0, 1, 0.5])


def test_a_pole_inside_the_interval():
    with pytest.raises(ValueError, match="method='lanczos'"):
        apply_function(np.diag([-1.0, 1.0]), "inv", np.ones(2), method="chebyshev")


def test_sparse_matrices_and_lists():
    a = with_spectrum(EIGENVALUES, rng=1)
    assert np.allclose(
        apply_function(sp.csr_array(a), "exp", B), naive.function_times(a, np.exp, B)
    )
    assert np.allclose(apply_function([[2.0]], "inv", [4.0]), [2.0])


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"B": np.ones(13)}, ValueError, r"expected \(14,\) or \(14, R\)"),
        ({"B": np.ones((1, 14, 1))}, ValueError, "shape"),
        ({"B": np.full(14, np.nan)}, ValueError, "NaN"),
        ({"B": np.array(["a"] * 14)}, TypeError, "type"),
        ({"f": "sin"}, ValueError, "expected one of"),
        ({"f": 3}, TypeError, "callable"),
        ({"f": lambda x: x.sum()}, ValueError, "vectorised"),
        ({"A": np.ones((14, 13))}, ValueError, "square"),
        ({"A": np.triu(np.ones((14, 14)))}, ValueError, "not Hermitian"),
        ({"steps": 0}, ValueError, "steps"),
        ({"rtol": 0.0}, ValueError, "rtol"),
        ({"method": "cg"}, ValueError, "method"),
    ],
)
def test_bad_input(change, error, text):
    options = {"A": with_spectrum(EIGENVALUES, rng=1), "f": "exp", "B": B, **change}
    with pytest.raises(error, match=text):
        apply_function(options.pop("A"), options.pop("f"), options.pop("B"), **options)


def test_an_operator_that_is_not_hermitian():
    a = RNG.standard_normal((14, 14))
    op = aslinearoperator(lambda v: a @ v, n=14, hermitian=True)
    with pytest.raises(ValueError, match="not Hermitian"):
        apply_function(op, "exp", B)


def test_rounding_is_told_from_truncation():
    x = np.geomspace(1e-7, 1, 60)
    b = np.ones(60)
    a = with_spectrum(x, rng=1)
    found, info = apply_function(a, "inv", b, method="lanczos", return_info=True)
    off = np.linalg.norm(a @ found - b)
    assert info.converged
    assert off < 1e-6 * np.linalg.norm(b)
    with pytest.warns(AccuracyWarning, match="ill-conditioned"):
        apply_function(a.astype(np.float32), "inv", b, shift=1e-4, method="lanczos")


def test_vectors_of_another_library():
    torch = pytest.importorskip("torch")
    a = torch.eye(14, dtype=torch.float64)
    with pytest.raises(ValueError, match="expected the library and device"):
        apply_function(a, "exp", B)


def test_rounding_of_the_exact_way():
    x = np.geomspace(1e-9, 1, 40)
    a = with_spectrum(x, rng=1)
    b = RNG.standard_normal((40, 5))
    found, info = apply_function(a, "inv", b, method="exact", return_info=True)
    assert np.all(np.linalg.norm(found - np.linalg.solve(a, b), axis=0) <= info.error)
    assert np.all(info.error < 0.1 * np.linalg.norm(found, axis=0))
