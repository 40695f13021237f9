"""The block Krylov basis: orthonormal, and what it says of A holds."""

import numpy as np
import pytest

from specdens import aslinearoperator
from specdens.arrays.libraries import to_host
from specdens.recurrences.deflation import Preconditioned, captured_part, converged_pairs
from specdens.recurrences.krylov_basis import KrylovBasis
from specdens.recurrences.lanczos import NotHermitianError, tridiagonalize
from specdens.recurrences.quadrature import gauss
from specdens.scalar_functions import scalar_function
from specdens.testing import rotated, with_spectrum

EIGENVALUES = np.r_[np.linspace(0.5, 1, 54), 3.0, 5.0, 8.0, 13.0, 21.0, 34.0]


def matrices(backend, dtype):
    a = with_spectrum(EIGENVALUES, rng=1, dtype=np.dtype(dtype).type)
    z = np.random.default_rng(0).choice([-1.0, 1.0], (60, 2))
    return a, backend(a, dtype), backend(z.astype(a.dtype), dtype), z


@pytest.mark.parametrize("dtype", ["float64", "complex128", "float32"])
def test_it_is_a_basis(backend, dtype):
    a, there, start, _ = matrices(backend, dtype)
    basis = KrylovBasis(aslinearoperator(there), start)
    basis.grow(6)
    q = to_host(basis.vectors())
    tolerance = 1e-4 if dtype == "float32" else 1e-11
    assert q.shape == (60, 12)
    np.testing.assert_allclose(q.conj().T @ q, np.eye(12), atol=tolerance)
    np.testing.assert_allclose(q.conj().T @ a @ q, basis.tridiagonal_block(), atol=34 * tolerance)


@pytest.mark.parametrize("dtype", ["float64", "complex128"])
def test_ritz_pairs_have_the_residuals_that_it_says(backend, dtype):
    a, there, start, _ = matrices(backend, dtype)
    basis = KrylovBasis(aslinearoperator(there), start)
    basis.grow(5)
    pairs = basis.ritz()
    u = to_host(basis.vectors()) @ pairs.vectors
    found = np.linalg.norm(a @ u - u * pairs.values, axis=0)
    np.testing.assert_allclose(pairs.residuals, found, atol=1e-11)
    assert pairs.weights.sum() == pytest.approx(1)


@pytest.mark.parametrize("dtype", ["float64", "complex128"])
def test_it_holds_what_lanczos_would_have_found(backend, dtype):
    _, there, start, _ = matrices(backend, dtype)
    op = aslinearoperator(there)
    basis = KrylovBasis(op, start)
    basis.grow(7)
    for mine, own in zip(basis.tridiagonals(), tridiagonalize(op, start, 7), strict=True):
        np.testing.assert_allclose(mine.diagonal, own.diagonal, rtol=1e-10)
        np.testing.assert_allclose(mine.off_diagonal, own.off_diagonal, rtol=1e-8)
        assert mine.residual == pytest.approx(own.residual, rel=1e-8)


def test_it_ends_with_all_of_the_space():
    a = with_spectrum(EIGENVALUES, rng=1)
    basis = KrylovBasis(aslinearoperator(a), np.random.default_rng(0).standard_normal((60, 2)))
    basis.grow(100)
    assert basis.exhausted
    np.testing.assert_allclose(basis.ritz().values, EIGENVALUES, atol=1e-10)


def test_repeated_eigenvalues_exhaust_it_early():
    a = with_spectrum(np.repeat([1.0, 2.0, 4.0], 20), rng=0)
    basis = KrylovBasis(aslinearoperator(a), np.random.default_rng(0).standard_normal((60, 2)))
    basis.grow(100)
    assert basis.exhausted
    assert basis.size == 6
    assert np.all(basis.ritz().residuals == 0)


def test_a_false_claim_shows():
    a = np.random.default_rng(0).standard_normal((30, 30))
    op = aslinearoperator(lambda v: a @ v, n=30, hermitian=True)
    basis = KrylovBasis(op, np.random.default_rng(1).standard_normal((30, 2)))
    with pytest.raises(NotHermitianError, match="differ by"):
        basis.grow(3)


def test_products_must_be_finite():
    op = aslinearoperator(lambda v: v * np.nan, n=30, hermitian=True)
    with pytest.raises(ValueError, match="NaN or infinity"):
        KrylovBasis(op, np.ones((30, 1))).grow(1)


@pytest.mark.parametrize("dtype", ["float64", "complex128"])
def test_the_preconditioned_matrix(backend, dtype):
    """log det A = log det P + tr log M, and the traces of M and M^2 are as stated."""
    _, there, start, _ = matrices(backend, dtype)
    op = aslinearoperator(there)
    basis = KrylovBasis(op, start)
    basis.grow(8)
    m = Preconditioned(op, basis)
    assert 0 < m.rank < 16
    dense = to_host(m.columns())
    spectrum = np.linalg.eigvalsh((dense + dense.conj().T) / 2)
    assert m.logdet + np.log(spectrum).sum() == pytest.approx(np.log(EIGENVALUES).sum(), rel=1e-10)
    np.testing.assert_allclose(m.power_traces(), [spectrum.sum(), (spectrum**2).sum()], rtol=1e-10)
    assert spectrum[0] >= EIGENVALUES[0] / m.largest * (1 - 1e-10)
    assert np.ptp(np.log(spectrum)) < np.ptp(np.log(EIGENVALUES))


def test_only_good_pairs_precondition():
    a = with_spectrum(EIGENVALUES, rng=1)
    basis = KrylovBasis(aslinearoperator(a), np.random.default_rng(0).standard_normal((60, 2)))
    basis.grow(4)
    pairs = basis.ritz()
    assert np.all(
        pairs.residuals[converged_pairs(pairs)] < 0.1 * pairs.values[converged_pairs(pairs)]
    )


@pytest.mark.parametrize("name", ["exp", "sqrt", "xlogx"])
def test_what_is_captured_and_what_is_left(name):
    a = with_spectrum(EIGENVALUES / 10, rng=1)
    op, f = aslinearoperator(a), scalar_function(name)
    basis = KrylovBasis(op, np.random.default_rng(0).standard_normal((60, 2)))
    basis.grow(12)
    found = captured_part(op, basis, 12, f)
    q = basis.vectors()[:, :12]
    values, vectors = np.linalg.eigh(a)
    whole = (vectors * f.on_host(values)) @ vectors.T
    assert found.value == pytest.approx(np.trace(q.T @ whole @ q), rel=1e-6)
    assert abs(found.value - np.trace(q.T @ whole @ q)) <= found.bias + 1e-12
    rest = np.eye(60) - q @ q.T
    assert found.mass == 48
    expected = [np.trace(rest @ a @ rest), np.trace(rest @ a @ a @ rest)]
    np.testing.assert_allclose(found.traces.values[1:], expected, rtol=1e-10)


def test_many_steps_stay_within_the_spectrum():
    """Long after the ends have converged, no coefficient leads out of the spectrum."""
    eigenvalues = 0.98 ** np.arange(400) + 1e-3
    op = rotated(eigenvalues)
    basis = KrylovBasis(op, np.random.default_rng(0).choice([-1.0, 1.0], (400, 2)))
    basis.grow(60)
    for factor in basis.tridiagonals():
        nodes = gauss(factor).nodes
        assert eigenvalues.min() * (1 - 1e-8) <= nodes[0]
        assert nodes[-1] <= eigenvalues.max() * (1 + 1e-8)
