"""A few long runs correct many short ones: the same truth, for fewer products."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from specdens import aslinearoperator, logdet
from specdens.estimation import multilevel as two_levels
from specdens.estimation.multilevel import divided
from specdens.estimation.truncation import (
    changes,
    correction_scale,
    correction_scatter,
    integrate_factors,
)
from specdens.operators.power_traces import PowerTraces
from specdens.recurrences.lanczos import tridiagonalize
from specdens.recurrences.quadrature import gauss
from specdens.results import UNBOUNDED
from specdens.scalar_functions import LOG, scalar_function
from tests.specdens.matrices import known

N = 4000
DECAY = np.geomspace(1e-3, 1, N)
"""Wants long runs (a condition number of 1,000) and many (no few eigenvectors tell it)."""


def runs(eigenvalues, steps, *, seed=0):
    op = aslinearoperator(np.diag(eigenvalues)) if len(eigenvalues) < 100 else known(eigenvalues)
    signs = np.random.default_rng(seed).choice([-1.0, 1.0], size=(len(eigenvalues), len(steps)))
    return [tridiagonalize(op, z[:, None], m)[0] for z, m in zip(signs.T, steps, strict=True)]


def value(factor, f):
    rule = gauss(factor)
    return rule.integrate(f.on_host(rule.nodes))


@given(
    long_runs=st.integers(2, 4), short_runs=st.integers(1, 4), m=st.integers(2, 8),
    seed=st.integers(0, 99),
)  # fmt: skip
def test_the_estimate_is_that_of_the_module(long_runs, short_runs, m, seed):
    """Literally: the mean of short values, plus the mean of what more steps changed."""
    f = scalar_function(np.tanh)
    spectrum = np.linspace(0.1, 3, 60)
    factors = runs(spectrum, [20] * long_runs + [m] * short_runs, seed=seed)
    found = integrate_factors(factors, f, UNBOUNDED, unit=0.0, long_runs=long_runs)
    short = [value(factor.leading(m), f) for factor in factors]
    changed = [value(factor, f) - value(factor.leading(m), f) for factor in factors[:long_runs]]
    assert found.values.mean() == pytest.approx(np.mean(short) + np.mean(changed), rel=1e-12)
    whole = integrate_factors(factors[:long_runs], f, UNBOUNDED, unit=0.0)
    assert found.bias == whole.bias
    np.testing.assert_allclose(changes(factors[:long_runs], [m], f, UNBOUNDED)[0], changed)


@given(degree=st.integers(0, 5), seed=st.integers(0, 99))
def test_polynomials_need_no_correction(degree, seed):
    f = scalar_function(lambda x: x**degree)
    factors = runs(np.linspace(0.1, 3, 60), [20, 20, 3, 3], seed=seed)
    found = integrate_factors(factors, f, UNBOUNDED, unit=0.0, long_runs=2)
    np.testing.assert_allclose(found.values, [value(x, f) for x in factors], rtol=1e-11)
    assert found.changed <= 1e-11 * abs(found.values.mean())


def test_what_is_known_exactly_still_corrects_the_short_runs():
    traces = PowerTraces.about_zero((DECAY.sum(), (DECAY**2).sum()), N)
    factors = runs(DECAY, [60, 60, 60] + [20] * 12)
    shared = {"unit": 1e-16, "long_runs": 3}
    plain = integrate_factors(factors, LOG, UNBOUNDED, **shared)
    better = integrate_factors(factors, LOG, UNBOUNDED, traces=traces, **shared)
    assert better.values.std() < 0.6 * plain.values.std()
    truth = np.log(DECAY).mean()
    assert abs(better.values.mean() - truth) < 4 * better.values.std() / np.sqrt(15)


def test_few_long_runs_are_believed_less():
    assert correction_scale(1, 10) == np.inf
    scales = [correction_scale(k, 20) for k in (2, 3, 4, 8, 16, 20)]
    assert scales == sorted(scales, reverse=True)
    assert scales[-1] == 0
    assert correction_scale(4, 10**6) == pytest.approx(stats.t.ppf(0.975, 3) / 1.95996 / 2, 1e-3)


def test_agreement_by_chance_is_not_believed():
    assert correction_scatter(np.array([5.0, 5.0])) > 0.1
    assert correction_scatter(np.array([0.0, 2.0])) == pytest.approx(2**0.5)


@pytest.mark.parametrize("left", [5, 60, 500, 5000])
@pytest.mark.parametrize("target", [0.0, 5.0, 50.0])
def test_divisions_keep_to_what_is_left_and_are_no_worse(left, target):
    factors = runs(DECAY, [60, 60])
    options = {"mass": float(N), "variance": 40.0**2, "left": left, "target": target}
    found = divided(factors, LOG, UNBOUNDED, **options)
    assert 0 <= found.cost <= left
    assert 1 <= found.steps <= 60
    assert found.long_runs >= 2
    plain = 40 / np.sqrt(2 + left // 60)
    assert found.stderr <= max(plain, target) * 1.02


def test_divisions_of_what_few_products_tell():
    """Cheap: short runs save products. Exhausted Krylov spaces: there is nothing to correct."""
    factors = runs(DECAY, [60, 60])
    options = {"mass": float(N), "variance": 40.0**2, "left": 2000, "target": 0.0}
    found = divided(factors, LOG, UNBOUNDED, **options)
    assert found.steps < 30
    assert found.long_runs >= 3
    ended = runs(np.repeat([1.0, 2.0, 5.0], 30), [10, 10])
    assert divided(ended, LOG, UNBOUNDED, **options).long_runs == 2


def estimates(seeds):
    op = known(DECAY)
    return [logdet(op, max_matvecs=400, rng=s, return_info=True)[1] for s in range(seeds)]


@pytest.fixture(scope="module")
def two_lengths():
    return estimates(40)


def test_they_are_narrower_than_runs_of_one_length(two_lengths, monkeypatch):
    monkeypatch.setattr(two_levels, "WORTH_IT", 0.0)
    one_length = estimates(8)
    width = [np.mean([info.stderr for info in found]) for found in (two_lengths, one_length)]
    assert width[0] < 0.8 * width[1]


def test_their_intervals_hold(two_lengths):
    assert max(info.matvecs for info in two_lengths) <= 400
    error = np.array([info.value for info in two_lengths]) - np.log(DECAY).sum()
    half = np.array([info.interval()[1] - info.value for info in two_lengths])
    missed = int(np.count_nonzero(np.abs(error) > half))
    assert stats.binomtest(missed, len(error), 0.05, alternative="greater").pvalue > 1e-4
    # The standard error is that of the errors, within what 40 of them tell.
    ratio = np.sqrt(np.mean(error**2) / np.mean([info.stderr**2 for info in two_lengths]))
    assert 0.6 < ratio < 1.4


def test_exhausted_short_runs_are_not_corrected():
    """They are exact; the long ones tell what they lack of theirs alone."""
    spectrum = np.repeat([1.0, 2.0, 5.0], 30)
    ended = runs(spectrum, [10, 10], seed=1)
    assert all(factor.residual == 0 for factor in ended)
    long = runs(np.linspace(1, 5, 90), [10, 10], seed=2)
    found = integrate_factors([*long, *ended], LOG, UNBOUNDED, unit=0.0, long_runs=2)
    np.testing.assert_allclose(found.values[2:], [value(x, LOG) for x in ended], atol=1e-6)


def test_infinite_values_stay_infinite_without_a_warning():
    factors = runs(np.linspace(0.1, 3, 60), [20, 20, 5, 5])
    pole = scalar_function("log")
    shifted = [
        replace(x, diagonal=x.diagonal * 0, off_diagonal=x.off_diagonal * 0) for x in factors
    ]
    found = integrate_factors(shifted, pole, UNBOUNDED, unit=0.0, long_runs=2)
    assert np.all(found.values == -np.inf)
    assert correction_scatter(np.array([np.inf, 1.0])) == np.inf
