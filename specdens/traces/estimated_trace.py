"""``tr f(A)`` by sampling, to the accuracy that was asked for; infinite where A is singular."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from specdens.arrays.probes import Probes
from specdens.estimation.estimate import SINGULAR
from specdens.estimation.goal import Goal
from specdens.estimation.guarantee import guaranteed_trace
from specdens.estimation.pilot import adaptive_trace
from specdens.estimation.probe_mean import sampled_trace
from specdens.exact.null_vector import null_vector_of_ones
from specdens.operators.explicit import ExplicitOperator
from specdens.problem.prepare import Problem
from specdens.results import Estimate
from specdens.scalar_functions import ScalarFunction

__all__ = ["estimated_trace"]

NEAR_ZERO = 0.1
"""Share of the spectrum's other end that leaves room for an eigenvalue 0 beyond what was seen."""


def estimated_trace(
    problem: Problem, f: ScalarFunction, goal: Goal, vectors: Probes, method: str
) -> Estimate:
    """Return tr f(A) of a Hermitian A; ``log|x|`` of any.

    No probe sees the one null vector of a graph Laplacian. Where f has a pole it is looked for by
    itself: before any work where the scale of A is known, else where the estimate leaves room.
    """
    if not f.pole:
        return _sampled(problem, f, goal, vectors, method)
    certain, spent = null_vector_of_ones(problem)
    problem = replace(problem, matvecs=problem.matvecs + spent)
    if certain is not None:
        return _at_zero(f, certain, problem.matvecs)
    estimate = _sampled(problem, f, goal, vectors, method)
    budget = math.inf if goal.max_matvecs is None else goal.max_matvecs
    looked = spent > 0 or isinstance(problem.op, ExplicitOperator)
    if looked or estimate.matvecs >= budget or not _comes_near_zero(estimate):
        return estimate
    certain, spent = null_vector_of_ones(problem, max(map(abs, estimate.bounds or ())))
    matvecs = estimate.matvecs + spent
    return replace(estimate, matvecs=matvecs) if certain is None else _at_zero(f, certain, matvecs)


def _sampled(
    problem: Problem, f: ScalarFunction, goal: Goal, vectors: Probes, method: str
) -> Estimate:
    if goal.guarantee is not None:
        return guaranteed_trace(problem, f, goal, vectors)
    if goal.adaptive and (goal.probes is None or not vectors.exhaustive):
        return adaptive_trace(problem, f, goal, replace(vectors, exhaustive=False), method)
    return sampled_trace(problem, f, goal.moments, vectors, method)


def _comes_near_zero(estimate: Estimate) -> bool:
    """Whether the eigenvalues that were seen leave room for one at 0."""
    if estimate.bounds is None:
        return False
    low, high = estimate.bounds
    return low <= NEAR_ZERO * high and high >= NEAR_ZERO * low


def _at_zero(f: ScalarFunction, certain: bool, matvecs: int) -> Estimate:
    """Return the trace of a function with a pole, of a matrix with a null vector."""
    return Estimate(
        value=float(f.on_host(np.zeros(1))[0]),
        flags=() if certain else (SINGULAR,),
        converged=certain,
        matvecs=matvecs,
    )
