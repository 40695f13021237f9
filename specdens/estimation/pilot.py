r"""``tr f(A)`` to an accuracy, or within a budget: a pilot decides what the products are spent on.

A block Krylov basis is grown from the first two probes. As long as taking what it holds out of the
hands of chance promises a smaller error, it grows; otherwise it serves as the first two samples.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeAlias

import numpy as np

from specdens.arrays.libraries import Array, column_dots
from specdens.arrays.probes import Probes
from specdens.estimation.control_variates import residual_spread
from specdens.estimation.deflation_gain import Run, deflation_pays
from specdens.estimation.estimate import MISSED, Computed, summed
from specdens.estimation.goal import INTERVAL, LEAST_PROBES, Goal
from specdens.estimation.multilevel import Division, divided
from specdens.estimation.probe_mean import integrated, sampled_trace
from specdens.estimation.sampling import by_blocks
from specdens.estimation.truncation import foreseen_bias
from specdens.operators.algebra import Counting
from specdens.operators.linear_operator import LinearOperator
from specdens.operators.power_traces import PowerTraces
from specdens.problem.prepare import Problem
from specdens.recurrences.deflation import Captured, Complement, Preconditioned, captured_part
from specdens.recurrences.krylov_basis import KrylovBasis
from specdens.recurrences.lanczos import Tridiagonal, assembled, coefficients, tridiagonalize
from specdens.recurrences.quadrature import Rule, gauss, noise_of
from specdens.results import UNBOUNDED, Estimate, SpectralBounds
from specdens.scalar_functions import LOG, LOG_ABS, ScalarFunction

__all__ = ["adaptive_trace", "judged", "probes_wanted", "require_lanczos"]

Host: TypeAlias = np.ndarray[Any, Any]

FIRST_STEPS = 10
BIAS_SHARE = 0.5
"""Of the standard error to be expected: truncation below it costs little of the accuracy."""

STRIDE = 8
"""Longer runs are judged each time that they have grown by an eighth."""


@dataclass(frozen=True)
class Sampled:
    """What a mean over probes is to be taken of: ``offset + E[y^H f(op) y]``.

    Attributes
    ----------
    op : LinearOperator, shape (n, n)
    f : ScalarFunction
    known : SpectralBounds
        Of op.
    traces : PowerTraces
        ``tr I, tr op, tr op^2`` on what is sampled, as far as they are known.
    offset, bias : float or complex, float
        What was computed, and how far that may be off.
    basis : KrylovBasis or None
        What is removed from each probe.
    columns : int
        How many of its vectors.
    deflated : int
        The dimension of what is not sampled.
    """

    op: LinearOperator
    f: ScalarFunction
    known: SpectralBounds
    traces: PowerTraces
    offset: complex = 0.0
    bias: float = 0.0
    basis: KrylovBasis | None = None
    columns: int = 0
    deflated: int = 0

    @property
    def mass(self) -> float:
        """The dimension of what is sampled."""
        return self.traces.values[0]


@dataclass
class Samples:
    """Tridiagonals of the probes so far, and their squared norms over the mass.

    The first `long_runs` have more steps than the others, if there are others.
    """

    factors: list[Tridiagonal]
    ratios: list[float]
    long_runs: int = 0


def adaptive_trace(
    problem: Problem, f: ScalarFunction, goal: Goal, probes: Probes, method: str
) -> Estimate:
    """Return tr f(A), Hermitian A; for ``log|x|`` of any sign.

    References
    ----------
    Chen and Hallman, SIAM J. Matrix Anal. Appl. 44, 1218 (2023); Wenger et al., ICML 2022.
    """
    require_lanczos(method)
    op = Counting(problem.shifted)
    run = Run(op, f, goal, probes, goal.budget(problem.n) - problem.matvecs)
    basis = KrylovBasis(op, probes.block(range(min(2, problem.n))))
    first = max(2, min(FIRST_STEPS, run.budget // 8))
    basis.grow(first if goal.steps is None else min(first, goal.steps))
    values = basis.ritz().values
    noise = noise_of(problem.n, op.unit, float(values[0]), float(values[-1]))
    if f is LOG_ABS and (values[0] > noise or problem.known.low > 0):
        run = replace(run, f=LOG)
    definite = run.f is LOG and values[0] > noise
    if not np.all(np.isfinite(run.f.on_host(run.f.clipped(values)))):
        spent = replace(problem, matvecs=problem.matvecs + op.count)
        moments = max(2, min(goal.moments, 2 * (run.left // 2)))
        return sampled_trace(spent, f, moments, replace(probes, count=2), method)
    task, samples = _task(problem, run, basis, definite=definite)
    return _estimated(problem, run, task, samples)


def require_lanczos(method: str) -> None:
    """Raise a ValueError for the method whose moments no pilot chooses."""
    if method == "chebyshev":
        msg = (
            "a pilot chooses steps of Lanczos' method; with method='chebyshev' fix moments= and "
            "probes=, and leave out rtol=, atol= and max_matvecs=."
        )
        raise ValueError(msg)


def _task(
    problem: Problem, run: Run, basis: KrylovBasis, *, definite: bool
) -> tuple[Sampled, Samples]:
    """Decide what to compute and what to sample; the basis may serve as the first samples."""
    pays = (definite or run.f.domain != "positive") and run.f is not LOG_ABS
    if pays and deflation_pays(run, basis, definite=definite):
        make = _preconditioned if definite else _projected
        return make(problem, run, basis), Samples([], [])
    task = Sampled(run.op, run.f, problem.known, run.op.centered_traces())
    steps = run.goal.steps
    if steps is None:
        while not basis.exhausted and not _enough(
            run, task, basis.steps, basis.width, basis.tridiagonals
        ):
            basis.grow(1)
    elif basis.steps < steps:
        basis.grow(steps - basis.steps)
    factors = [factor.leading(steps or basis.steps) for factor in basis.tridiagonals()]
    return task, Samples(factors, [1.0] * len(factors))


def _enough(
    run: Run, task: Sampled, steps: int, count: int, found: Callable[[], list[Tridiagonal]]
) -> bool:
    """Whether more steps would no longer make the interval narrower, or not by as much as probes.

    With a tolerance the truncation may take a share of it; with a budget, steps that leave fewer
    probes go on as long as the last fifth of them has made the interval narrower.
    """
    if steps < 3 and all(factor.residual > 0 for factor in found()):
        return False
    few = LEAST_PROBES if run.goal.probes is None else run.goal.probes
    if (few - count) * (steps + 1) >= run.left - count:
        # To go on for as long as truncation seems to dominate would stop where it is
        # underestimated, and report that.
        return True
    if steps > STRIDE and steps % (steps // STRIDE) != 0:
        return False
    factors = found()
    now = _outlook(run, task, factors, run.left)
    if run.goal.tolerant:
        wanted = BIAS_SHARE * max(now.stderr, run.target(now.size))
        return now.reported <= wanted + 1e-12 * now.size
    if now.likely > BIAS_SHARE * now.stderr + 1e-12 * now.size:
        return False
    fewer = math.ceil(0.8 * steps)
    saved = len(factors) * (steps - fewer)
    before = _outlook(run, task, [factor.leading(fewer) for factor in factors], run.left + saved)
    return now.width >= 0.98 * before.width or now.width <= 1e-12 * now.size


@dataclass(frozen=True)
class _Outlook:
    """What an estimate would say of itself, in the units of the trace, and its size."""

    stderr: float
    likely: float
    reported: float
    size: float

    @property
    def width(self) -> float:
        """Half of the 95 % interval."""
        return INTERVAL * self.stderr + self.reported


def _outlook(run: Run, task: Sampled, factors: list[Tridiagonal], left: int) -> _Outlook:
    """Foretell the errors with runs as long as these, and what else so many products allow."""
    likely, reported = foreseen_bias([*factors], task.f, task.known, unit=task.op.unit)
    spread, mean = _seen(task, factors)
    # What the budget allows, also with a tolerance: the truncation has its share of that.
    stderr = (
        _division(run, task, factors, spread, left, target=0.0).stderr
        if run.goal.probes is None
        else math.sqrt(2 * task.mass * spread / max(1, run.goal.probes))
    )
    return _Outlook(
        stderr=stderr,
        likely=task.mass * likely,
        reported=task.mass * reported,
        size=float(abs(task.offset + task.mass * mean)),
    )


def _seen(task: Sampled, factors: list[Tridiagonal]) -> tuple[float, complex]:
    """Return the variance that is left to chance, and the mean, for mass 1."""
    rules = [gauss(factor) for factor in factors]
    y = [task.f.on_host(task.f.clipped(rule.nodes)) for rule in rules]
    mean = np.mean([rule.integrate(v) for rule, v in zip(rules, y, strict=True)])
    return residual_spread(rules, y, task.traces.degree), complex(mean)


def _division(
    run: Run, task: Sampled, factors: list[Tridiagonal], spread: float, left: int, *, target: float
) -> Division:
    return divided(
        factors, task.f, task.known, mass=task.mass, variance=2 * task.mass * spread, left=left,
        target=target,
    )  # fmt: skip


def _preconditioned(problem: Problem, run: Run, basis: KrylovBasis) -> Sampled:
    """Return ``log det P + tr log M``."""
    op = Preconditioned(run.op, basis)
    known = UNBOUNDED
    if problem.known.low > 0 and problem.known.low_rigorous:
        low = problem.known.low / op.largest
        known = replace(UNBOUNDED, low=low, low_rigorous=True, how=problem.known.how)
    return Sampled(op, run.f, known, op.centered_traces(), offset=op.logdet, deflated=op.rank)


def _projected(problem: Problem, run: Run, basis: KrylovBasis) -> Sampled:
    """Return ``tr Q^H f(A) Q``, from the shortest tail of steps that makes it accurate enough."""
    pairs = basis.ritz()
    inside = run.f.clipped(pairs.values)
    spread = residual_spread([Rule(inside, pairs.weights)], [run.f.on_host(inside)], 2)
    stderr = math.sqrt(2 * run.n * spread / max(1, run.left // basis.steps))
    if run.goal.tolerant:
        value = run.n * (pairs.weights @ run.f.on_host(inside))
        stderr = min(stderr, run.target(float(abs(value))))
    found: Captured | None = None
    for tail in sorted({1, 2, 3, 5, 8, 12, 20, basis.steps // 2}):
        if tail > basis.steps // 2:
            break
        columns = basis.size if basis.exhausted else basis.size - tail * basis.width
        found = captured_part(run.op, basis, columns, run.f)
        if found.bias <= 1e-2 * stderr:
            break
    assert found is not None
    columns = round(run.n - found.mass)
    op = Complement(run.op, basis, columns) if columns < basis.size else run.op
    return Sampled(
        op, run.f, problem.known, found.traces, found.value, found.bias,
        basis, columns, columns,
    )  # fmt: skip


def _estimated(problem: Problem, run: Run, task: Sampled, samples: Samples) -> Estimate:
    """Sample until the accuracy is reached, or the budget spent."""
    if task.mass < 0.5:
        return Estimate(
            value=task.offset, bias_bound=task.bias, bias_rigorous=False, method="lanczos",
            matvecs=problem.matvecs + run.op.count, deflated=task.deflated,
        )  # fmt: skip
    if not samples.factors:
        _first_probes(run, task, samples)
    steps = _levels(run, task, samples)
    while True:
        estimate = _summary(problem, run, task, samples)
        more = probes_wanted(run.goal, estimate, len(samples.factors), run.left // steps)
        if more < 1:
            return judged(run.goal, estimate)
        _sample(run, task, samples, steps, more)


def _levels(run: Run, task: Sampled, samples: Samples) -> int:
    """Take the long runs that are worth it; return the steps of all others."""
    steps = max(len(factor.diagonal) for factor in samples.factors)
    if run.goal.steps is not None or run.goal.probes is not None or run.f is LOG_ABS:
        return steps
    spread, mean = _seen(task, samples.factors)
    target = run.target(abs(task.offset + task.mass * mean))
    plan = _division(run, task, samples.factors, spread, run.left, target=target)
    while plan.long_runs > len(samples.factors):
        _sample(run, task, samples, steps, plan.long_runs - len(samples.factors))
        plan = _division(run, task, samples.factors, spread, run.left, target=target)
    samples.long_runs = plan.long_runs if plan.steps < steps else 0
    return plan.steps


def judged(goal: Goal, estimate: Estimate) -> Estimate:
    """Return an estimate; it has converged if it is as accurate as was asked for, with its bias."""
    if not goal.tolerant or isinstance(estimate.value, complex) or estimate.flags:
        return estimate
    if not math.isfinite(estimate.value):
        return estimate
    half = estimate.interval()[1] - estimate.value
    if half <= goal.tolerance(estimate.value):
        return replace(estimate, converged=True)
    return replace(estimate, converged=False, flags=(MISSED,))


def probes_wanted(goal: Goal, estimate: Estimate, have: int, affordable: int) -> int:
    """Return how many more probes to take.

    Parameters
    ----------
    goal : Goal
    estimate : Estimate
        Of what there is so far.
    have, affordable : int
        Probes.
    """
    if goal.probes is not None:
        return min(affordable, goal.probes - have)
    if not np.isfinite(estimate.value) or not goal.tolerant:
        return affordable if np.isfinite(estimate.value) else 0
    if have < LEAST_PROBES:
        return min(affordable, LEAST_PROBES - have)
    tolerance = goal.tolerance(abs(estimate.value))
    low, high = estimate.stderr * INTERVAL, tolerance - estimate.bias_bound
    if not isinstance(estimate.value, complex):
        half = estimate.interval()[1] - estimate.value
        if half <= tolerance:
            return 0
    elif low <= high:
        return 0
    if goal.steps is not None and estimate.bias_bound >= tolerance:
        return 0  # more probes do not reduce what so few steps leave
    room = max(high, 0.5 * tolerance)
    needed = math.ceil(have * min(low / room, 1e6) ** 2)
    return min(affordable, max(1, min(needed - have, 2 * have)))


def _first_probes(run: Run, task: Sampled, samples: Samples) -> None:
    """Run two probes until their truncation is small beside the noise that will be."""
    fixed = run.goal.steps
    block, ratios = _outside(task, run.probes.block(range(2, 4)))
    alphas: list[Host] = []
    betas: list[Host] = []
    found = partial(assembled, alphas, betas)
    most = max(1, run.left // 2) if fixed is None else fixed
    for alpha, beta in coefficients(task.op, block, most):
        alphas.append(alpha)
        betas.append(beta)
        if fixed is None and _enough(run, task, len(alphas), block.shape[1], found):
            break
    factors = found()
    samples.factors += factors
    samples.ratios += ratios


def _sample(run: Run, task: Sampled, samples: Samples, steps: int, count: int) -> None:
    have = len(samples.factors)
    # The first two probes are the basis, or its starting vectors.
    first = have if task.deflated == 0 else have + 2

    def one(block: Array) -> list[Tridiagonal]:
        block, ratios = _outside(task, block)
        samples.ratios += ratios
        return tridiagonalize(task.op, block, steps)

    wanted = replace(run.probes, count=first + count)
    samples.factors += by_blocks(task.op, wanted, one, first=first)


def _outside(task: Sampled, block: Array) -> tuple[Array, list[float]]:
    """Return probes without what was computed, and their squared norms over the mass."""
    if task.basis is None:
        return block, [1.0] * block.shape[1]
    block = task.basis.remove_from(block, task.columns)
    return block, list(np.real(column_dots(block, block)) / task.mass)


def _summary(problem: Problem, run: Run, task: Sampled, samples: Samples) -> Estimate:
    found = integrated(
        samples.factors, task.f, task.known, unit=task.op.unit, traces=task.traces,
        ratios=None if task.basis is None else np.array(samples.ratios),
        long_runs=samples.long_runs,
    )  # fmt: skip
    # Products with P^(-1/2) or (I - Q Q^H) lose some digits more than those with A.
    rounding = 1000 * task.op.unit * abs(task.offset) / task.mass
    truncated = found.truncated
    estimate = summed(
        replace(truncated, bias=truncated.bias + rounding, rounding=truncated.rounding + rounding),
        replace(run.probes, count=len(samples.factors)),
        method="lanczos",
        matvecs=problem.matvecs + run.op.count,
        bounds=found.bounds if task.deflated == 0 else None,
        flags=found.flags,
        computed=Computed(task.offset, task.bias, task.deflated, task.mass),
    )
    return replace(estimate, steps=max(len(factor.diagonal) for factor in samples.factors))
