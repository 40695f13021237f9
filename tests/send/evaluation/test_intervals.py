"""Means over prompts: SciPy's own t interval, invariances, coverage, and the ratio by jackknife."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis.extra.numpy import arrays
from hypothesis.strategies import floats, integers
from scipy.stats import binom, ttest_1samp

from send.evaluation.intervals import mean_over_prompts

VALUES = arrays(np.float64, integers(2, 20), elements=floats(-100, 100))


@given(VALUES, floats(0.5, 0.999))
def test_it_is_the_interval_of_the_t_test(x, level):
    found = mean_over_prompts(x, level=level)
    assert found.value == pytest.approx(x.mean(), abs=1e-12)
    assert found.prompts == len(x)
    if np.ptp(x) > 1e-6:
        expected = ttest_1samp(x, 0.0).confidence_interval(level)
        assert (found.low, found.high) == pytest.approx((expected.low, expected.high), rel=1e-9)


@given(VALUES, floats(-50, 50), floats(0.1, 10))
def test_it_moves_and_stretches_with_the_values_and_ignores_their_order(x, shift, scale):
    found, moved = mean_over_prompts(x), mean_over_prompts((scale * x + shift)[::-1])
    ends = np.array([found.value, found.low, found.high])
    np.testing.assert_allclose(
        [moved.value, moved.low, moved.high], scale * ends + shift, atol=1e-9 * (1 + scale * 100)
    )


@given(VALUES, floats(0.1, 10))
def test_equal_weights_are_no_weights(x, weight):
    weighted = mean_over_prompts(x, weights=np.full(len(x), weight))
    plain = mean_over_prompts(x)
    assert weighted.value == pytest.approx(plain.value, abs=1e-12)
    assert weighted.low == pytest.approx(plain.low, abs=1e-9)


def test_a_weighted_mean_is_that_of_all_tokens():
    per_prompt = [[1.0, 2.0, 6.0], [4.0], [5.0, 5.0]]
    found = mean_over_prompts(
        [np.mean(p) for p in per_prompt], weights=[len(p) for p in per_prompt]
    )
    assert found.value == pytest.approx(np.mean(np.concatenate(per_prompt)))


def test_the_width_of_a_ratio_is_that_of_the_jackknife():
    rng = np.random.default_rng(0)
    w = rng.integers(1, 40, 400)
    x = rng.standard_normal(400) + 0.05 * w
    left_out = [np.delete(w * x, i).sum() / np.delete(w, i).sum() for i in range(400)]
    jackknife = math.sqrt(399 / 400 * np.sum((left_out - np.mean(left_out)) ** 2))
    found = mean_over_prompts(x, weights=w)
    assert (found.high - found.low) / 2 / 1.966 == pytest.approx(jackknife, rel=0.02)


def test_it_covers_as_often_as_it_says():
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(2000):
        found = mean_over_prompts(rng.standard_normal(12) + 3, level=0.9)
        covered += found.low < 3 < found.high
    assert binom.ppf(5e-7, 2000, 0.9) <= covered <= binom.ppf(1 - 5e-7, 2000, 0.9)


def test_one_prompt_says_nothing_of_others():
    found = mean_over_prompts([2.0])
    assert (found.value, found.low, found.high, found.prompts) == (2.0, -math.inf, math.inf, 1)


def test_an_increasing_function_keeps_the_coverage():
    found = mean_over_prompts([0.0, 1.0, 2.0]).through(math.exp)
    plain = mean_over_prompts([0.0, 1.0, 2.0])
    assert (found.value, found.low, found.high) == (
        math.exp(plain.value), math.exp(plain.low), math.exp(plain.high)
    )  # fmt: skip
    assert float(found) == found.value


@pytest.mark.parametrize(
    ("values", "level", "text"), [([], 0.9, "shape"), ([[1.0]], 0.9, "shape"), ([1.0], 1, "level")]
)
def test_what_is_no_sample_is_refused(values, level, text):
    with pytest.raises(ValueError, match=text):
        mean_over_prompts(values, level=level)
