"""Few long runs against bias, many short ones against variance: how products are divided.

What more steps change of a Gauss value hardly depends on the probe, so that a few long runs correct
the truncation of many short ones (`truncation`): a mean over two levels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from specdens.estimation.goal import runs_for
from specdens.estimation.truncation import changes, correction_scale, correction_scatter
from specdens.recurrences.lanczos import Tridiagonal
from specdens.results import SpectralBounds
from specdens.scalar_functions import ScalarFunction

__all__ = ["Division", "divided"]

Host: TypeAlias = np.ndarray[Any, Any]

SHARES = (0.1, 0.13, 0.16, 0.2, 0.25, 0.3, 0.4, 0.5, 0.7)
"""Of the steps of a long run, that a short one may have."""

LONG_RUNS = (3, 4, 6, 8, 12)

CORRECTION_SHARE = 0.4
"""Of a standard error that is wanted, which long runs may leave: more short runs do not help it."""

WORTH_IT = 0.9
"""Error, relative to that of runs of one length, below which two lengths are used."""


@dataclass(frozen=True)
class Division:
    """How the products that are left are spent.

    Attributes
    ----------
    long_runs : int
        Those at hand included; with runs of one length those at hand.
    steps : int
        Of the other runs.
    stderr : float
        What is foretold, in the units of the trace.
    cost : int
        Products.
    """

    long_runs: int
    steps: int
    stderr: float
    cost: int


def divided(
    factors: list[Tridiagonal],
    f: ScalarFunction,
    known: SpectralBounds,
    *,
    mass: float,
    variance: float,
    left: int,
    target: float,
) -> Division:
    """Return the division of least error; with a target, of least cost.

    Parameters
    ----------
    factors : list of Tridiagonal
        Of long runs, which have been paid for.
    f : ScalarFunction
    known : SpectralBounds
    mass : float
        ``tr I``.
    variance : float
        Of one probe, in the units of the trace.
    left : int
        Products.
    target : float
        The standard error that is wanted, or 0: as small as the products allow.

    References
    ----------
    Hallman and Troester, A multilevel approach to stochastic trace estimation, Linear Algebra Appl.
    638, 125 (2022).
    """
    have, steps = len(factors), max(len(factor.diagonal) for factor in factors)
    runs = have + left // steps
    if target > 0:
        runs = max(have, runs_for(variance, target, runs))
    plain = Division(have, steps, math.sqrt(variance / runs), (runs - have) * steps)
    shorter = sorted({math.ceil(share * steps) for share in SHARES} - {1, steps})
    if have < 2 or not shorter or any(factor.residual == 0 for factor in factors):
        return plain
    changed = changes(factors, shorter, f, known)
    # A run of fewer steps never knows more than a longer one: if it seems so, that is chance.
    scatter = np.maximum.accumulate([mass * correction_scatter(x) for x in changed[::-1]])[::-1]
    paid = _Paid(have, steps, variance, left, target)
    options = [
        paid.with_short_runs(long, short, float(s))
        for long in LONG_RUNS
        for short, s in zip(shorter, scatter, strict=True)
        if long >= have and math.isfinite(s)
    ]
    affordable = [option for option in options if option is not None]
    if target > 0 and plain.stderr <= 1.01 * target:
        good = [option for option in affordable if option.stderr <= 1.01 * target]
        best = min(good, key=lambda option: option.cost, default=plain)
        return best if best.cost < WORTH_IT**2 * plain.cost else plain
    best = min(affordable, key=lambda option: option.stderr, default=plain)
    return best if best.stderr < WORTH_IT * plain.stderr else plain


@dataclass(frozen=True)
class _Paid:
    """Long runs that have been paid for, and what else the products allow.

    Attributes
    ----------
    runs, steps : int
    variance : float
        Of one probe.
    left : int
        Products.
    target : float
        The standard error that is wanted, or 0.
    """

    runs: int
    steps: int
    variance: float
    left: int
    target: float

    def with_short_runs(self, long: int, short: int, scatter: float) -> Division | None:
        """Return what so many long runs and the affordable number of short ones promise.

        Parameters
        ----------
        long : int
            Long runs in all.
        short : int
            Steps of the short ones.
        scatter : float
            Of what the further steps of a long run change.
        """
        spent = (long - self.runs) * self.steps
        most = (self.left - spent) // short
        if most < 1:
            return None

        def correction(runs: int) -> float:
            return correction_scale(long, runs) * scatter

        runs, target = long + most, self.target
        if target > 0 and correction(runs) <= CORRECTION_SHARE * target:
            rest = target * math.sqrt(1 - (correction(runs) / target) ** 2)
            runs = max(long + 1, runs_for(self.variance, rest, runs))
        stderr = math.hypot(math.sqrt(self.variance / runs), correction(runs))
        return Division(long, short, stderr, spent + (runs - long) * short)
