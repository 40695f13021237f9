"""``tr f(A)`` by a mean over probes, at a given number of moments."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np

from specdens.arrays.probes import Probes
from specdens.estimation.estimate import (
    COARSE,
    CONTRADICTED,
    ESCAPED,
    INDEFINITE,
    SINGULAR,
    UNRESOLVED,
    finite_pair,
    summed,
)
from specdens.estimation.moment_truncation import integrate_moments
from specdens.estimation.sampling import (
    bounds_for,
    known_traces,
    moments_by_chebyshev,
    tridiagonals,
    with_known_moments,
)
from specdens.estimation.truncation import Truncated, integrate_factors
from specdens.operators.algebra import Counting
from specdens.operators.power_traces import PowerTraces
from specdens.problem.prepare import Problem
from specdens.recurrences.chebyshev_moments import EscapeError
from specdens.recurrences.lanczos import Bidiagonal, Tridiagonal
from specdens.recurrences.quadrature import gauss, noise_of
from specdens.results import UNBOUNDED, Estimate, SpectralBounds
from specdens.scalar_functions import INV, LOG, LOG_ABS, ScalarFunction, require_domain

__all__ = ["Integrated", "integrated", "sampled_trace"]

Host: TypeAlias = np.ndarray[Any, Any]
Factor: TypeAlias = Tridiagonal | Bidiagonal

COARSEST = 32
"""Units of rounding of the largest eigenvalue: in single precision, nearer to 0 is noise."""

DOUBLE = 1e-10
"""Above the roundoff of double precision, below that of single."""

_log = logging.getLogger(__name__)


def sampled_trace(
    problem: Problem, f: ScalarFunction, moments: int, probes: Probes, method: str
) -> Estimate:
    """Return tr f(A) by a mean over probes; for ``log|x|``, of any Hermitian matrix."""
    op = Counting(problem.shifted)
    if method == "chebyshev":
        found = chebyshev_trace(problem, op, f, moments, probes)
    else:
        found = lanczos_trace(problem, op, f, moments, probes)
    return summed(
        found.truncated,
        probes,
        method="chebyshev" if method == "chebyshev" else "lanczos",
        matvecs=problem.matvecs + op.count,
        bounds=found.bounds,
        flags=found.flags,
    )


@dataclass(frozen=True)
class Integrated:
    """Per-probe values with the interval that was used and what speaks against them."""

    truncated: Truncated
    bounds: SpectralBounds
    flags: tuple[str, ...]


def lanczos_trace(
    problem: Problem, op: Counting, f: ScalarFunction, moments: int, probes: Probes
) -> Integrated:
    """Integrate f over the Gauss rules of all probes."""
    factors = tridiagonals(op, probes, moments)
    return integrated(factors, f, problem.known, unit=op.unit, traces=known_traces(op, probes))


def integrated(
    factors: Sequence[Factor],
    f: ScalarFunction,
    known: SpectralBounds,
    *,
    unit: float,
    traces: PowerTraces,
    ratios: Host | None = None,
    long_runs: int = 0,
) -> Integrated:
    """Integrate f over the measures of all probes, and say what their Ritz values speak against.

    Parameters
    ----------
    factors : sequence of Tridiagonal or Bidiagonal
    f : ScalarFunction
        ``log|x|`` becomes log, with the signs turned if need be, where the spectrum has one sign.
    known : SpectralBounds
    unit : float
        Unit roundoff of the products.
    traces : PowerTraces
        For control variates; and ``tr I`` of the space that the probes sample.
    ratios : ndarray, shape (R,), optional
        ``<y, y>`` of each probe over the mass, where it is not 1.
    long_runs : int
        So many of the first factors have more steps than the others, and correct their truncation.
    """
    ends = [gauss(factor).nodes[[0, -1]] for factor in factors]
    low, high = float(min(e[0] for e in ends)), float(max(e[1] for e in ends))
    noise = noise_of(int(traces.values[0]), unit, low, high)
    flags: tuple[str, ...] = ()
    if low < known.low - noise or high > known.high + noise:
        known, flags = UNBOUNDED, (ESCAPED,)
    if f is LOG_ABS and (low >= -noise or known.low > 0):
        f = LOG
    elif f is LOG_ABS and (high <= noise or known.high < 0):
        # Singular values, which have no negatives, do not come here: they are not below 0.
        factors = [t.negated() for t in factors if isinstance(t, Tridiagonal)]
        known, f = known.negated(), LOG
        traces = traces.scaled(-1.0)
        low, high = -high, -low
    require_domain(f, low, noise)
    if f.pole and low < 0 < high and f is not LOG:
        flags = (*flags, INDEFINITE)
    nearest, farthest = sorted((abs(low), abs(high)))
    if (
        f.pole
        and known.low <= 0 <= known.high
        and nearest <= (4 * unit * farthest if f is LOG else noise)
    ):
        # An extreme Ritz value is never nearer to 0 than the extreme eigenvalue on its side.
        flags = (*flags, SINGULAR)
        if f is LOG:
            values = np.full(len(factors), -math.inf)
            return Integrated(Truncated(values, 0.0, True, 0.0), known, flags)
    elif f.pole and unit > DOUBLE and nearest <= COARSEST * unit * farthest:
        flags = (*flags, COARSE)
    found = integrate_factors(
        list(factors), f, known, unit=unit, traces=traces, ratios=ratios, long_runs=long_runs
    )
    if found.contradicted:
        flags = (*flags, CONTRADICTED)
    seen = SpectralBounds(max(low, known.low), min(high, known.high), False, False, "Ritz values")
    return Integrated(found, known if finite_pair(known) else seen, flags)


def chebyshev_trace(
    problem: Problem, op: Counting, f: ScalarFunction, moments: int, probes: Probes
) -> Integrated:
    """Integrate the Chebyshev series of f against the moments of all probes.

    If a moment shows an eigenvalue outside the interval, the same probes go through Lanczos.
    """
    interval = bounds_for(op, problem.known, stated=problem.stated, key=probes.key)
    interval, flags = _interval_for(f, interval)
    try:
        found = moments_by_chebyshev(op, probes, moments, interval)
    except EscapeError as error:
        _log.info("%s Running Lanczos with the same probes.", error)
        return lanczos_trace(problem, op, f, moments, probes)
    table, degree, contradicted = with_known_moments(
        found.table, interval, known_traces(op, probes)
    )
    noise = noise_of(problem.n, op.unit, interval.low, interval.high)
    truncated = integrate_moments(table, _clipped(f), interval, degree=degree, noise=noise)
    flags = (*flags, CONTRADICTED) if contradicted else flags
    return Integrated(truncated, interval, flags)


def _interval_for(
    f: ScalarFunction, interval: SpectralBounds
) -> tuple[SpectralBounds, tuple[str, ...]]:
    """Return an interval on which f can be expanded, and what is doubtful about it.

    A safeguarded interval may reach over 0 although all Ritz values lie on one side: then half the
    Ritz value next to 0 is taken, and an eigenvalue beyond it shows as an escape.
    """
    low, high = interval
    if interval.inner is not None:
        require_domain(f, interval.inner[0], 1e-6 * max(abs(low), abs(high)))
    if not f.pole or low > 0 or high < 0:
        return interval, ()
    if interval.inner is not None and interval.inner[0] > 0:
        guess = interval.inner[0] / 2
        return replace(interval, low=guess, low_rigorous=False), (UNRESOLVED,)
    if interval.inner is not None and interval.inner[1] < 0 and f is not LOG:
        guess = interval.inner[1] / 2
        return replace(interval, high=guess, high_rigorous=False), (UNRESOLVED,)
    if low == 0 and f is not INV:
        return interval, ()
    if f is INV:
        msg = (
            f"1/x has its pole inside the interval {interval}, where no Chebyshev series "
            "converges. Use method='lanczos'."
        )
        raise ValueError(msg)
    return interval, (INDEFINITE,)


def _clipped(f: ScalarFunction) -> ScalarFunction:
    """Return f continued by f(0) below 0, where a safeguarded interval reaches too far."""
    if f.domain != "nonnegative":
        return f
    return replace(f, apply=lambda xp, x: f.apply(xp, xp.where(x > 0, x, xp.zeros_like(x))))
