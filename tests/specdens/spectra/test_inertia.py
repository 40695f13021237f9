"""Signs of eigenvalues by factorisations, against all eigenvalues; and never a guess."""

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from hypothesis import given
from hypothesis import strategies as st

from specdens import (
    AccuracyWarning,
    BlockDiagonal,
    DiagonalPlusLowRank,
    Gram,
    Inertia,
    Kronecker,
    Scaled,
    Shifted,
    aslinearoperator,
    eigencount,
    inertia,
)
from specdens.arrays.libraries import to_host
from specdens.exact.ldl_inertia import sparse_inertia
from specdens.testing import (
    complete_bipartite,
    hypercube,
    laplacian,
    laplacian_eigenvalues,
    with_spectrum,
)

SEEDS = st.integers(0, 10_000)
dtypes = pytest.mark.parametrize("dtype", ["float64", "complex128"])


def hermitian(n, seed, dtype="float64"):
    rng = np.random.default_rng(seed)
    a = rng.standard_normal((n, n)) + (1j * rng.standard_normal((n, n)) if "c" in dtype else 0)
    return a + a.conj().T


def of(spectrum, tolerance=1e-9):
    spectrum = np.asarray(spectrum)
    positive, negative = np.sum(spectrum > tolerance), np.sum(spectrum < -tolerance)
    return Inertia(positive, negative, len(spectrum) - positive - negative)


@dtypes
@pytest.mark.parametrize("zeros", [0, 1, 3])
def test_dense(backend, dtype, zeros):
    spectrum = [3.0, 1e-3, -2.0, -1e-4, 0.5] + [0.0] * zeros
    found = inertia(backend(with_spectrum(spectrum, rng=1, dtype=np.dtype(dtype))))
    assert found == (3, 2, zeros)
    assert sum(found) == len(spectrum)


@dtypes
@given(n=st.integers(1, 12), seed=SEEDS, power=st.integers(-8, 8))
def test_sylvester(dtype, n, seed, power):
    """A congruence keeps the signs, also one that scales rows by very different numbers."""
    a = hermitian(n, seed, dtype)
    rng = np.random.default_rng(seed + 1)
    s = np.linalg.qr(rng.standard_normal((n, n)))[0] * 10.0 ** rng.uniform(-1, 1, n)
    assert inertia(s @ a @ s.T) == of(np.linalg.eigvalsh(a))
    grading = 10.0 ** rng.uniform(-abs(power), abs(power), n)
    assert inertia(grading[:, None] * a * grading) == inertia(a)
    assert inertia(-a) == (inertia(a).negative, inertia(a).positive, 0)


@given(n=st.integers(0, 6), p=st.integers(1, 6), seed=SEEDS)
def test_pivots_of_order_two(n, p, seed):
    """A zero diagonal leaves no other pivots."""
    b = np.random.default_rng(seed).standard_normal((n + 1, p))
    a = np.block([[np.zeros((n + 1, n + 1)), b], [b.T, np.zeros((p, p))]])
    rank = min(n + 1, p)
    assert inertia(a) == (rank, rank, n + 1 + p - 2 * rank)


def test_sparse_laplacians():
    for shape, x in [((60, 60), 0.7), ((60, 60), 3.9), ((12, 13, 14), 2.5)]:
        matrix, spectrum = laplacian(*shape), laplacian_eigenvalues(*shape)
        assert inertia(matrix, shift=-x) == of(spectrum - x)


@dtypes
@given(seed=st.integers(0, 100))
def test_sparse_equals_dense(dtype, seed):
    rng = np.random.default_rng(seed)
    a = hermitian(40, seed, dtype) * (rng.random((40, 40)) < 0.1)
    a = np.tril(a) + np.tril(a, -1).conj().T + np.diag(rng.standard_normal(40))
    found = sparse_inertia(sp.csc_array(a))
    assert found in {None, of(np.linalg.eigvalsh(a))}
    assert inertia(sp.csr_array(a)) == of(np.linalg.eigvalsh(a))


def test_what_cannot_be_certified_is_not_returned():
    periodic = laplacian(50, 50, boundary="periodic")
    with pytest.raises(ValueError, match="certifies no inertia"):
        inertia(periodic)
    assert inertia(periodic, shift=1e-3) == (2500, 0, 0)
    assert inertia(laplacian(9, 9, boundary="periodic")) == (80, 0, 1)
    with pytest.raises(ValueError, match="operator of order"):
        inertia(aslinearoperator(lambda v: v, n=3000, hermitian=True))


def test_other_forms():
    a = hermitian(6, 3)
    expected = of(np.linalg.eigvalsh(a))
    assert inertia(aslinearoperator(lambda v: a @ v, n=6, hermitian=True)) == expected
    assert inertia(torch.tensor(a).to_sparse()) == expected
    assert inertia(a.astype(np.float32)) == expected
    assert inertia(hypercube(4)) == (5, 5, 6)
    assert inertia(complete_bipartite(2, 3)) == (1, 1, 3)
    assert inertia(np.ones((0, 0))) == (0, 0, 0)
    assert inertia(np.array([[-2]])) == (0, 1, 0)
    assert inertia(np.array([[-2]]), shift=2.0) == (0, 0, 1)
    with pytest.raises(ValueError, match="Hermitian"):
        inertia(np.triu(np.ones((3, 3))))


@given(n=st.integers(1, 5), m=st.integers(1, 5), seed=SEEDS, shift=st.floats(-2, 2))
def test_structures(n, m, seed, shift):
    a, b = hermitian(n, seed), hermitian(m, seed + 1)
    rng = np.random.default_rng(seed)
    u, d = rng.standard_normal((n, m)), rng.choice([-1.0, 0.0, 2.0], n)
    for op in (
        Kronecker(a, b),
        Kronecker(a, b, np.zeros((1, 1))),
        BlockDiagonal(a, b, np.zeros((2, 2))),
        Shifted(a, shift),
        Scaled(a, -2.0),
        DiagonalPlusLowRank(d, u),
        DiagonalPlusLowRank(d, u, C=b),
        DiagonalPlusLowRank(d, u, C=0 * b),
        Gram(rng.standard_normal((m, n)), center="features"),
    ):
        assert inertia(op) == of(np.linalg.eigvalsh(op.columns())), op


@dtypes
def test_structures_of_every_library(backend, dtype):
    a = hermitian(4, 1, dtype)
    u = backend(hermitian(4, 2, dtype)[:, :2])
    d = backend(np.array([0.0, -1.0, 2.0, 0.0]))
    for op in (
        Kronecker(backend(a), backend(a)),
        DiagonalPlusLowRank(d, u, C=backend(hermitian(2, 3, dtype))),
        DiagonalPlusLowRank(d + 1.0 - d, u),
        Gram(u, shift=0.5),
    ):
        dense = to_host(op.columns())
        assert inertia(op, shift=-1.0) == of(np.linalg.eigvalsh(dense) - 1.0)


def test_many_zeros_of_a_diagonal_make_no_large_matrix():
    d = np.repeat([0.0, 1.0, -1.0], 50_000)
    u = np.random.default_rng(0).standard_normal((150_000, 2))
    assert inertia(DiagonalPlusLowRank(d, u)) == (50_002, 50_000, 49_998)


@pytest.mark.parametrize("method", ["auto", "exact"])
def test_counts_of_large_sparse_matrices_are_exact(method):
    matrix, spectrum = laplacian(50, 51), laplacian_eigenvalues(50, 51)
    for low, high in [(0.5, 3.9), (-np.inf, 1.0), (2.0, np.inf), (-np.inf, np.inf), (9, 10)]:
        inside = np.sum((spectrum >= low) & (spectrum <= high))
        value, info = eigencount(matrix, low, high, method=method, return_info=True)
        assert (value, info.method, info.matvecs) == (inside, "exact", 0)


def test_counts_of_blocks_and_at_an_eigenvalue():
    matrix, spectrum = laplacian(50, 51), laplacian_eigenvalues(50, 51)
    twice = BlockDiagonal(matrix, Shifted(matrix, 1.0))
    expected = np.sum(spectrum <= 1.5) + np.sum(spectrum <= 0.5)
    assert eigencount(twice, 0, 1.5) == expected
    smallest = spectrum.min()
    assert eigencount(matrix, 0, smallest, method="exact") == 1
    square = laplacian(100, 100)  # an eigenvalue of multiplicity 100
    assert eigencount(square, 0, 4.0, method="exact") == 5050
    noise = np.random.default_rng(0).uniform(-3e-5, 3e-5, 100**2)
    square = square + sp.diags_array(noise)  # a cluster about the end
    with pytest.raises(ValueError, match="certifies no count"):
        eigencount(square, 0, 4.0, method="exact")
    with pytest.warns(AccuracyWarning):
        found, info = eigencount(square, 0, 4.0, rng=0, moments=64, return_info=True)
    assert info.method == "lanczos"
    assert abs(found - 5050) <= info.bias_bound + 6 * info.stderr


def test_inertia_is_named():
    found = inertia(np.diag([1.0, -1.0, 2.0]))
    assert (found.positive, found.negative, found.zero) == (2, 1, 0)


@pytest.mark.parametrize("m", [700, 833])
def test_of_saddle_points(m):
    """An eigenvalue of 2e-6 beside those of 1: the count and the inertia agree."""
    n = 3 * m
    band = [-np.ones(n - 1), 4 * np.ones(n), -np.ones(n - 1)]
    h = 1e-6 * sp.diags_array(band, offsets=[-1, 0, 1])
    j = sp.diags_array([np.ones(m), -2 * np.ones(m), np.ones(m)], offsets=[0, 1, 2], shape=(m, n))
    kkt = sp.block_array([[h, j.T], [j, None]]).tocsc()
    assert tuple(inertia(kkt)) == (n, m, 0)
    assert float(eigencount(kkt, -np.inf, 0.0)) == m


@pytest.mark.parametrize(
    ("form", "n"), [(np.asarray, 60), (sp.csr_array, 60), (torch.tensor, 60), (sp.csr_array, 2500)]
)
def test_of_rank_five_in_single_precision(form, n):
    x = np.zeros((n, 5), np.float32)
    rng = np.random.default_rng(0)
    x[:200] = rng.standard_normal((min(n, 200), 5))
    assert tuple(inertia(form(x @ x.T))) == (5, 0, n - 5)
