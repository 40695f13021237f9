r"""``tr f(A)`` with a proof: an error above eps has probability at most delta.

With c the middle of the range of f and ``s >= |f - c|``, R probes of signs suffice for half of eps
if ``R >= 8 (n s^2 + (eps/2) s) log(2/delta) / (eps/2)^2``; the other half is for truncation, which
the Chebyshev coefficients of f bound.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from specdens.arrays.probes import Probes
from specdens.estimation.goal import Goal
from specdens.estimation.probe_mean import sampled_trace
from specdens.problem.prepare import Problem
from specdens.recurrences.chebyshev_series import expand, log_series
from specdens.results import Estimate, SpectralBounds
from specdens.scalar_functions import LOG, LOG_ABS, ScalarFunction

__all__ = ["guaranteed_trace"]

MOST_MOMENTS = 2**15


def guaranteed_trace(problem: Problem, f: ScalarFunction, goal: Goal, probes: Probes) -> Estimate:
    """Return tr f(A) within eps, but for a probability of at most delta.

    Raises
    ------
    ValueError
        If A is complex, no interval is known by proof on which f is bounded, or the products that
        the proof asks for exceed ``max_matvecs``.

    References
    ----------
    Cortinovis and Kressner, Found. Comput. Math. 22, 875 (2022), corollary 1.
    """
    assert goal.guarantee is not None
    (tolerance, delta), known, n = goal.guarantee, problem.known, problem.n
    if problem.op.xp.isdtype(problem.op.dtype, "complex floating"):
        msg = "guarantee= is proved for real matrices; this one is complex. Use rtol= or atol=."
        raise ValueError(msg)
    if f is LOG_ABS and known.low > 0:
        f = LOG
    bounded = known.rigorous and math.isfinite(known.low) and math.isfinite(known.high)
    if f is LOG_ABS or not bounded or (f.domain == "positive" and known.low <= 0):
        msg = (
            "guarantee= needs an interval, known by proof, that contains the spectrum and on which "
            f"f is bounded; known is {known}. Pass bounds=(low, high)."
        )
        raise ValueError(msg)
    values = f.on_host(np.linspace(known.low, known.high, 4097))
    largest = float(np.max(values) - np.min(values)) / 2
    half = tolerance / 2
    count = math.ceil(8 * (n * largest**2 + half * largest) * math.log(2 / delta) / half**2)
    moments = _moments_for(f, known, half / n)
    cost = min(n, max(1, count)) * math.ceil(moments / 2)
    if goal.max_matvecs is not None and cost > goal.max_matvecs:
        msg = (
            f"guarantee={goal.guarantee} takes {cost} products ({min(n, count)} probes of "
            f"{moments} moments), more than max_matvecs = {goal.max_matvecs}. Widen eps, or use "
            "rtol=."
        )
        raise ValueError(msg)
    all_of_them = count >= n
    sampled = replace(probes, count=n if all_of_them else max(1, count), exhaustive=all_of_them)
    estimate = sampled_trace(problem, f, moments, sampled, "lanczos")
    bias = min(half, estimate.bias_bound) if estimate.bias_rigorous else half
    return replace(estimate, bias_bound=bias, bias_rigorous=True, converged=not estimate.flags)


def _moments_for(f: ScalarFunction, known: SpectralBounds, error: float) -> int:
    """Return the moments whose Gauss rules err by no more, by ``2 sum |c_k|`` over later k."""
    low, high = known
    if low == high:
        return 2
    count = 2
    while count <= MOST_MOMENTS:
        series = log_series(low, high, count) if f is LOG else expand(f.on_host, low, high, count)
        if series.resolved and 2 * series.tail <= error:
            return count
        count = math.ceil(1.2 * count) + 1
    msg = (
        f"guarantee= needs more than {MOST_MOMENTS} moments on [{low:.6g}, {high:.6g}]: f is too "
        "close to a singularity. Narrow bounds=, add a shift, or widen eps."
    )
    raise ValueError(msg)
