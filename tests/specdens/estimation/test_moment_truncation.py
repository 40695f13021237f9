"""Chebyshev moments: exact for polynomials, rounding as large as the noise that it stands for."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from specdens.estimation.moment_truncation import integrate_moments
from specdens.results import SpectralBounds
from specdens.scalar_functions import scalar_function

BOUNDS = SpectralBounds(-1.0, 3.0, low_rigorous=True, high_rigorous=True, how="given")


def moments(eigenvalues, count, bounds=BOUNDS):
    t = (2 * eigenvalues - bounds.low - bounds.high) / (bounds.high - bounds.low)
    return np.cos(np.arange(count)[:, None] * np.arccos(t)).mean(axis=1)[:, None]


@given(st.lists(st.floats(-1, 3), min_size=1, max_size=9), st.integers(0, 7))
def test_a_polynomial_is_exact(eigenvalues, degree):
    x = np.array(eigenvalues)
    result = integrate_moments(moments(x, 8), scalar_function(lambda t: t**degree), BOUNDS)
    assert result.values[0] == pytest.approx(np.mean(x**degree), abs=1e-11 * 3**degree)
    assert result.bias < 1e-9


@pytest.mark.parametrize(
    "f", [np.exp, lambda x: np.exp(2 * x), lambda x: 1 / (x - 4), lambda x: 1 / (x - 1j)]
)
def test_rounding_covers_what_moved_eigenvalues_change(f):
    noise = 1e-7
    rng = np.random.default_rng(0)
    x = rng.uniform(-0.9, 0.5, 50)  # far from the steep end
    table = moments(x + noise, 60)
    result = integrate_moments(table, scalar_function(f), BOUNDS, noise=noise)
    change = abs(result.values[0] - np.mean(f(x)))
    assert change <= result.rounding <= 50 * change


def test_an_interval_of_one_point():
    point = SpectralBounds(2.0, 2.0, low_rigorous=True, high_rigorous=True, how="given")
    result = integrate_moments(np.ones((3, 2)), scalar_function(np.exp), point)
    assert np.array_equal(result.values, np.exp([2.0, 2.0]))
    assert (result.bias, result.spread) == (0, 0)
