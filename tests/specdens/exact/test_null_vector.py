"""Graph Laplacians are singular, on every road to their determinant."""

import numpy as np
import pytest
import scipy.sparse as sp

import specdens
from specdens import AccuracyWarning
from specdens.exact.null_vector import null_vector_of_ones
from specdens.problem.prepare import prepare
from specdens.testing import laplacian

GRAPHS = {
    "Neumann": laplacian(9, 8, 7, boundary="neumann"),
    "periodic": laplacian(60, 50, boundary="periodic"),
    "a component beside a definite one": sp.block_diag(
        [laplacian(30, 20, boundary="neumann"), laplacian(9, 9)], format="csr"
    ),
    "shifted": laplacian(30, 20, boundary="neumann") - 2 * sp.eye_array(600),
}


def weighted(n=400, seed=0):
    weights = sp.random_array((n, n), density=0.02, rng=np.random.default_rng(seed))
    weights = weights + weights.T
    return sp.csr_array(sp.diags_array(weights.sum(axis=1)) - weights)


@pytest.mark.parametrize("options", [{}, {"rtol": 1e-2}, {"max_matvecs": 100}, {"moments": 8}])
@pytest.mark.parametrize("graph", GRAPHS)
@pytest.mark.parametrize("f", ["log", "inv", "log|x|"])
def test_entries_prove_it(graph, options, f):
    A, shift = GRAPHS[graph], 2.0 if graph == "shifted" else 0.0
    call = specdens.logdet if f == "log|x|" else specdens.trace_function
    args = (A,) if f == "log|x|" else (A, f)
    value, info = call(*args, shift=shift, method="lanczos", rng=0, return_info=True, **options)
    assert value == (np.inf if f == "inv" else -np.inf)
    assert info.converged


@pytest.mark.parametrize("method", ["lanczos", "chebyshev"])
def test_products_and_rounded_entries_leave_a_doubt(backend, method):
    for host in (GRAPHS["Neumann"].toarray(), weighted().toarray()):
        dense = backend(host)
        op = specdens.aslinearoperator(lambda x, a=dense: a @ x, n=len(host), like=dense)
        with pytest.warns(AccuracyWarning, match="singular to working precision"):
            value = specdens.logdet(op, method=method, hermitian=True, rng=0)
        assert float(value) == -np.inf


@pytest.mark.parametrize("seed", range(5))
def test_definite_matrices_have_none(seed):
    A = weighted(seed=seed) + sp.diags_array(np.linspace(0, 1e-3, 400))
    for matrix in (A, A.toarray(), specdens.aslinearoperator(A.toarray())):
        certain, _ = null_vector_of_ones(prepare(matrix, shift=0.0, hermitian=True, bounds=None))
        assert certain is None


def test_bounds_that_exclude_it_save_the_product():
    A = sp.linalg.aslinearoperator(laplacian(9, 9))
    problem = prepare(A, shift=0.0, hermitian=True, bounds=(0.1, 8))
    assert null_vector_of_ones(problem) == (None, 0)
