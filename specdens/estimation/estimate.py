"""From per-probe values to an `Estimate`: sums over n, errors, and what speaks against them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from specdens.arrays.probes import Probes
from specdens.estimation.sampling import standard_error
from specdens.estimation.truncation import Truncated, correction_scale
from specdens.operators.linear_operator import LinearOperator
from specdens.problem.prepare import as_result
from specdens.results import Estimate, SpectralBounds, warn_of_doubt

__all__ = [
    "COARSE",
    "CONTRADICTED",
    "ESCAPED",
    "ILL_CONDITIONED",
    "INDEFINITE",
    "MISSED",
    "OVERFLOW",
    "SINGULAR",
    "UNRESOLVED",
    "Computed",
    "advice",
    "answered",
    "finite_pair",
    "summed",
]

SPOILED = 1e-3
"""Of a value, or of 1: rounding beyond it is told."""

BLIND = "the given probes do not differ, and see one eigenvalue: nothing tells their error"
COARSE = (
    "single precision does not resolve the eigenvalues next to 0; products in double precision do: "
    "aslinearoperator(A, compute_dtype='float64')"
)
CONTRADICTED = "the probes contradict the trace or Frobenius norm that was stated"
ESCAPED = "the spectrum is not inside the bounds that were given"
INDEFINITE = "eigenvalues of both signs: log|x| is singular inside the spectrum"
ILL_CONDITIONED = "A is so ill-conditioned that rounding alone spoils digits of the result"
MISSED = "the tolerance was not met within the budget"
OVERFLOW = "f(A) is beyond the range of floating-point numbers"
SINGULAR = "A is singular to working precision"
UNRESOLVED = "the eigenvalue next to 0 is not resolved: the bound used on that side is a guess"


@dataclass(frozen=True)
class Computed:
    """The part of a trace that was computed and not sampled.

    Attributes
    ----------
    value : float or complex
    bias : float
        How far that may be off.
    dimension : int
        Of its space.
    mass : float or None
        ``tr I`` of what is left to the probes, where that is not their length.
    """

    value: complex = 0.0
    bias: float = 0.0
    dimension: int = 0
    mass: float | None = None


def summed(
    truncated: Truncated,
    probes: Probes,
    *,
    method: str,
    matvecs: int,
    bounds: SpectralBounds | None,
    flags: tuple[str, ...] = (),
    computed: Computed | None = None,
) -> Estimate:
    """Return the estimate of a trace from each probe's value for mass 1, plus what is known."""
    computed = Computed() if computed is None else computed
    n = float(probes.n) if computed.mass is None else computed.mass
    mean = computed.value + n * np.mean(truncated.values)
    value = complex(mean) if np.iscomplexobj(mean) else float(mean)
    shared: dict[str, Any] = {
        "value": value,
        "matvecs": matvecs,
        "samples": probes.count,
        "method": method,
        "bounds": None if bounds is None else finite_pair(bounds),
        "seed": None if probes.exhaustive else probes.key,
        "deflated": computed.dimension,
    }
    if not np.isfinite(value):
        # -inf is the log of a singular matrix; anything else is more than floating point can hold.
        flags = flags if value == -math.inf else (*flags, OVERFLOW)
        return Estimate(converged=not flags, flags=flags, **shared)
    stderr = n * _standard_error(truncated, probes)
    if probes.given is not None and stderr == 0 and probes.n > 1:
        flags = (*flags, BLIND)
    bias = float(n * truncated.bias + computed.bias)
    if n * truncated.rounding > SPOILED * max(1.0, abs(value)):
        flags = (*flags, ILL_CONDITIONED)
    # What few long runs have not met weighs more, beside the small error of many short ones.
    share = 0.5 if truncated.long_runs and not truncated.rigorous else 1.0
    negligible = n * truncated.rounding + max(share * stderr, 1e-8 * abs(value))
    return Estimate(
        stderr=float(stderr),
        bias_bound=bias,
        bias_rigorous=truncated.rigorous,
        converged=not flags and bool(bias <= negligible),
        flags=flags,
        **shared,
    )


def _standard_error(truncated: Truncated, probes: Probes) -> float:
    """Return that of the mean of the values, and of what a few long runs add to it."""
    of_values = standard_error(truncated.values, probes, truncated.spread)
    if not truncated.long_runs:
        return of_values
    # A short value and what more steps change of it are not independent: at worst they add up.
    of_values += truncated.changed / math.sqrt(probes.count)
    scale = correction_scale(truncated.long_runs, probes.count)
    return math.hypot(of_values, scale * truncated.changed)


def finite_pair(bounds: SpectralBounds) -> tuple[float, float] | None:
    """Return the ends of an interval if both are finite."""
    low, high = bounds
    return (low, high) if math.isfinite(low) and math.isfinite(high) else None


def advice(moments: int) -> str:
    """Return what to do about an estimate that has not converged."""
    return (
        f"Raise moments (now {moments}), give bounds=(low, high) if they are known, add a shift, "
        "or use method='exact'; return_info=True gives the errors."
    )


def answered(op: LinearOperator, found: Estimate, moments: int, return_info: bool) -> Any:
    """Return a value as one of A's library, what a public function does last; warn of doubt."""
    warn_of_doubt(found, advice(moments), stacklevel=3)
    value = as_result(op, found.value)
    return (value, found) if return_info else value
