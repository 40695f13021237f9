"""Identities that hold at any degree with the same probes, by either recurrence; and at full order.

Bounds are given, moved along with the matrix, so that the Chebyshev recurrence is the same one.
"""

import math
from itertools import pairwise

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import assume, given
from hypothesis import strategies as st

from specdens import (
    aslinearoperator,
    density,
    eigencount,
    logdet,
    slogdet,
    trace,
    trace_function,
)
from specdens.recurrences.lanczos import tridiagonalize
from specdens.recurrences.quadrature import gauss
from specdens.testing import with_spectrum

pytestmark = pytest.mark.filterwarnings("ignore::specdens.AccuracyWarning")  # not the point

RNG = np.random.default_rng(0)
N = 24
SIZES = st.integers(2, 30)
SEEDS = st.integers(0, 10_000)
MOMENTS = st.integers(4, 40)
RELATIVE = 1e-10


def spectrum(n, seed, low=0.3, high=3.0):
    rng = np.random.default_rng(seed)
    return np.sort(np.concatenate([[low, high], rng.uniform(low, high, n)]))[: n + 2]


def matrix(n, seed, *, dtype=float, low=0.3, high=3.0):
    return with_spectrum(spectrum(n - 2, seed, low, high) if n > 2 else [low, high][:n],
                         rng=seed, dtype=dtype)  # fmt: skip


def phases(n, count, seed):
    return np.random.default_rng(seed).choice([1, 1j, -1, -1j], size=(n, count))


def close(a, b, scale=1.0):
    assert abs(a - b) <= RELATIVE * max(1.0, abs(a), abs(scale)), (a, b)


dtypes = pytest.mark.parametrize("dtype", [float, complex], ids=["real", "complex"])


@dtypes
@given(n=SIZES, seed=SEEDS, moments=MOMENTS, power=st.integers(-20, 20))
def test_scaling(method, dtype, n, seed, moments, power):
    a, s = matrix(n, seed, dtype=dtype), 1.7**power
    options = {"method": method, "moments": moments, "probes": 3, "rng": seed}
    one = logdet(a, bounds=(0.3, 3.0), **options)
    close(logdet(s * a, bounds=(0.3 * s, 3.0 * s), **options), one + n * math.log(s), n * 20)


@dtypes
@given(n=SIZES, seed=SEEDS, moments=MOMENTS, shift=st.floats(-5, 5))
def test_a_density_moves_with_the_spectrum(method, dtype, n, seed, moments, shift):
    a = matrix(n, seed, dtype=dtype)
    options = {"method": method, "moments": moments, "probes": 3, "rng": seed}
    rho = density(a, bounds=(0.3, 3.0), **options)
    moved = density(a + shift * np.eye(n), bounds=(0.3 + shift, 3.0 + shift), **options)
    assert np.allclose(moved.moments, rho.moments, atol=1e-9)
    x = np.linspace(0.35, 2.95, 9)
    assert np.allclose(moved(x + shift), rho(x), atol=1e-7)
    assert np.allclose(moved.quantile(0.3), rho.quantile(0.3) + shift, atol=1e-6)


@given(n=SIZES, seed=SEEDS, moments=MOMENTS)
def test_transposition(method, n, seed, moments):
    """The transpose of a Hermitian matrix is its conjugate: conjugate probes see the same."""
    a, z = matrix(n, seed, dtype=complex), phases(n, 3, seed)
    options = {"method": method, "moments": moments, "bounds": (0.3, 3.0)}
    close(logdet(a.T, probes=z.conj(), **options), logdet(a, probes=z, **options), n)


@dtypes
@given(n=SIZES, seed=SEEDS, moments=MOMENTS)
def test_permutation_with_permuted_probes(method, dtype, n, seed, moments):
    a = matrix(n, seed, dtype=dtype)
    z = phases(n, 3, seed) if dtype is complex else phases(n, 3, seed).real + 0.5
    order = np.random.default_rng(seed).permutation(n)
    options = {"method": method, "moments": moments, "bounds": (0.3, 3.0)}
    moved = logdet(a[np.ix_(order, order)], probes=z[order], **options)
    close(moved, logdet(a, probes=z, **options), n)


@dtypes
@given(n=SIZES, seed=SEEDS, moments=MOMENTS, a=st.floats(-3, 3), b=st.floats(-3, 3))
def test_linearity_in_f(method, dtype, n, seed, moments, a, b):
    m = matrix(n, seed, dtype=dtype)
    options = {"method": method, "moments": moments, "probes": 3, "rng": seed,
               "bounds": (0.3, 3.0)}  # fmt: skip

    def one(x):
        return np.exp(-x)

    def two(x):
        return x / (1 + x)

    both = trace_function(m, lambda x: a * one(x) + b * two(x), **options)
    parts = a * trace_function(m, one, **options) + b * trace_function(m, two, **options)
    close(both, parts, n * 10)


@given(n=st.integers(21, 60), seed=SEEDS, moments=st.integers(2, 40))
def test_signs_have_no_variance_on_diagonal_matrices(method, n, seed, moments):
    d = np.random.default_rng(seed).uniform(0.3, 3.0, n)
    _, info = logdet(
        sp.diags_array(d), method=method, moments=moments, rng=seed, bounds=(0.3, 3.0),
        return_info=True,
    )  # fmt: skip
    assert info.stderr < 1e-12 * n


@given(n=st.integers(21, 60), seed=SEEDS)
def test_phases_have_no_variance_on_complex_diagonal_matrices(method, n, seed):
    d = np.random.default_rng(seed).uniform(0.3, 3.0, n).astype(complex)
    _, info = logdet(np.diag(d), method=method, rng=seed, bounds=(0.3, 3.0), return_info=True)
    assert info.stderr < 1e-12 * n


@dtypes
@given(n=SIZES, seed=SEEDS, moments=MOMENTS)
def test_mass_one_and_positivity_of_jackson_densities(method, dtype, n, seed, moments):
    rho = density(matrix(n, seed, dtype=dtype), method=method, moments=moments, probes=2, rng=seed)
    assert rho.moments[0] == pytest.approx(1)
    assert np.abs(rho.moments).max() <= 1 + 1e-12
    assert rho(rho.energies(200)).min() >= -1e-10
    assert rho.cumulative(rho.bounds[1]) == pytest.approx(1)


@dtypes
@given(
    n=SIZES, seed=SEEDS, moments=MOMENTS, cuts=st.lists(st.floats(0, 3.5), min_size=2, max_size=6)
)
def test_counts_are_monotone_and_additive(method, dtype, n, seed, moments, cuts):
    a = matrix(n, seed, dtype=dtype)
    rho = density(a, method=method, moments=moments, probes=2, rng=seed)
    cuts = sorted(cuts)
    counts = [rho.count(0.0, c) for c in cuts]
    assert np.all(np.diff(counts) >= -1e-9)
    whole = rho.count(cuts[0], cuts[-1])
    parts = sum(rho.count(a, b) for a, b in pairwise(cuts))
    assert whole == pytest.approx(parts, abs=1e-9)
    options = {"method": method, "moments": moments, "probes": 2, "rng": seed}
    counted = [eigencount(a, -1, c, **options) for c in cuts]
    assert np.all(np.diff(counted) >= -1e-9)


@dtypes
@given(n=SIZES, seed=SEEDS)
def test_identity_probes_and_twice_n_moments_are_exact(dtype, n, seed):
    a = matrix(n, seed, dtype=dtype)
    truth = np.linalg.slogdet(a)[1]
    close(logdet(a, method="lanczos", probes=n, moments=2 * n), truth, n)
    close(logdet(a, method="lanczos", probes=np.eye(n), moments=2 * n), truth, n)
    b = a + np.triu(np.ones((n, n)), 1)
    sign, truth = np.linalg.slogdet(b)
    del sign
    found = logdet(b, method="lanczos", probes=n, moments=2 * n)
    assert abs(found - truth) < 1e-6 * n  # the smallest singular value squared is lost earlier


@dtypes
@given(n=SIZES, seed=SEEDS)
def test_a_function_of_few_values_is_exact_with_any_probe(method, dtype, n, seed):
    """tr f(c I) for every probe, degree and method."""
    c = np.random.default_rng(seed).uniform(0.3, 3.0)
    a = (c * np.eye(n)).astype(dtype)
    close(logdet(a, method=method, moments=4, probes=1, rng=seed), n * math.log(c), n)


@dtypes
@given(n=st.integers(2, 12), m=st.integers(2, 12), seed=SEEDS)
def test_blocks_add(dtype, n, m, seed):
    a, b = matrix(n, seed, dtype=dtype), matrix(m, seed + 1, dtype=dtype)
    both = sp.block_diag([a, b]).toarray()
    close(logdet(both), logdet(a) + logdet(b), n + m)
    options = {"method": "lanczos", "moments": 2 * (n + m)}
    close(
        logdet(both, probes=n + m, **options),
        logdet(a, probes=n, **options) + logdet(b, probes=m, **options),
        n + m,
    )


@dtypes
@given(n=st.integers(2, 6), m=st.integers(2, 6), seed=SEEDS)
def test_kronecker(dtype, n, m, seed):
    a, b = matrix(n, seed, dtype=dtype), matrix(m, seed + 1, dtype=dtype)
    product = np.kron(a, b)
    close(logdet(product), m * logdet(a) + n * logdet(b), n * m)
    close(
        logdet(product, method="lanczos", probes=n * m, moments=2 * n * m),
        m * logdet(a) + n * logdet(b),
        n * m,
    )
    close(trace(product), trace(a) * trace(b), n * m)


@dtypes
@given(n=SIZES, seed=SEEDS)
def test_inverse_and_transpose(dtype, n, seed):
    a = matrix(n, seed, dtype=dtype) + np.triu(np.ones((n, n)), 1)
    sign, value = slogdet(a)
    assume(np.linalg.cond(a) < 1e6)
    inverse_sign, inverse = slogdet(np.linalg.inv(a))
    close(inverse, -value, n)
    assert inverse_sign * sign == pytest.approx(1)
    transposed_sign, transposed = slogdet(a.T)
    close(transposed, value, n)
    assert transposed_sign == pytest.approx(sign)


@dtypes
@given(n=SIZES, seed=SEEDS)
def test_order_of_semidefinite_matrices(dtype, n, seed):
    a = matrix(n, seed, dtype=dtype)
    x = np.random.default_rng(seed).standard_normal((n, 2))
    assert logdet(a + x @ x.T) >= logdet(a)
    assert trace_function(a + x @ x.T, "sqrt") >= trace_function(a, "sqrt")
    assert trace_function(a + x @ x.T, "inv") <= trace_function(a, "inv")


@dtypes
@given(n=SIZES, seed=SEEDS)
def test_products_of_matrices(dtype, n, seed):
    a, b = matrix(n, seed, dtype=dtype), matrix(n, seed + 1, dtype=dtype)
    close(logdet(a @ b), logdet(a) + logdet(b), n)
    close(trace(a @ b), trace(b @ a), n)


@given(n=SIZES, seed=SEEDS, moments=MOMENTS, width=st.integers(1, 9))
def test_results_do_not_depend_on_the_width_of_blocks(method, n, seed, moments, width):
    a = matrix(n, seed)
    options = {"method": method, "moments": moments, "probes": 10, "rng": seed,
               "bounds": (0.3, 3.0)}  # fmt: skip
    whole = logdet(a, **options)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("specdens.estimation.sampling.WIDEST", width)
        close(logdet(a, **options), whole, n)


@given(n=SIZES, seed=SEEDS, moments=st.integers(2, 30))
def test_gauss_is_above_and_falls_with_every_step(n, seed, moments):
    """For log each probe's Gauss rule only improves."""
    a, z = matrix(n, seed), np.random.default_rng(seed).standard_normal((n, 2))
    eigenvalues, vectors = np.linalg.eigh(a)
    weights = (vectors.T @ z) ** 2
    truth = n * np.mean(np.log(eigenvalues) @ weights / weights.sum(axis=0))
    op = aslinearoperator(a)

    def value(steps):
        rules = [gauss(factor) for factor in tridiagonalize(op, z, steps)]
        return n * np.mean([rule.weights @ np.log(rule.nodes) for rule in rules])

    fewer, more = value(moments), value(moments + 1)
    assert fewer >= more - 1e-10 * n
    assert more >= truth - 1e-10 * n
