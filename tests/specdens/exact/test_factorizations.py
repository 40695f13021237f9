"""Determinants by factorisation: against NumPy, at every scale, and at the edge of singularity."""

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
import scipy.linalg
import scipy.sparse as sp
from hypothesis import given
from hypothesis import strategies as st

import specdens
from specdens import AccuracyWarning
from specdens.arrays.libraries import namespace
from specdens.exact.factorizations import (
    lu_fits,
    predicted_lu_bytes,
    slogdet,
    sparse_slogdet,
)
from specdens.testing import correlation, correlation_logdet, hadamard, laplacian, minima

RNG = np.random.default_rng(0)


def random_matrix(kind, n=9):
    a = RNG.standard_normal((n, n))
    c = a + 1j * RNG.standard_normal((n, n))
    return {
        "real": a,
        "complex": c,
        "symmetric": a + a.T,
        "hermitian": c + c.conj().T,
        "definite": a @ a.T + np.eye(n),
        "complex definite": c @ c.conj().T + np.eye(n),
    }[kind]


KINDS = ["real", "complex", "symmetric", "hermitian", "definite", "complex definite"]


@pytest.mark.parametrize("kind", KINDS)
def test_dense_equals_numpy(backend, kind):
    a = random_matrix(kind)
    sign, logabsdet = np.linalg.slogdet(a)
    found = slogdet(backend(a), hermitian=kind not in {"real", "complex"})
    assert found.sign == pytest.approx(sign)
    assert found.logabsdet == pytest.approx(logabsdet, abs=1e-12)
    assert not found.doubtful
    assert found.definite == ("definite" in kind)


@pytest.mark.parametrize("kind", KINDS)
def test_sparse_equals_numpy(kind):
    a = random_matrix(kind, 30) * (RNG.random((30, 30)) < 0.2)
    hermitian = kind not in {"real", "complex"}
    a = np.tril(a) + np.tril(a, -1).conj().T if hermitian else a
    a = a + 4 * np.eye(30)
    sign, logabsdet = np.linalg.slogdet(a)
    found = sparse_slogdet(sp.csc_array(a), hermitian=hermitian)
    assert found.sign == pytest.approx(sign)
    assert found.logabsdet == pytest.approx(logabsdet, abs=1e-11)


@given(rows=st.lists(st.floats(-300, 300), min_size=5, max_size=5), seed=st.integers(0, 50))
def test_rows_and_columns_of_any_scale(rows, seed):
    a = np.random.default_rng(seed).standard_normal((5, 5))
    truth = np.linalg.slogdet(a)
    powers = np.round(np.array(rows) / 2)
    scaled = slogdet(np.ldexp(a, powers[:, None].astype(int)), hermitian=False)
    assert scaled.logabsdet == pytest.approx(truth[1] + powers.sum() * math.log(2), abs=1e-9)
    assert scaled.sign == truth[0]
    d = np.ldexp(1.0, powers.astype(int))
    both = sparse_slogdet(sp.csc_array(d[:, None] * (a + a.T) * d), hermitian=True)
    truth = np.linalg.slogdet(a + a.T)
    assert both.logabsdet == pytest.approx(truth[1] + 2 * powers.sum() * math.log(2), abs=1e-9)


SINGULAR = {
    "ones": np.ones((4, 4)),
    "zero": np.zeros((3, 3)),
    "zero row": np.diag([1.0, 0.0, 2.0]),
    "zero column": np.array([[0.0, 1.0], [0.0, 2.0]]),
    "low rank": (lambda x: x @ x.T)(np.random.default_rng(1).standard_normal((8, 5))),
    "low rank, nonsymmetric": np.random.default_rng(2).standard_normal((8, 5))
    @ np.random.default_rng(3).standard_normal((5, 8)),
    "graph Laplacian": laplacian(12, 5, boundary="neumann").toarray(),
    "cycle": laplacian(30, boundary="periodic").toarray(),
}


@pytest.mark.parametrize("name", SINGULAR)
def test_singular(backend, name):
    a = SINGULAR[name]
    found = slogdet(backend(a), hermitian=bool(np.all(a == a.T)))
    assert found.logabsdet == -math.inf
    assert found.sign == 0
    sparse = sparse_slogdet(sp.csc_array(a), hermitian=bool(np.all(a == a.T)))
    assert sparse.logabsdet == -math.inf


NOT_SINGULAR = {
    "tiny diagonal": (np.diag([1.0, 1e-20, 1e-200]), math.log(1e-220)),
    "triangular": (np.array([[1.0, 1e20], [0.0, 1.0]]), 0.0),
    "Hilbert": (
        scipy.linalg.hilbert(8),
        # det = c_n^4 / c_2n with c_n = prod_{i<n} i!
        4 * sum(math.lgamma(i + 1) for i in range(8)) - sum(math.lgamma(i + 1) for i in range(16)),
    ),
    "correlation": (correlation(60, 0.999999), correlation_logdet(60, 0.999999)),
    "minima": (minima(100), 0.0),
    "Hadamard": (hadamard(4), 8 * math.log(16)),
}


@pytest.mark.parametrize("name", NOT_SINGULAR)
def test_ill_conditioned_is_not_singular(backend, name):
    a, truth = NOT_SINGULAR[name]
    found = slogdet(backend(a), hermitian=bool(np.all(a == a.T)))
    assert abs(found.logabsdet - truth) <= found.rounding + 1e-12
    assert found.rounding < 1e-3
    sparse = sparse_slogdet(sp.csc_array(a), hermitian=bool(np.all(a == a.T)))
    assert abs(sparse.logabsdet - truth) <= sparse.rounding + 1e-12


def test_the_estimate_of_rounding_is_no_smaller_than_what_libraries_disagree_by(backend):
    a = scipy.linalg.hilbert(11)
    truth = 4 * sum(math.lgamma(i + 1) for i in range(11))
    truth -= sum(math.lgamma(i + 1) for i in range(22))
    found = slogdet(backend(a), hermitian=True)
    assert abs(found.logabsdet - truth) <= 10 * found.rounding


def test_the_parity_of_permutations():
    for seed in range(5):
        order = np.random.default_rng(seed).permutation(11)
        a = sp.csc_array(np.eye(11)[order])
        assert sparse_slogdet(a, hermitian=False).sign == np.linalg.slogdet(a.toarray())[0]


def test_lu_prediction_is_of_the_right_size():
    """Never less than half of the truth, on lattices and a band; and it tells 2-D from 3-D."""
    for matrix in (laplacian(60, 60), laplacian(15, 15, 15), laplacian(5000)):
        a = matrix.tocsc()
        lu = sp.linalg.splu(
            a, permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.1, options={"SymmetricMode": True}
        )
        actual = 12 * (lu.L.nnz + lu.U.nnz)
        assert actual / 2 < predicted_lu_bytes(a, hermitian=True) < 10 * actual
    assert lu_fits(laplacian(300, 300).tocsc(), hermitian=True)
    assert not lu_fits(laplacian(70, 70, 70).tocsc(), hermitian=True)


def test_namespace_is_kept(backend):
    a = backend(np.eye(3))
    assert namespace(a) is backend.xp


def test_small_entries_of_triangular_matrices_are_no_noise(backend):
    a = np.array([[1.0, 1, 0], [0, 1e-20, 1], [0, 0, -1]])
    for matrix in (a, a.T):
        found = slogdet(backend(matrix), hermitian=False)
        assert found.sign == -1
        assert found.logabsdet == pytest.approx(np.log(1e-20))
    assert slogdet(backend(np.array([[0.0, 1], [0, 1]])), hermitian=False).sign == 0


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize(
    "entries",
    [
        [[1.0, 1e-15], [1.0, 2e-15]],
        [[1.0, 1.0], [1e-15, 2e-15]],
        [[1e200, 1e-200], [2e200, 1e-200]],
        [[1e-15, 1.0], [2e-15, 1.0]],
        [[0, 1e-20, 1], [1e-30, 0, 3], [2e-30, 1e-20, 0]],
    ],
)
def test_columns_of_unequal_size(sparse, entries):
    a = np.array(entries)
    sign, value = exact_slogdet(a)
    result = specdens.slogdet(sp.csr_array(a) if sparse else a)
    assert float(result[0]) == sign
    assert float(result[1]) == pytest.approx(value, rel=1e-12, abs=1e-12)


def exact_slogdet(a):
    """Laplace's expansion in rational arithmetic."""
    n, total = len(a), Fraction(0)
    for p in itertools.permutations(range(n)):
        sign = round(np.linalg.det(np.eye(n)[list(p)]))
        total += sign * math.prod(Fraction(a[i, j]) for i, j in enumerate(p))
    value = math.log(abs(total.numerator)) - math.log(total.denominator)
    return (1 if total > 0 else -1), value


def matrices_to_grade():
    g = np.random.default_rng(0)
    yield g.standard_normal((40, 40))
    yield g.standard_normal((40, 40)) + 1j * g.standard_normal((40, 40))
    yield np.diag(np.full(40, 3.0)) + np.diag(np.ones(39), 1) + np.diag(np.full(39, -1.5), -1)
    band = sp.diags_array([np.full(600, 2.5), np.ones(599), np.ones(570)], offsets=[0, -1, 30])
    yield band.toarray()[:, np.random.default_rng(1).permutation(600)]


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("kind", range(4))
@pytest.mark.parametrize("power", [20, 150, 450])
def test_graded_matrices_keep_their_accuracy(sparse, kind, power):
    a = list(matrices_to_grade())[kind]
    g = np.random.default_rng(power)
    rows, columns = g.integers(-power, power + 1, (2, len(a)))
    graded = np.ldexp(1.0, rows)[:, None] * a * np.ldexp(1.0, columns)
    sign, value = np.linalg.slogdet(a)
    value += (rows.sum() + columns.sum()) * np.log(2)
    found, info = specdens.slogdet(sp.csr_array(graded) if sparse else graded, return_info=True)
    assert complex(found[0]) == pytest.approx(complex(sign), abs=1e-9)
    assert float(found[1]) == pytest.approx(value, abs=1e-9 * max(1, abs(value)))
    assert info.converged


@pytest.mark.parametrize("power", [20, 150, 450])
def test_graded_hermitian_matrices(power):
    g = np.random.default_rng(power)
    a = g.standard_normal((50, 50))
    a = a + a.T
    np.fill_diagonal(a, 0.0)
    d = g.integers(-power, power + 1, 50)
    graded = np.ldexp(1.0, d)[:, None] * a * np.ldexp(1.0, d)
    sign, value = np.linalg.slogdet(a)
    for kind in (np.asarray, sp.csr_array):
        found = specdens.slogdet(kind(graded))
        assert float(found[0]) == sign
        assert float(found[1]) == pytest.approx(value + 2 * d.sum() * np.log(2), rel=1e-10)


def singular_matrices():
    graph = laplacian(6, 6, boundary="neumann").toarray()
    d = np.ldexp(1.0, np.random.default_rng(0).integers(-30, 30, 36))
    x = np.random.default_rng(2).integers(-3, 4, (9, 8)).astype(float)
    two = np.kron(np.eye(2), graph)
    two[0, 0] += 1  # one of two components is grounded
    big = laplacian(40, 40, boundary="neumann").toarray()
    phases = np.exp(1j * np.arange(36))
    small = [np.array([[1.0, 2], [3, 6]]), np.arange(16.0).reshape(4, 4), x @ x.T]
    complex_ = np.outer(phases[:4].round(3), [1, 2j, 4, 8])
    return [graph, graph * d, d[:, None] * graph, two, big, complex_, *small]


@pytest.mark.parametrize("kind", [np.asarray, sp.csr_array])
@pytest.mark.parametrize("a", singular_matrices())
def test_singular_as_stored_is_certain(kind, a):
    (sign, value), info = specdens.slogdet(kind(a), return_info=True)
    assert (complex(sign), float(value)) == (0, -np.inf)
    assert info.converged


@pytest.mark.parametrize("kind", [np.asarray, sp.csr_array])
@pytest.mark.parametrize("seed", range(40))
def test_singular_up_to_rounding_is_flagged(kind, seed):
    g = np.random.default_rng(seed)
    x = g.standard_normal((20, 19)) * np.exp(g.standard_normal(19) * (seed % 4))
    with pytest.warns(AccuracyWarning):
        specdens.logdet(kind(x @ x.T))
