"""Estimates, intervals and how they read."""

import math

import pytest

from specdens import Estimate, SpectralBounds
from specdens.results import two_sided_quantile


def test_interval_is_students_plus_the_bias():
    info = Estimate(value=10.0, stderr=2.0, bias_bound=0.5, samples=20, method="lanczos")
    low, high = info.interval(0.95)
    assert high - 10 == pytest.approx(2.093024 * 2 + 0.5, rel=1e-6)
    assert 10 - low == pytest.approx(high - 10)


def test_few_probes_have_a_plug_in_and_the_normal_quantile():
    assert two_sided_quantile(0.95, 3) == pytest.approx(1.959964, rel=1e-6)
    assert two_sided_quantile(0.95, 4) == pytest.approx(3.182446, rel=1e-6)


def test_an_exact_value_is_a_point():
    assert Estimate(value=3.0).interval() == (3.0, 3.0)


def test_infinite_values_and_bounds():
    assert Estimate(value=-math.inf).interval() == (-math.inf, -math.inf)
    low, high = Estimate(value=1.0, bias_bound=math.inf).interval()
    assert (low, high) == (-math.inf, math.inf)


@pytest.mark.parametrize("level", [0.0, 1.0, -1, 95])
def test_bad_levels(level):
    with pytest.raises(ValueError, match="level"):
        Estimate(value=1.0).interval(level)


def test_conversions():
    assert float(Estimate(value=2.5)) == 2.5
    assert complex(Estimate(value=1 + 2j)) == 1 + 2j
    with pytest.raises(TypeError, match="complex"):
        float(Estimate(value=1 + 2j))


def test_reading():
    text = str(Estimate(value=3.0, matvecs=5))
    assert text == "3 (exact, 5 products)"
    text = str(
        Estimate(
            value=3.0, stderr=0.1, bias_bound=0.2, bias_rigorous=False, converged=False,
            samples=20, matvecs=200, method="lanczos",
        )
    )  # fmt: skip
    for part in ("±", "about 0.2", "200 products", "20 probes", "not converged"):
        assert part in text


def test_estimates_cannot_be_changed():
    with pytest.raises(AttributeError):
        Estimate(value=1.0).value = 2.0


def test_bounds_unpack_and_negate():
    bounds = SpectralBounds(-1.0, 3.0, True, False, "given", inner=(-0.5, 2.0))
    low, high = bounds
    assert (low, high) == (-1, 3)
    negative = bounds.negated()
    assert tuple(negative) == (-3, 1)
    assert (negative.low_rigorous, negative.high_rigorous) == (False, True)
    assert negative.inner == (-2, 0.5)
    assert "given" in str(bounds)
