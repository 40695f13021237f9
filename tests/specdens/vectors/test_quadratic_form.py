"""b^H f(A) b and the Gaussian pair, against all eigenvectors; brackets; edges."""

import math

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given
from hypothesis import strategies as st

from specdens import (
    AccuracyWarning,
    Gram,
    aslinearoperator,
    inv_quad_logdet,
    logdet,
    quadratic_form,
)
from specdens.arrays.libraries import to_host
from specdens.testing import laplacian, rotated, with_spectrum
from tests.specdens import naive

METHODS = ["exact", "lanczos", "chebyshev"]
F = naive.FUNCTIONS
EIGENVALUES = np.linspace(0.4, 3, 14)
RNG = np.random.default_rng(8)
B = RNG.standard_normal((14, 3)) + 1j * RNG.standard_normal((14, 3))


def truth(a, f, b):
    eigenvalues, basis = np.linalg.eigh(a)
    return f(eigenvalues) @ np.abs(basis.conj().T @ b) ** 2


@pytest.mark.parametrize("how", METHODS)
@pytest.mark.parametrize("name", F)
@pytest.mark.parametrize("dtype", ["float64", "complex128"])
def test_every_method_agrees(backend, how, name, dtype):
    a = with_spectrum(EIGENVALUES, rng=1, dtype=np.dtype(dtype))
    for b in (B, B.real):
        values, infos = quadratic_form(
            backend(a), name, backend(b), method=how, moments=60, bounds=(0.4, 3.0),
            return_info=True,
        )  # fmt: skip
        assert values.shape == (3,)
        assert str(values.dtype).endswith("float64")
        off = np.abs(to_host(values) - truth(a, F[name], b))
        assert np.all(off <= [info.bias_bound + 1e-12 for info in infos])
        assert np.all(off < 1e-7)
        assert all(info.bias_rigorous and info.stderr == 0 for info in infos)
    one = quadratic_form(
        backend(a), F[name], backend(B[:, 0]), method=how, moments=60, bounds=(0.4, 3.0)
    )
    assert one.shape == ()
    assert to_host(one).item() == pytest.approx(truth(a, F[name], B[:, 0]), rel=1e-6)


@pytest.mark.parametrize("name", ["log", "exp", "inv", "sqrt", "xlogx"])
@pytest.mark.parametrize("moments", [4, 10, 20])
def test_brackets_hold_at_any_degree(name, moments, quiet):
    x = np.geomspace(0.01, 3, 800)
    b = RNG.standard_normal((800, 4))
    exact = np.sum(b * (rotated(F[name](x)) @ b), axis=0)
    with quiet():
        values, infos = quadratic_form(
            rotated(x), name, b, moments=moments, bounds=(0.01, 3.0), return_info=True
        )
    for value, info, right in zip(values, infos, exact, strict=True):
        assert info.bias_rigorous
        assert abs(value - right) <= info.bias_bound
        assert info.matvecs == moments // 2


@given(seed=st.integers(0, 99), n=st.integers(1, 12), scale=st.floats(0.1, 10))
def test_identities(seed, n, scale):
    rng = np.random.default_rng(seed)
    a = with_spectrum(rng.uniform(0.5, 2, n), rng=seed)
    b = rng.standard_normal(n)
    for how in METHODS:
        options = {"method": how, "moments": 40, "bounds": (0.49, 2.01)}
        value = quadratic_form(a, "log", b, **options)
        assert quadratic_form(a, "log", scale * b, **options) == pytest.approx(scale**2 * value)
        shifted = quadratic_form(a, "exp", b, shift=0.3, **options)
        assert shifted == pytest.approx(math.exp(0.3) * quadratic_form(a, "exp", b, **options))
        unit = quadratic_form(a, lambda x: np.ones_like(x), b, **options)
        assert unit == pytest.approx(b @ b)


@pytest.mark.parametrize("how", METHODS)
def test_zero_vectors_and_empty_matrices(backend, how):
    a = backend(with_spectrum(EIGENVALUES, rng=1))
    block = np.zeros((14, 2))
    block[:, 1] = 1
    options = {"method": how, "bounds": (0.4, 3.0), "moments": 60}
    values = to_host(quadratic_form(a, "log", backend(block), **options))
    assert values[0] == 0
    assert np.isfinite(values[1])
    assert to_host(quadratic_form(a, "log", backend(np.zeros(14)), **options)).item() == 0
    assert quadratic_form(a, "log", backend(np.zeros((14, 0))), **options).shape == (0,)
    empty = backend(np.zeros((0, 0)))
    assert to_host(quadratic_form(empty, "log", backend(np.zeros(0)), method=how)).item() == 0
    one = quadratic_form(backend(np.full((1, 1), 4.0)), "sqrt", backend(np.ones(1)), method=how)
    assert to_host(one).item() == pytest.approx(2.0)


@pytest.mark.parametrize("how", ["exact", "lanczos"])
def test_poles(how):
    a = np.diag([0.0, 1.0, 2.0])
    assert quadratic_form(a, "inv", np.array([0.0, 1.0, 1.0]), method=how) == pytest.approx(1.5)
    assert quadratic_form(a, "log", np.array([0.0, 1.0, 1.0]), method=how) == pytest.approx(
        math.log(2)
    )


def test_exact_infinities_and_negative_eigenvalues():
    assert quadratic_form(np.diag([0.0, 1.0]), "log", np.ones(2)) == -math.inf
    for how in METHODS:
        with pytest.raises(ValueError, match="negative eigenvalue"):
            quadratic_form(np.diag([-1.0, 1.0]), "log", np.ones(2), method=how)


def test_a_resolvent_is_complex(backend):
    a = with_spectrum(EIGENVALUES, rng=1)

    def resolvent(x):
        return 1 / (x - 1 - 0.5j)

    for how in METHODS:
        value = quadratic_form(
            backend(a), resolvent, backend(B), method=how, moments=90, bounds=(0.4, 3.0)
        )
        assert np.allclose(to_host(value), truth(a, resolvent, B), rtol=1e-5)


def test_doubt_is_said_once_of_the_worst_column():
    op = laplacian(40, 40)
    with pytest.warns(AccuracyWarning) as said:
        quadratic_form(op, "log", RNG.standard_normal((1600, 5)), moments=6)
    assert len(said) == 1


@pytest.mark.parametrize("how", ["lanczos", "chebyshev"])
def test_wrong_bounds(how):
    a = with_spectrum(EIGENVALUES, rng=1)
    with pytest.warns(AccuracyWarning, match="not inside the bounds"):
        value = quadratic_form(a, "exp", B[:, 0], method=how, bounds=(0.4, 2.0), moments=40)
    assert value == pytest.approx(truth(a, np.exp, B[:, 0]))


@pytest.mark.parametrize("dtype", ["float64", "complex128"])
@pytest.mark.parametrize("how", ["exact", "lanczos"])
def test_the_gaussian_pair(backend, dtype, how):
    a = with_spectrum(EIGENVALUES, rng=1, dtype=np.dtype(dtype))
    for y in (B, B.real):
        (quad, value), (infos, info) = inv_quad_logdet(
            backend(a), backend(y), method=how, moments=60, probes=14, shift=0.5,
            return_info=True,
        )  # fmt: skip
        assert np.allclose(to_host(quad), truth(a, lambda x: 1 / (x + 0.5), y))
        assert to_host(value).item() == pytest.approx(np.log(EIGENVALUES + 0.5).sum())
        assert len(infos) == 3
        assert info.method == how
    quad, _ = inv_quad_logdet(backend(a), backend(B[:, 0]), method=how, moments=60, probes=14)
    assert quad.shape == ()


def test_the_pair_is_that_of_separate_runs_at_the_cost_of_one():
    factor = RNG.standard_normal((800, 700)) / 30
    op = Gram(factor, shift=0.5)
    y = RNG.standard_normal(700)
    (quad, value), (first, second) = inv_quad_logdet(
        op, y, moments=40, probes=40, rng=3, return_info=True
    )
    alone, expected = quadratic_form(op, "inv", y, moments=40, return_info=True)
    assert quad == pytest.approx(alone, rel=1e-13)
    assert first.bias_rigorous
    assert first.bias_bound == pytest.approx(expected.bias_bound, rel=1e-6, abs=1e-11)
    assert first.matvecs == 20
    assert second.matvecs == 800
    exact = np.linalg.slogdet(factor.T @ factor + 0.5 * np.eye(700))[1]
    assert abs(value - exact) < 5 * second.stderr + second.bias_bound
    again = inv_quad_logdet(op, y, moments=40, probes=40, rng=second.seed)
    assert again == (quad, value)


def test_the_pair_of_sparse_matrices():
    a = sp.csr_array(laplacian(12, 12))
    y = RNG.standard_normal((144, 2))
    dense = a.toarray() + 0.1 * np.eye(144)
    for b in (y, y + 2j * y):
        quad, value = inv_quad_logdet(a, b, shift=0.1)
        assert np.allclose(quad, np.sum(b.conj() * np.linalg.solve(dense, b), axis=0).real)
        assert value == pytest.approx(logdet(dense))


@pytest.mark.parametrize("how", ["exact", "lanczos"])
def test_an_indefinite_matrix_has_no_likelihood(how):
    a = np.diag([-1.0, 1.0, 2.0])
    for matrix in (a, sp.csr_array(a)):
        with pytest.raises(ValueError, match=r"negative eigenvalue|not positive definite"):
            inv_quad_logdet(matrix, np.ones(3), method=how)


def test_the_determinant_beside_a_form_is_that_of_logdet():
    """With the same probes to the last bit: known traces correct it, too."""
    a = with_spectrum(np.linspace(0.5, 4, 60), rng=0)
    options = {"moments": 60, "probes": 12, "method": "lanczos", "rng": 3}
    (_, value), (_, info) = inv_quad_logdet(a, np.ones(60), return_info=True, **options)
    alone, other = logdet(a, return_info=True, **options)
    assert value == pytest.approx(alone, rel=1e-12)
    assert info.stderr == pytest.approx(other.stderr, rel=1e-9)
    wrong = aslinearoperator(lambda x: a @ x, n=60, matmat=lambda x: a @ x, hermitian=True, trace=1)
    with pytest.warns(AccuracyWarning, match="contradict"):
        inv_quad_logdet(wrong, np.ones(60), **options)


def test_the_empty_pair():
    assert inv_quad_logdet(np.zeros((0, 0)), np.zeros(0)) == (0, 0)


def test_bad_input():
    a = with_spectrum(EIGENVALUES, rng=1)
    with pytest.raises(ValueError, match=r"expected \(14,\)"):
        quadratic_form(a, "exp", np.ones(13))
    with pytest.raises(ValueError, match="moments"):
        quadratic_form(a, "exp", np.ones(14), moments=0)
    with pytest.raises(ValueError, match="not offered"):
        inv_quad_logdet(a, np.ones(14), method="chebyshev")
    with pytest.raises(ValueError, match="y has shape"):
        inv_quad_logdet(a, np.ones((13, 2)))
    op = aslinearoperator(np.triu(np.ones((14, 14))))
    with pytest.raises(ValueError, match="not Hermitian"):
        quadratic_form(op, "exp", np.ones(14))
