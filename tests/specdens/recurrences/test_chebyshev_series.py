"""Series in closed form against numerical ones; kernels against their definitions."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad

from specdens.recurrences.chebyshev_series import (
    KERNELS,
    cumulative_weights,
    damping,
    expand,
    log_abs_series,
    log_series,
    nodes,
    to_unit,
    width,
)
from tests.specdens import naive


def value(series, x, low, high):
    t = to_unit(x, low, high)
    return sum(c * naive.chebyshev_polynomial(k, t) for k, c in enumerate(series.coefficients))


@given(low=st.floats(1e-3, 1.0), width=st.floats(0.1, 10.0), count=st.integers(2, 60))
def test_log_series_is_the_numerical_one_and_its_tail_holds(low, width, count):
    high = low + width
    series = log_series(low, high, count)
    numerical = expand(np.log, low, high, count)
    assert np.allclose(series.coefficients, numerical.coefficients, atol=1e-10)
    x = np.linspace(low, high, 200)
    error = np.abs(value(series, x, low, high) - np.log(x)).max()
    assert error <= series.tail + 1e-12
    assert error >= 0.2 * series.tail - 1e-12  # attained at the lower end: not a loose bound


@pytest.mark.parametrize(("low", "high"), [(-1.0, 2.0), (-3.0, 0.5), (0.0, 1.0)])
def test_log_abs_series_is_that_of_the_modulus(low, high):
    center, half = (low + high) / 2, (high - low) / 2
    series = log_abs_series(low, high, 6)
    zero = np.arccos(np.clip(-center / half, -1, 1))
    for k in range(6):

        def integrand(theta, k=k):
            return np.log(abs(center + half * np.cos(theta))) * np.cos(k * theta)

        points = None if zero in {0.0, np.pi} else [zero]
        integral, _ = quad(integrand, 0, np.pi, points=points, limit=400)
        assert series.coefficients[k] == pytest.approx(
            (1 if k == 0 else 2) / np.pi * integral, abs=1e-6
        )


def test_expand_resolves_smooth_functions_and_says_when_it_cannot():
    smooth = expand(np.exp, -1, 3, 30)
    assert smooth.resolved
    assert smooth.tail < 1e-12
    x = np.linspace(-1, 3, 100)
    assert np.allclose(value(smooth, x, -1, 3), np.exp(x), atol=1e-10)
    rough = expand(np.abs, -1, 2, 30)
    assert not rough.resolved
    assert np.abs(value(rough, x := np.linspace(-1, 2, 100), -1, 2) - np.abs(x)).max() < rough.tail


def test_expand_takes_complex_functions():
    series = expand(lambda x: 1 / (x - 2j), -1, 1, 40)
    x = np.linspace(-1, 1, 50)
    assert np.allclose(value(series, x, -1, 1), 1 / (x - 2j), atol=1e-12)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("count", [1, 2, 7, 64])
def test_kernels_keep_the_mass_and_only_damp(kernel, count):
    g = damping(kernel, count)
    assert g.shape == (count,)
    assert g[0] == pytest.approx(1)
    assert np.all((g >= -1e-15) & (g <= 1 + 1e-15))


@pytest.mark.parametrize("kernel", ["jackson", "fejer"])
@pytest.mark.parametrize("count", [3, 16, 65])
def test_positive_kernels_are_positive(kernel, count):
    g = damping(kernel, count)
    theta = np.linspace(0, np.pi, 501)
    k = np.arange(1, count)[:, None]
    values = 1 + 2 * (g[1:, None] * np.cos(k * theta)).sum(axis=0)
    assert values.min() > -1e-12


@pytest.mark.parametrize("count", [8, 33, 200])
def test_jackson_width_is_the_second_moment_of_the_kernel(count):
    """Smear a delta at t: the variance of the result is that of the kernel (exact formula)."""
    g = damping("jackson", count)
    for t in (-0.9, 0.0, 0.4):
        mu = naive.chebyshev_polynomial(np.arange(count), t) * g  # moments of the smeared delta
        mean, square = mu[1], (1 + mu[2]) / 2
        variance = square - mean**2
        assert np.sqrt(variance) == pytest.approx(width("jackson", count, np.array([t]))[0])
        assert mean == pytest.approx(g[1] * t)


def test_cumulative_weights_integrate_the_density():
    rng = np.random.default_rng(0)
    moments = rng.uniform(-1, 1, 9) * 0.1
    moments[0] = 1
    t = np.array([-1.0, -0.3, 0.5, 1.0])
    found = cumulative_weights(9, t) @ moments
    for end, value_ in zip(t, found, strict=True):
        theta = np.arccos(end)

        def integrand(phi):
            return moments[0] + 2 * (moments[1:] * np.cos(np.arange(1, 9) * phi)).sum()

        assert value_ == pytest.approx(quad(integrand, theta, np.pi)[0] / np.pi, abs=1e-10)


def test_unknown_kernel():
    with pytest.raises(ValueError, match="expected one of"):
        damping("gauss", 4)


def test_nodes_are_the_zeros_of_the_next_polynomial():
    assert np.allclose(np.cos(5 * np.arccos(nodes(5))), 0)
