"""Whether a Krylov basis is worth growing, to take what it holds out of the hands of chance."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np

from specdens.arrays.probes import Probes
from specdens.estimation.goal import INTERVAL, Forecast, Goal, Spending, forecast
from specdens.operators.algebra import Counting
from specdens.recurrences.deflation import TOLERANCE, remaining_weights, typical_value
from specdens.recurrences.krylov_basis import KrylovBasis, RitzPairs
from specdens.recurrences.quadrature import Rule
from specdens.scalar_functions import ScalarFunction

__all__ = ["Run", "deflation_pays"]

Host: TypeAlias = np.ndarray[Any, Any]

GROWTH = 4
"""A basis is judged anew each time that it has grown by a quarter."""

BASIS_SHARE = 0.6
"""Of the budget, that a basis may take."""

BASIS_BYTES = 2**31

SPREAD_SHARE = 0.1
"""Of the spread of the spectrum: residual below which a Ritz pair counts as found."""


@dataclass(frozen=True)
class Run:
    """What is fixed for one trace."""

    op: Counting
    f: ScalarFunction
    goal: Goal
    probes: Probes
    budget: int

    @property
    def n(self) -> int:
        """The order of the matrix."""
        return self.op.shape[0]

    @property
    def left(self) -> int:
        """Products that may still be spent."""
        return self.budget - self.op.count

    def target(self, value: float) -> float:
        """Return the standard error that is wanted, or 0: as small as the budget allows."""
        return self.goal.tolerance(value) / INTERVAL


def deflation_pays(run: Run, basis: KrylovBasis, *, definite: bool) -> bool:
    """Grow the basis as long as that promises less error; return whether to deflate."""
    room = BASIS_BYTES if run.op.max_memory is None else run.op.max_memory
    widest = min(BASIS_SHARE * run.budget, run.n / 2, room / (run.op.itemsize * run.n))
    before: tuple[int, int] | None = None
    while True:
        prospects = _Prospects(run, basis, definite=definite)
        more = max(1, basis.steps // GROWTH)
        promise = prospects.deflated(prospects.found, run.op.count)
        if before is None and promise >= 0.9 * prospects.plain():
            return False
        # What was known before is judged anew: a longer basis tells the measure better.
        stalled = before is not None and promise > 1.05 * prospects.deflated(*before)
        if stalled or basis.exhausted or basis.size + 2 * more > widest:
            return promise < prospects.plain()
        before = (prospects.found, run.op.count)
        basis.grow(more)


class _Prospects:
    """What sampling A, or A less some Ritz pairs, promises: an error, or a cost."""

    def __init__(self, run: Run, basis: KrylovBasis, *, definite: bool) -> None:
        self.run, self.definite, self.pairs = run, definite, basis.ritz()
        pairs = self.pairs
        self.inside = run.f.clipped(pairs.values)
        value = abs(run.n * (pairs.weights @ run.f.on_host(self.inside)))
        self.target = run.target(float(value))
        self.degree = min(2, run.op.centered_traces().degree)
        self.spending = Spending(run.goal, run.budget, self.target, longest=basis.steps)
        size = pairs.values if definite else SPREAD_SHARE / TOLERANCE * _deviation(pairs)
        ratio = pairs.residuals / np.maximum(size, np.finfo(float).tiny)
        self.order = np.argsort(ratio)
        self.found = int(np.count_nonzero(ratio < TOLERANCE))

    def plain(self) -> float:
        """Return the score of sampling A itself, the basis serving as two samples."""
        rule = Rule(self.inside, self.pairs.weights)
        expected = self._forecast(rule, self.run.n, self.run.budget)
        return _score(expected, 0, self.target)

    def _forecast(self, rule: Rule, mass: float, left: int) -> Forecast | None:
        spending = replace(self.spending, left=left)
        return forecast(rule, self.run.f, spending, degree=self.degree, mass=mass)

    def deflated(self, count: int, spent: int) -> float:
        """Return the score of taking out the best Ritz pairs, after so many products."""
        pairs, n = self.pairs, self.run.n
        taken = np.zeros(len(pairs.values), dtype=bool)
        taken[self.order[:count]] = True
        rest = remaining_weights(pairs, taken, n)
        if not np.any(rest > 0):
            return 0.0
        if self.definite:
            scaled = np.maximum(pairs.values, 1e-300) / typical_value(pairs, taken, n)
            rule, mass = _sorted(np.append(scaled, 1.0), np.append(rest, count / n)), float(n)
        else:
            rule, mass = Rule(self.inside, rest), float(n - count)
        rule = Rule(rule.nodes, rule.weights / rule.weights.sum())
        left = self.run.budget - spent
        return _score(self._forecast(rule, mass, left), spent, self.target)


def _sorted(nodes: Host, weights: Host) -> Rule:
    order = np.argsort(nodes)
    return Rule(nodes[order], weights[order])


def _deviation(pairs: RitzPairs) -> float:
    mean = pairs.weights @ pairs.values
    return math.sqrt(max(0.0, float(pairs.weights @ (pairs.values - mean) ** 2)))


def _score(found: Forecast | None, spent: int, target: float) -> float:
    if found is None:
        return math.inf
    if target == 0:
        return found.error
    excess = min(max(1.0, found.error / (1.2 * target)), 1e100)
    return (spent + found.cost) * excess**2
