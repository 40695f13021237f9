"""How far m steps are from all steps: the formulas, the floor, and where which rule serves."""

import math
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from specdens import AccuracyWarning, aslinearoperator, logdet
from specdens.estimation.goal import tridiagonal_of
from specdens.estimation.truncation import foreseen_bias, integrate_factors
from specdens.recurrences.chebyshev_series import nodes
from specdens.recurrences.lanczos import Tridiagonal, tridiagonalize
from specdens.recurrences.quadrature import Rule, averaged, gauss, radau
from specdens.results import UNBOUNDED, SpectralBounds
from specdens.scalar_functions import LOG, scalar_function
from specdens.testing import rotated

UNIT = np.finfo(float).eps


def measure(nodes_, weights=None):
    """Return the whole tridiagonal of a discrete measure."""
    weights = np.ones(len(nodes_)) if weights is None else weights
    return tridiagonal_of(Rule(np.asarray(nodes_), weights / weights.sum()), len(nodes_))


def mean(nodes_, f, weights=None):
    weights = np.ones(len(nodes_)) if weights is None else weights
    return weights @ f(np.asarray(nodes_)) / weights.sum()


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 8), st.integers(0, 2**32))
def test_the_averaged_rule_is_exact_for_two_degrees_more_than_gauss(m, seed):
    """A Gauss rule of m - 1 nodes is exact to degree 2 m - 3; this one to 2 m, at its products."""
    rng = np.random.default_rng(seed)
    x, w = np.sort(rng.uniform(-1, 1, 40)), rng.uniform(0.5, 1, 40)
    rule = averaged(measure(x, w).leading(m))
    for degree in range(2 * m + 1):
        exact = mean(x, lambda t, k=degree: t**k, w)
        assert rule.weights @ rule.nodes**degree == pytest.approx(exact, abs=1e-10)


def test_the_averaged_rule_of_chebyshevs_measure_is_far_better():
    """The tridiagonal of 1/sqrt(1 - t^2) is constant from its second row on: its mirror image."""
    x = 1.2 + nodes(4000)
    factor = measure(np.sort(x)[::20], None).leading(8)
    truth = mean(np.sort(x)[::20], np.log)
    plain, better = (
        rule.weights @ np.log(rule.nodes) for rule in (gauss(factor), averaged(factor))
    )
    assert abs(better - truth) < abs(plain - truth) / 20


def test_nothing_to_continue():
    assert averaged(Tridiagonal(np.array([1.0]), np.zeros(0), 0.5)) is None
    assert averaged(Tridiagonal(np.array([1.0, 2.0]), np.array([0.3]), 0.0)) is None


def test_the_bias_is_twice_the_extrapolation():
    """Gauss rules (a function of one's own), with the changes computed by hand."""
    f = scalar_function(np.log)
    whole = measure(np.geomspace(1e-3, 1, 200))
    factor = whole.leading(12)

    def value(k):
        rule = gauss(factor.leading(k))
        return rule.weights @ np.log(rule.nodes)

    second = max(abs(value(12) - value(k)) for k in (6, 9, 11))
    first = abs(value(6) - value(3))
    ratio = second / first
    found = integrate_factors([factor], f, UNBOUNDED, unit=0.0)
    assert found.bias == pytest.approx(2 * second * ratio / (1 - ratio), rel=1e-10)
    likely, reported = foreseen_bias([factor], f, UNBOUNDED, unit=0.0)
    assert (2 * likely, reported) == (found.bias, found.bias)


def test_the_bias_of_averaged_rules_is_a_share_of_what_they_moved():
    x = np.linspace(0.2, 2, 300)
    factor = measure(x).leading(4)
    gauss_, better = (r.weights @ np.exp(r.nodes) for r in (gauss(factor), averaged(factor)))
    found = integrate_factors([factor], scalar_function("exp"), UNBOUNDED, unit=0.0)
    assert found.values[0] == better
    assert 0.2 * abs(better - gauss_) * 0.99 <= found.bias <= 2 * abs(better - gauss_)
    assert abs(better - mean(x, np.exp)) <= found.bias


@pytest.mark.parametrize("hidden", [1e-12, 1e-10])
def test_an_eigenvalue_that_no_probe_has_met_is_allowed_for(hidden):
    """The floor: a tenth of the gap that the limit of precision would leave."""
    x = np.r_[hidden, np.linspace(0.02, 1, 400)]
    factor = measure(x).leading(8)
    found = integrate_factors([factor], LOG, UNBOUNDED, unit=UNIT)
    lowest = radau(factor, UNIT * gauss(factor).nodes[-1])
    rule = gauss(factor)
    gap = rule.weights @ np.log(rule.nodes) - lowest.weights @ np.log(lowest.nodes)
    assert 0.1 * gap * (1 - 1e-9) <= found.bias <= gap * (1 + 1e-9)


def test_results_that_miss_small_eigenvalues_do_not_call_themselves_converged():
    """A few tiny ones below a gap: runs must know that they cannot see them."""
    x = np.r_[[1e-10] * 3, np.linspace(0.02, 1, 517)]
    op, truth, wrong = rotated(x), np.log(x).sum(), 0
    for seed in range(10):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", AccuracyWarning)
            _, info = logdet(op, method="lanczos", moments=16, rng=seed, return_info=True)
        low, high = info.interval(0.95)
        wrong += info.converged and not low <= truth <= high
    assert wrong == 0


def test_brackets_contain_the_truth_and_the_value():
    x = np.linspace(0.1, 1, 300)
    known = SpectralBounds(0.1, 1.0, True, True, "by construction")
    for name, f in (("log", np.log), ("inv", lambda t: 1 / t), ("sqrt", np.sqrt), ("exp", np.exp)):
        factor = measure(x).leading(4)
        found = integrate_factors([factor], scalar_function(name), known, unit=0.0)
        assert found.rigorous
        assert abs(found.values[0] - mean(x, f)) <= found.bias
        rule, end = gauss(factor), 1.0 if name == "exp" else 0.1
        other = radau(factor, end)
        sides = sorted(r.weights @ f(r.nodes) for r in (rule, other))
        assert sides[0] <= found.values[0] <= sides[1]


def test_values_of_any_probe_are_the_same_alone():
    """Which rule serves is decided for all probes together, but bias is that of the mean."""
    op = aslinearoperator(rotated(np.linspace(0.5, 2, 600)))
    z = np.random.default_rng(0).choice([-1.0, 1.0], (600, 3))
    factors = tridiagonalize(op, z, 6)
    together = integrate_factors(factors, LOG, UNBOUNDED, unit=UNIT).values
    alone = [integrate_factors([t], LOG, UNBOUNDED, unit=UNIT).values[0] for t in factors]
    np.testing.assert_allclose(together, alone, rtol=1e-14)


def test_one_step_says_nothing():
    factor = measure(np.linspace(1, 2, 50)).leading(1)
    assert integrate_factors([factor], LOG, UNBOUNDED, unit=0.0).bias == math.inf
