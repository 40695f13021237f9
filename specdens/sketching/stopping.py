"""When to stop: an error is small enough only if two successive doublings agree on it."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

from specdens.estimation.estimate import MISSED
from specdens.results import Estimate, two_sided_quantile

__all__ = ["Tolerance", "doublings", "until_agreed"]


@dataclass(frozen=True)
class Tolerance:
    """``|error| <= max(atol, rtol |value|)``, for the 95 % interval."""

    rtol: float
    atol: float

    def __post_init__(self) -> None:
        for name, value in (("rtol", self.rtol), ("atol", self.atol)):
            if not (math.isfinite(value) and value >= 0):
                msg = f"{name} is {value}; expected a finite number, at least 0."
                raise ValueError(msg)

    def of(self, value: complex) -> float:
        """Return the error that is allowed."""
        return max(self.atol, self.rtol * abs(value))

    @staticmethod
    def half_width(estimate: Estimate) -> float:
        """Return half the width of the 95 % interval (a radius where the value is complex)."""
        if estimate.stderr == 0:
            return estimate.bias_bound
        return estimate.bias_bound + two_sided_quantile(0.95, estimate.samples) * estimate.stderr

    def met(self, estimate: Estimate) -> bool:
        """Whether the interval is narrow enough."""
        return self.half_width(estimate) <= self.of(estimate.value)


def doublings(least: int, most: int) -> list[int]:
    """Return numbers that double from `least`, ending with `most`."""
    counts = []
    while least < most:
        counts.append(least)
        least *= 2
    return [*counts, most]


def until_agreed(stages: Iterable[Estimate], tolerance: Tolerance) -> Estimate:
    """Return the first estimate that meets a tolerance and whose predecessor agrees with it.

    A single small error estimate can be luck. Without agreement the last one is returned, flagged;
    one that nothing was left to chance in needs no witness.
    """
    previous: Estimate | None = None
    for found in stages:
        certain = found.stderr == 0
        agreed = previous is not None and (
            abs(found.value - previous.value) <= tolerance.of(found.value)
        )
        if tolerance.met(found) and (certain or agreed):
            return found
        previous = found
    assert previous is not None
    return replace(previous, converged=False, flags=(MISSED,))
