"""Chebyshev moments integrated to a value, with what truncation and rounding may cost it."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np

from specdens.estimation.control_variates import explained_spread
from specdens.estimation.truncation import Truncated
from specdens.recurrences.chebyshev_series import Series, expand, log_abs_series, log_series
from specdens.results import SpectralBounds
from specdens.scalar_functions import LOG, LOG_ABS, ScalarFunction

__all__ = ["integrate_moments"]

Host: TypeAlias = np.ndarray[Any, Any]

UNIT = float(np.finfo(float).eps)

SLOPE_SAFETY = 4.0
"""By how much the roundings of all steps may exceed one perturbation of A of their size."""


def integrate_moments(
    table: Host,
    f: ScalarFunction,
    bounds: SpectralBounds,
    *,
    degree: int = 0,
    noise: float = 0.0,
) -> Truncated:
    """Integrate f over each probe's measure, given its Chebyshev moments, without a kernel.

    Parameters
    ----------
    table : ndarray, shape (N, R)
        Moments for the interval `bounds`.
    f : ScalarFunction
        Defined on the interval.
    bounds : SpectralBounds
        The bias is rigorous if they are and the coefficients of f could be computed.
    degree : int
        Of the polynomials whose traces have been put into the table.
    noise : float
        How far rounding may move eigenvalues.
    """
    count, (low, high) = len(table), bounds
    if low == high:
        values = np.full(table.shape[1], f.on_host(np.array([low]))[0])
        return Truncated(values, 0.0, rigorous=True, spread=0.0)
    series = _series(f, low, high, count)
    values = series.coefficients @ table
    bias = series.tail
    if not math.isfinite(bias):
        partial = series.coefficients[: count // 2] @ table[: count // 2]
        bias = 4 * abs(float(np.mean(values - partial)))
    squares = expand(lambda x: np.abs(f.on_host(x)) ** 2, low, high, count)
    mean = np.mean(table, axis=1)
    mean_square = float(squares.coefficients @ mean)
    spread = mean_square - abs(complex(np.mean(values))) ** 2
    if degree:
        spread -= explained_spread(series.coefficients, mean, degree)
    # Squares of f need twice as many moments: what is left of them is not trusted to the end.
    spread = max(spread, 1e-14 * mean_square, 0.0)
    rounding = _moment_rounding(series.coefficients, mean, noise / (high - low))
    rounding += 100 * UNIT * float(abs(np.mean(values)))
    return Truncated(values, bias + rounding, series.resolved and bounds.rigorous, spread, rounding)


def _moment_rounding(c: Host, mean: Host, noise: float) -> float:
    """Return what eigenvalues moved by `noise` (a share of the interval) change in ``c @ mean``.

    That is the slope of the series where the eigenvalues are, as the same moments tell, and at most
    the sum of what each T_k changes: its slope is about k, but for the very ends.
    """
    count = len(c)
    sizes = np.minimum(np.arange(count) * 2 * noise, 2)
    worst = float(np.abs(c) @ sizes)
    if not worst:
        return 0.0
    slopes = np.polynomial.chebyshev.chebder(c)
    squares = expand(
        lambda t: np.abs(np.polynomial.chebyshev.chebval(t, slopes)) ** 2, -1, 1, count
    ).coefficients
    square = float(squares @ mean) + float(np.abs(squares) @ sizes)  # its own rounding as well
    return min(worst, SLOPE_SAFETY * 2 * noise * math.sqrt(max(square, 0.0)))


def _series(f: ScalarFunction, low: float, high: float, count: int) -> Series:
    """Return the Chebyshev series of f, in closed form where there is one."""
    if f is not LOG and f is not LOG_ABS:
        return expand(f.on_host, low, high, count)
    if low > 0:
        return log_series(low, high, count)
    if high < 0:
        mirrored = log_series(-high, -low, count)
        alternating = np.where(np.arange(count) % 2 == 0, 1.0, -1.0)
        return replace(mirrored, coefficients=alternating * mirrored.coefficients)
    return log_abs_series(low, high, count)
