"""Unbiasedness, variances, coverage. False alarms: below 1e-6 a test, and seeds are fixed."""

import math
import warnings
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from specdens import (
    AccuracyWarning,
    BlockDiagonal,
    Kronecker,
    aslinearoperator,
    logdet,
    trace,
    trace_function,
)
from specdens.testing import laplacian_eigenvalues, rotated, with_spectrum
from tests.specdens.samples import FALSE_ALARM, require_mean, require_variance

SEEDS = 200


EIGENVALUES = np.linspace(0.3, 3, 60)


@pytest.mark.parametrize("dtype", [float, complex], ids=["real", "complex"])
def test_logdet_is_unbiased(method, dtype):
    a = with_spectrum(EIGENVALUES, rng=2, dtype=dtype)
    options = {"method": method, "moments": 60, "probes": 2, "bounds": (0.3, 3.0)}
    found = [logdet(a, rng=seed, **options) for seed in range(SEEDS)]
    require_mean(found, np.log(EIGENVALUES).sum())


@pytest.mark.parametrize("dtype", [float, complex], ids=["real", "complex"])
def test_trace_has_hutchinsons_mean_and_variance(dtype):
    rng = np.random.default_rng(5)
    a = rng.standard_normal((40, 40)).astype(dtype)
    a = a + 1j * rng.standard_normal((40, 40)) if dtype is complex else a
    found = np.array([trace(a, method="lanczos", probes=1, rng=seed) for seed in range(4 * SEEDS)])
    require_mean(found.real, np.trace(a).real)
    off = a - np.diag(np.diag(a))
    if dtype is float:
        # 2 (||B||_F^2 - sum b_ii^2) with B the symmetric part.
        require_variance(found, 2 * np.sum(((off + off.T) / 2) ** 2))
    else:
        require_mean(found.imag, np.trace(a).imag)
        # The Hermitian part makes the real part: ||B||_F^2 - sum |b_ii|^2 for phases.
        require_variance(found.real, np.sum(np.abs((off + off.conj().T) / 2) ** 2))


@pytest.mark.parametrize("distribution", ["sphere", "orthogonal"])
@pytest.mark.parametrize("dtype", [float, complex], ids=["real", "complex"])
@pytest.mark.parametrize("count", [1, 15])
def test_variances_of_the_sphere_and_of_orthogonal_blocks(distribution, dtype, count):
    """(2n / (n+2)) (||A||^2 - |tr A|^2 / n) for one real probe, without the 2s for complex ones."""
    n = 20
    a = with_spectrum(np.linspace(0, 1, n) ** 2, rng=3, dtype=dtype)
    options = {"method": "hutchinson", "distribution": distribution, "probes": count}
    runs = [trace(a, rng=s, return_info=True, **options)[1] for s in range(2 * SEEDS)]
    spread = np.sum(np.abs(a) ** 2) - np.trace(a).real ** 2 / n
    one = spread * (2 * n / (n + 2) if dtype is float else n / (n + 1))
    left = (n - count) / (n - 1) if distribution == "orthogonal" else 1
    require_mean([info.value.real for info in runs], np.trace(a).real)
    require_variance([info.value.real for info in runs], one * left / count)
    if count > 4:
        require_mean([info.stderr**2 for info in runs], one * left / count)


def test_the_standard_error_is_the_scatter(method):
    op = rotated(EIGENVALUES.repeat(4))
    runs = [
        trace_function(
            op, "sqrt", method=method, moments=40, probes=10, bounds=(0.3, 3.0), rng=seed,
            return_info=True,
        )
        for seed in range(SEEDS)
    ]  # fmt: skip
    reported = np.mean([info.stderr**2 for _, info in runs])
    require_variance([float(v) for v, _ in runs], reported)


# (eigenvalues, moments): from resolved to hopeless, none of them with known bounds.
CASES = {
    "resolved": (np.linspace(0.3, 3, 300), 40),
    "half resolved": (laplacian_eigenvalues(20, 15), 16),
    "few steps": (1 / np.arange(1, 301) + 1e-3, 12),
    "hopeless": (np.geomspace(1e-8, 1, 300), 12),
}


@pytest.fixture(scope="module")
def estimates():
    """Return truth and estimates of each case, over seeds."""
    found = {}
    for name, (eigenvalues, moments) in CASES.items():
        op = rotated(eigenvalues)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", AccuracyWarning)
            runs = [
                logdet(op, method="lanczos", moments=moments, probes=12, rng=s, return_info=True)[1]
                for s in range(100)
            ]
        found[name] = (np.log(eigenvalues).sum(), runs)
    return found


def coverage(estimates, change=lambda info: info):
    """Return (covered, pairs) of nominal 95 % intervals."""
    inside = [
        low <= truth <= high
        for truth, runs in estimates.values()
        for low, high in (change(info).interval(0.95) for info in runs)
    ]
    return sum(inside), len(inside)


def too_few(covered, pairs):
    """Whether a coverage of 95 % would give so few only once in a million times."""
    return covered < stats.binom.ppf(FALSE_ALARM, pairs, 0.95)


def test_intervals_cover(estimates):
    assert not too_few(*coverage(estimates))


def test_the_coverage_test_fails_without_the_bias_bound(estimates):
    assert too_few(*coverage(estimates, lambda info: replace(info, bias_bound=0.0)))


def test_what_calls_itself_converged_covers(estimates):
    converged = {
        name: (truth, [info for info in runs if info.converged])
        for name, (truth, runs) in estimates.items()
    }
    covered, pairs = coverage(converged)
    assert pairs >= 100
    assert not too_few(covered, pairs)


def test_the_hopeless_case_says_so(estimates):
    assert not any(info.converged for info in estimates["hopeless"][1])


def test_intervals_of_other_levels_nest():
    _, info = trace(
        aslinearoperator(with_spectrum(EIGENVALUES)), method="lanczos", rng=0, return_info=True
    )
    ends = [info.interval(level) for level in (0.5, 0.95, 0.999)]
    assert ends[2][0] < ends[1][0] < ends[0][0] < ends[0][1] < ends[1][1] < ends[2][1]


@pytest.mark.slow
def test_intervals_cover_on_many_seeds():
    """2,000 runs on lattices of several shapes, with and without enough moments."""
    inside, pairs, trusted, held = 0, 0, 0, 0
    for shape in ((600,), (30, 20), (9, 9, 9)):
        eigenvalues = laplacian_eigenvalues(*shape)
        op, truth = rotated(eigenvalues), np.log(eigenvalues).sum()
        for moments in (10, 30, 90):
            for seed in range(223):
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", AccuracyWarning)
                    _, info = logdet(
                        op, method="lanczos", moments=moments, rng=1000 * moments + seed,
                        return_info=True,
                    )  # fmt: skip
                low, high = info.interval(0.95)
                inside, pairs = inside + (low <= truth <= high), pairs + 1
                if info.converged:
                    held, trusted = held + (low <= truth <= high), trusted + 1
    assert pairs > 2000
    assert not too_few(inside, pairs)
    assert trusted > 500
    assert not too_few(held, trusted)


def test_parts_have_independent_probes():
    """The variances of the parts of a sum and of a product are those that their rules state."""
    rng = np.random.default_rng(3)
    a, b = (x + x.T + 9 * np.eye(12) for x in rng.standard_normal((2, 12, 12)))
    # The same matrix twice: with the same probes the two estimates would be one.
    parts = [aslinearoperator(lambda v, x=x: x @ v, n=12, hermitian=True) for x in (a, a, b)]
    variance = [2 * np.sum((x - np.diag(np.diag(x))) ** 2) / 4 for x in (a, a, b)]
    traces = [np.trace(x) for x in (a, a, b)]
    sums, products = (
        [trace(kind(*parts), probes=4, rng=seed) for seed in range(2 * SEEDS)]
        for kind in (BlockDiagonal, Kronecker)
    )
    require_mean(sums, sum(traces))
    require_variance(sums, sum(variance))
    require_mean(products, math.prod(traces))
    squares = [t**2 + v for t, v in zip(traces, variance, strict=True)]
    require_variance(products, math.prod(squares) - math.prod(t**2 for t in traces))
