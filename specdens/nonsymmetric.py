r"""``log|det A|`` of any square matrix as ``tr log|A|``: by the spectral measures of ``A^H A``."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from specdens._arrays import eps, magnitude, power_of_two
from specdens._probes import Probes, gaussian
from specdens.adapters import ExplicitOperator
from specdens.estimation import ESCAPED, SINGULAR, summed
from specdens.operators import Counting, Gram, Scaled
from specdens.planning import Goal
from specdens.preparation import Problem
from specdens.quadrature import gauss
from specdens.results import UNBOUNDED, Estimate
from specdens.sampled import sampled_trace
from specdens.sampling import bidiagonals
from specdens.scalar_functions import LOG
from specdens.truncation import integrate_factors

__all__ = ["log_of_singular_values"]


def log_of_singular_values(problem: Problem, goal: Goal, vectors: Probes, method: str) -> Estimate:
    """Return the sum of the logarithms of all singular values, by a mean over probes.

    Raises
    ------
    NotImplementedError
        If A has no adjoint product.
    """
    if method == "chebyshev":
        return _by_normal_equations(problem, goal.moments, vectors)
    return _by_golub_kahan(problem, goal, vectors)


def _by_golub_kahan(problem: Problem, goal: Goal, vectors: Probes) -> Estimate:
    op = Counting(problem.shifted)
    factors = bidiagonals(op, vectors, goal.moments)
    rules = [gauss(factor) for factor in factors]
    unit = eps(op.xp.empty(0, dtype=op.dtype))
    smallest = min(float(rule.nodes[0]) for rule in rules)
    largest = max(float(rule.nodes[-1]) for rule in rules)
    flags: tuple[str, ...] = ()
    known = problem.known
    if problem.stated and not known.low * (1 - 1e-6) <= smallest <= largest <= known.high * (
        1 + 1e-6
    ):
        known, flags = UNBOUNDED, (ESCAPED,)
    truncated = integrate_factors(list(factors), LOG, known, unit=unit)
    if smallest <= 4 * unit * largest:
        # No Ritz value is below the smallest singular value.
        truncated = replace(truncated, values=np.full(vectors.count, -math.inf))
        flags = (*flags, SINGULAR)
    return summed(
        truncated,
        vectors,
        method="lanczos",
        matvecs=problem.matvecs + op.count,
        bounds=known,
        flags=flags,
    )


def _by_normal_equations(problem: Problem, moments: int, vectors: Probes) -> Estimate:
    """Run Chebyshev moments of ``A^H A``: half the trace of its log, two products a product.

    Of A divided by a power of two near its size: squares would overflow, or vanish.
    """
    unit, spent = _unit_of(problem)
    gram = Gram(Scaled(problem.shifted, 1 / unit) if unit != 1 else problem.shifted)
    known = replace(UNBOUNDED, low=0.0, low_rigorous=True, how="construction")
    if problem.stated:
        low, high = (max(end, 0.0) / unit for end in problem.known)
        known = replace(problem.known, low=low**2, high=high**2)
    squared = replace(problem, op=gram, shift=0.0, hermitian=True, known=known, matvecs=0)
    found = sampled_trace(squared, LOG, moments, vectors, "chebyshev")
    bounds = found.bounds
    if bounds is not None:
        bounds = unit * math.sqrt(max(0.0, bounds[0])), unit * math.sqrt(max(0.0, bounds[1]))
    return replace(
        found,
        value=found.value / 2 + problem.n * math.log(unit),
        stderr=found.stderr / 2,
        bias_bound=found.bias_bound / 2,
        matvecs=problem.matvecs + spent + 2 * found.matvecs,
        bounds=bounds,
    )


def _unit_of(problem: Problem) -> tuple[float, int]:
    """Return a power of two near the size of A's products, 1 if near 1, and the products it took.

    A product with one vector tells what entries, or bounds that were stated, do not.
    """
    op, spent = problem.op, 0
    if problem.stated:
        unit = power_of_two(problem.known.high)
    elif isinstance(op, ExplicitOperator):
        unit = power_of_two(max(op.largest, abs(problem.shift)))
    else:
        probe = gaussian(problem.n, range(1), 0, xp=op.xp, dtype=op.dtype, where=op.device)
        unit, spent = magnitude(problem.shifted.matmat(probe)), 1
    return (1.0 if 2.0**-20 <= unit <= 2.0**20 else max(unit, 2.0**-1000)), spent
