"""Generalised eigenvalues against SciPy's, and a B that is not positive definite."""

import numpy as np
import pytest
import scipy.linalg
import scipy.sparse as sp
import torch
from hypothesis import given
from hypothesis import strategies as st

from specdens import (
    aslinearoperator,
    density,
    eigencount,
    logdet,
    slogdet,
    trace_function,
)
from specdens.arrays.libraries import namespace, to_host
from specdens.exact.pencils import Whitened, definite_factor, whitened
from specdens.testing import laplacian

dtypes = pytest.mark.parametrize("dtype", ["float64", "complex128"])


def pair(n, seed=0, dtype="float64", other="float64"):
    """Return a Hermitian A, and a positive definite B whose pattern is sparse."""
    rng = np.random.default_rng(seed)

    def random(kind):
        return rng.standard_normal((n, n)) + (
            1j * rng.standard_normal((n, n)) if "complex" in kind else 0
        )

    a, b = random(dtype), random(other) * (rng.random((n, n)) < 0.3)
    return a + a.conj().T, b @ b.conj().T + np.eye(n)


def eigenvalues(a, b):
    return scipy.linalg.eigh(a, b, eigvals_only=True)


@dtypes
@pytest.mark.parametrize("other", ["float64", "complex128"])
def test_the_eigenvalues_are_those_of_one_matrix(backend, dtype, other):
    a, b = pair(12, 1, dtype, other)
    found = whitened(backend(a), backend(b))
    assert np.allclose(np.linalg.eigvalsh(to_host(found.columns())), eigenvalues(a, b))
    assert namespace(found.array) is backend.xp


@dtypes
@pytest.mark.parametrize("other", ["float64", "complex128"])
@pytest.mark.parametrize(
    "form", [np.asarray, sp.csr_array, sp.coo_matrix], ids=lambda f: f.__name__
)
def test_products_without_forming(dtype, other, form):
    a, b = pair(12, 2, dtype, other)
    b_op = aslinearoperator(form(b))
    factor = definite_factor(b_op)
    op = Whitened(aslinearoperator(a), factor, b_op)
    dense = op.columns()
    assert np.allclose(np.linalg.eigvalsh(dense), eigenvalues(a, b))
    assert np.allclose(op.rmatmat(np.eye(12)), dense.conj().T)
    assert factor.logabsdet == pytest.approx(np.linalg.slogdet(b)[1])
    x = np.random.default_rng(0).standard_normal((12, 2))
    assert np.allclose(factor.solve_adjoint(factor.solve(x)), np.linalg.solve(b, x))


@pytest.mark.parametrize("shift", [0.0, 0.7, -1.3])
@given(n=st.integers(1, 10), seed=st.integers(0, 1000))
def test_determinants(shift, n, seed):
    a, b = pair(n, seed)
    moved = eigenvalues(a, b) + shift
    sign, value = slogdet(a, B=b, shift=shift)
    assert sign == np.prod(np.sign(moved))
    assert value == pytest.approx(np.sum(np.log(np.abs(moved))), abs=1e-7)
    assert logdet(sp.csr_array(a), B=sp.csr_array(b), shift=shift) == pytest.approx(value, abs=1e-7)
    nonsymmetric = np.triu(a)
    expected = np.linalg.slogdet(np.linalg.solve(b, nonsymmetric))[1]
    assert logdet(nonsymmetric, B=b) == pytest.approx(expected, abs=1e-7)


@dtypes
def test_functions_counts_and_densities(backend, dtype):
    a, b = pair(15, 3, dtype)
    spectrum = eigenvalues(a, b)
    a, b = backend(a), backend(b)
    value = trace_function(a, "exp", B=b, shift=-1.0)
    assert float(value) == pytest.approx(np.exp(spectrum - 1).sum())
    assert namespace(value) is backend.xp
    assert float(eigencount(a, -1, 1, B=b)) == np.sum(np.abs(spectrum) <= 1)
    assert density(a, B=b).integrate(lambda x: x) == pytest.approx(spectrum.mean())


def test_finite_elements():
    """Stiffness and mass of linear elements on a line: known in closed form."""
    n = 3000
    k = laplacian(n)
    ones = np.ones(n)
    mass = sp.diags_array([ones[1:] / 6, ones * 4 / 6, ones[1:] / 6], offsets=[-1, 0, 1])
    angle = np.pi * np.arange(1, n + 1) / (n + 1)
    spectrum = 6 * (1 - np.cos(angle)) / (2 + np.cos(angle))
    assert logdet(k, B=mass) == pytest.approx(np.log(spectrum).sum(), rel=1e-9)
    count, info = eigencount(k, 1.0, 5.0, B=mass, return_info=True)
    assert (count, info.method) == (np.sum((spectrum >= 1) & (spectrum <= 5)), "exact")
    value, info = trace_function(k, "exp", B=mass, shift=-12.0, rng=0, return_info=True)
    assert info.method == "lanczos"
    assert abs(value - np.exp(spectrum - 12).sum()) <= 6 * info.stderr + info.bias_bound
    rho = density(k, B=mass, rng=0, moments=64)
    assert rho.count(0, 6) == pytest.approx(np.sum(spectrum <= 6), rel=0.1)
    shifted = logdet(k, B=mass, shift=2.0)
    assert shifted == pytest.approx(np.log(spectrum + 2).sum(), rel=1e-9)


def test_an_operator_against_a_matrix():
    a, b = pair(9, 5)
    a = a @ a.T + np.eye(9)
    op = aslinearoperator(lambda v: a @ v, n=9, hermitian=True)
    expected = np.log(eigenvalues(a, b)).sum()
    options = {"probes": 9, "moments": 18}
    assert logdet(op, B=b, **options) == pytest.approx(expected)
    assert logdet(op, B=b, shift=1.0, **options) == pytest.approx(
        np.log(eigenvalues(a, b) + 1).sum()
    )
    assert trace_function(op, "log", B=sp.csr_array(b), **options) == pytest.approx(expected)


def test_precision_and_edges():
    a, b = pair(6, 6)
    single = a.astype(np.float32), b.astype(np.float32)
    assert logdet(single[0], B=single[1]).dtype == np.float32
    assert trace_function(single[0], "exp", B=single[1]).dtype == np.float32
    assert logdet(np.ones((0, 0)), B=np.ones((0, 0))) == 0
    assert slogdet(np.array([[-3.0]]), B=np.array([[2.0]])) == (-1, pytest.approx(np.log(1.5)))
    assert logdet(np.zeros((2, 2)), B=np.eye(2)) == -np.inf


def on_torch(x):
    return torch.tensor(np.asarray(x)).to_sparse()


def test_torch_sparse():
    a, b = pair(8, 7)
    assert float(logdet(torch.tensor(a), B=on_torch(b))) == pytest.approx(
        np.log(np.abs(eigenvalues(a, b))).sum()
    )


INDEFINITE = {
    "negative": -np.eye(3),
    "indefinite": np.array([[1.0, 2, 0], [2, 1, 0], [0, 0, 1]]),
    "singular": np.ones((3, 3)),
    "zero": np.zeros((3, 3)),
    "nonsymmetric": np.triu(np.ones((3, 3))),
    "zero diagonal": np.array([[0.0, 1, 0], [1, 0, 0], [0, 0, 1]]),
}
CALLS = [
    lambda b: logdet(np.eye(3), B=b),
    lambda b: trace_function(np.eye(3), "exp", B=b),
    lambda b: density(np.eye(3), B=b),
    lambda b: eigencount(np.eye(3), 0, 1, B=b),
]


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("form", [np.asarray, sp.csc_array])
@pytest.mark.parametrize("name", INDEFINITE)
def test_b_must_be_positive_definite(name, form, call):
    with pytest.raises(ValueError, match="positive definite"):
        call(form(INDEFINITE[name]))


@pytest.mark.parametrize(
    ("b", "text"),
    [
        (np.eye(2), "one shape"),
        (torch.eye(3), "library"),
        (np.ones((3, 2)), "square"),
        (np.full((3, 3), np.nan), "NaN"),
        (aslinearoperator(lambda v: v, n=3), "factored"),
    ],
    ids=["order", "library", "rectangle", "nan", "operator"],
)
def test_what_is_no_pencil(b, text):
    with pytest.raises(ValueError, match=text):
        logdet(np.eye(3), B=b)


def test_large_sparse_b_that_is_not_definite():
    mass = sp.eye_array(2500) - 2 * sp.csr_array(([1.0], ([7], [7])), shape=(2500, 2500))
    with pytest.raises(ValueError, match="positive definite"):
        trace_function(laplacian(50, 50), "exp", B=mass)
