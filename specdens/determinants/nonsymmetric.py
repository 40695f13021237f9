r"""``log|det A|`` of any square matrix as ``tr log|A|``: by the spectral measures of ``A^H A``."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial

import numpy as np

from specdens.arrays.libraries import magnitude, power_of_two, to_host
from specdens.arrays.probes import Probes, gaussian
from specdens.estimation.control_variates import controlled, residual_spread
from specdens.estimation.estimate import CONTRADICTED, ESCAPED, SINGULAR, summed
from specdens.estimation.goal import INTERVAL, LEAST_PROBES, Goal
from specdens.estimation.pilot import BIAS_SHARE, judged, probes_wanted, require_lanczos
from specdens.estimation.probe_mean import sampled_trace
from specdens.estimation.sampling import bidiagonals, by_blocks
from specdens.estimation.truncation import foreseen_bias, integrate_factors
from specdens.operators.algebra import Counting, Scaled
from specdens.operators.explicit import ExplicitOperator
from specdens.operators.gram import Gram
from specdens.operators.power_traces import PowerTraces
from specdens.problem.prepare import Problem
from specdens.recurrences.lanczos import (
    Bidiagonal,
    assembled_bidiagonals,
    bidiagonal_steps,
    bidiagonalize,
)
from specdens.recurrences.quadrature import Rule, gauss
from specdens.results import UNBOUNDED, Estimate
from specdens.scalar_functions import LOG

__all__ = ["log_of_singular_values"]


PILOT = 2
"""Probes that find out how many steps are worth their cost."""


def log_of_singular_values(problem: Problem, goal: Goal, vectors: Probes, method: str) -> Estimate:
    """Return the sum of the logarithms of all singular values, by a mean over probes.

    Raises
    ------
    ValueError
        If a guarantee is asked for, or a pilot for Chebyshev moments.
    NotImplementedError
        If A has no adjoint product.
    """
    if goal.guarantee is not None:
        msg = (
            "guarantee=(eps, delta) is for real symmetric positive definite A; this A is not "
            "Hermitian. Use rtol= or atol=, or method='exact'."
        )
        raise ValueError(msg)
    pilot = goal.adaptive and (goal.probes is None or not vectors.exhaustive)
    if pilot:
        require_lanczos(method)
        return _to_accuracy(problem, goal, replace(vectors, exhaustive=False))
    if method == "chebyshev":
        return _by_normal_equations(problem, goal.moments, vectors)
    op = Counting(problem.shifted)
    factors = bidiagonals(op, vectors, goal.moments)
    norm = None if vectors.exhaustive or vectors.key is None else _frobenius_norm(problem)
    return _summary(problem, op, vectors, factors, norm)


def _to_accuracy(problem: Problem, goal: Goal, probes: Probes) -> Estimate:
    """Let a pilot choose the steps, and sample until the accuracy is reached or all is spent."""
    op, norm = Counting(problem.shifted), _frobenius_norm(problem)
    budget = goal.budget(problem.n) - problem.matvecs
    factors = _pilot(problem, op, goal, probes, budget, degree=0 if norm is None else 1)
    steps = max(len(factor.diagonal) for factor in factors)
    while True:
        have = len(factors)
        estimate = _summary(problem, op, replace(probes, count=have), factors, norm)
        more = probes_wanted(goal, estimate, have, (budget - op.count) // (2 * steps))
        if more < 1:
            return judged(goal, estimate)
        wanted = replace(probes, count=have + more)
        factors += by_blocks(op, wanted, partial(bidiagonalize, op, steps=steps), first=have)


def _pilot(
    problem: Problem, op: Counting, goal: Goal, probes: Probes, budget: int, *, degree: int
) -> list[Bidiagonal]:
    """Run the first probes until their truncation is small beside the noise that will be."""
    count = PILOT if goal.probes is None else min(PILOT, goal.probes)
    longest = problem.n if goal.steps is None else goal.steps
    alphas, betas = [], []
    for alpha, beta in bidiagonal_steps(op, probes.block(range(count)), longest):
        alphas.append(alpha)
        betas.append(beta)
        factors = assembled_bidiagonals(alphas, betas)
        if goal.steps is None and _enough(problem, goal, factors, budget, degree):
            break
    return factors


def _enough(
    problem: Problem, goal: Goal, factors: list[Bidiagonal], budget: int, degree: int
) -> bool:
    """Whether more steps would reduce the error less than more probes."""
    steps, n = max(len(factor.diagonal) for factor in factors), problem.n
    few = LEAST_PROBES if goal.probes is None else goal.probes
    if few * 2 * (steps + 1) > budget or all(factor.residual == 0 for factor in factors):
        return True
    if steps < 3:
        return False
    rules = [gauss(factor) for factor in factors]
    y = [LOG.on_host(rule.nodes) for rule in rules]
    spread = residual_spread(_squared(rules), y, degree)
    value = n * np.mean([rule.integrate(v) for rule, v in zip(rules, y, strict=True)])
    stderr = math.sqrt(2 * n * spread / (goal.probes or max(1, budget // (2 * steps))))
    if goal.tolerant:
        stderr = max(stderr, goal.tolerance(float(value)) / INTERVAL)
    unit = problem.op.unit
    bias = foreseen_bias([*factors], LOG, problem.known, unit=unit)[1]
    return bool(n * bias <= BIAS_SHARE * stderr + 1e-12 * abs(value))


def _squared(rules: list[Rule]) -> list[Rule]:
    """Return the rules of ``A^H A / s^2``, with s the largest node: squares that fit."""
    unit = max(float(rule.nodes[-1]) for rule in rules) or 1.0
    return [Rule((rule.nodes / unit) ** 2, rule.weights) for rule in rules]


def _frobenius_norm(problem: Problem) -> float | None:
    """Return ``||A + shift I||_F``, if it is known without a product."""
    op, shift = problem.op, complex(problem.shift)
    norm = op.frobenius_norm()
    if norm is None or not shift:
        return norm
    if not isinstance(op, ExplicitOperator):
        return None
    largest = max(norm, abs(shift))
    trace = complex(to_host(op.xp.sum(op.diagonal() / largest)))
    cross = 2 * (shift.conjugate() / largest * trace).real
    squares = (norm / largest) ** 2 + cross + problem.n * abs(shift / largest) ** 2
    return largest * math.sqrt(max(0.0, squares))


def _summary(
    problem: Problem, op: Counting, vectors: Probes, factors: list[Bidiagonal], norm: float | None
) -> Estimate:
    """Return the estimate from the bidiagonals of all probes.

    Parameters
    ----------
    norm : float or None
        ``||A||_F``, where it may serve: its square, ``tr A^H A``, is a control variate of degree 1.
    """
    rules = [gauss(factor) for factor in factors]
    unit = op.unit
    smallest = min(float(rule.nodes[0]) for rule in rules)
    largest = max(float(rule.nodes[-1]) for rule in rules)
    flags: tuple[str, ...] = ()
    known = problem.known
    inside = known.low * (1 - 1e-6) <= smallest <= largest <= known.high * (1 + 1e-6)
    if problem.stated and not inside:
        known, flags = UNBOUNDED, (ESCAPED,)
    truncated = integrate_factors([*factors], LOG, known, unit=unit)
    if smallest <= 4 * unit * largest:
        # No Ritz value is below the smallest singular value.
        truncated = replace(truncated, values=np.full(len(factors), -math.inf))
        flags = (*flags, SINGULAR)
    elif norm is not None and len(factors) > 1:
        y = [LOG.on_host(rule.nodes) for rule in rules]
        traces = ((norm / largest) ** 2,)
        stated = not isinstance(problem.op, ExplicitOperator)
        known_squares = PowerTraces.about_zero(traces, problem.n, stated=stated)
        found = controlled(truncated.values, _squared(rules), y, known_squares)
        truncated = replace(truncated, values=found.values, spread=found.spread)
        flags = (*flags, CONTRADICTED) if found.contradicted else flags
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
