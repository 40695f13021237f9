r"""What a caller asked for, and how products are best divided to get it.

The error of a mean over R probes of m steps is about ``sqrt(2 n s^2 / R)``, with s^2 the variance
of f under the spectral measure after control variates, beside the bias of m steps. Both can be
read off the quadrature of a short run, so that the effect of a choice is known before it is paid.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from specdens.estimation.control_variates import residual_spread
from specdens.problem.prepare import checked_count
from specdens.recurrences.lanczos import Tridiagonal
from specdens.recurrences.quadrature import Rule, gauss
from specdens.scalar_functions import ScalarFunction

__all__ = [
    "Forecast",
    "Goal",
    "Spending",
    "forecast",
    "goal_of",
    "moments_alone",
    "runs_for",
    "tridiagonal_of",
]

Host: TypeAlias = np.ndarray[Any, Any]

DEFAULT_MOMENTS = 20
LEAST_BUDGET = 12
LARGEST_FORMED = 2048
LEAST_PROBES = 4
"""With fewer the scatter over probes says nothing of the error."""

INTERVAL = 2.5
"""Half widths of a 95 % interval in standard errors: Student's t of some ten probes."""


@dataclass(frozen=True)
class Goal:
    """What a caller asked for.

    Attributes
    ----------
    moments : int
        Where nothing is left to choose.
    steps, probes : int or None
        Fixed by the caller; None where they may be chosen.
    rtol, atol : float
        0 if not asked for.
    max_matvecs : int or None
    guarantee : tuple of float, or None
    """

    moments: int
    steps: int | None
    probes: int | None
    rtol: float
    atol: float
    max_matvecs: int | None
    guarantee: tuple[float, float] | None

    @property
    def adaptive(self) -> bool:
        """Whether anything is to be chosen."""
        return self.tolerant or self.max_matvecs is not None or self.guarantee is not None

    @property
    def tolerant(self) -> bool:
        """Whether an accuracy was asked for, so that fewer products than allowed may do."""
        return self.rtol > 0 or self.atol > 0

    def pays_for_all(self, n: int) -> bool:
        """Whether the budget pays for the n columns of a matrix small enough to be factored."""
        return (
            self.max_matvecs is not None
            and not self.tolerant
            and n <= min(self.max_matvecs, LARGEST_FORMED)
        )

    def budget(self, n: int) -> int:
        """Return the number of products that may be spent."""
        return max(2000, 2 * n) if self.max_matvecs is None else self.max_matvecs

    def tolerance(self, value: float) -> float:
        """Return the half width of the interval that was asked for."""
        return max(self.atol, self.rtol * abs(value))


def goal_of(
    moments: int | None,
    probes: Any,
    rtol: float | None,
    atol: float | None,
    max_matvecs: int | None,
    guarantee: tuple[float, float] | None,
) -> Goal:
    """Check what a caller asked for.

    Raises
    ------
    ValueError
        If a number is out of range, or what was asked for contradicts itself.
    """
    count = None if moments is None else checked_count(moments, "moments")
    for name, value in (("rtol", rtol), ("atol", atol)):
        if value is not None and not (_is_number(value) and 0 < value < math.inf):
            msg = f"{name} is {value!r}; expected a positive number."
            raise ValueError(msg)
    if max_matvecs is not None:
        max_matvecs = checked_count(max_matvecs, "max_matvecs")
        if max_matvecs < LEAST_BUDGET:
            msg = (
                f"max_matvecs is {max_matvecs}; a pilot needs {LEAST_BUDGET} products. "
                "For fewer fix moments= and probes= yourself."
            )
            raise ValueError(msg)
    if guarantee is not None:
        _require_pair(guarantee)
        if rtol is not None or atol is not None:
            msg = "guarantee=(eps, delta) states the accuracy; leave out rtol= and atol=."
            raise ValueError(msg)
    fixed = probes if isinstance(probes, (int, np.integer)) else None
    adaptive = max_matvecs is not None or rtol is not None or atol is not None or guarantee
    if adaptive and probes is not None and fixed is None:
        msg = "probes is an array, but how many are needed is to be found out; pass an int or none."
        raise ValueError(msg)
    return Goal(
        moments=DEFAULT_MOMENTS if count is None else count,
        steps=None if count is None else math.ceil(count / 2),
        probes=None if fixed is None else int(fixed),
        rtol=float(rtol or 0),
        atol=float(atol or 0),
        max_matvecs=max_matvecs,
        guarantee=guarantee,
    )


def moments_alone(moments: Any) -> Goal:
    """Return the goal of a caller who may only fix the moments."""
    return goal_of(checked_count(moments, "moments"), None, None, None, None, None)


def _is_number(x: Any) -> bool:
    return isinstance(x, (int, float, np.integer, np.floating)) and not isinstance(x, bool)


def _require_pair(guarantee: Any) -> None:
    pair = tuple(guarantee) if isinstance(guarantee, (tuple, list)) else ()
    if len(pair) == 2 and all(map(_is_number, pair)) and pair[0] > 0 and 0 < pair[1] < 1:
        return
    msg = f"guarantee is {guarantee!r}; expected (eps, delta), eps > 0 and 0 < delta < 1."
    raise ValueError(msg)


@dataclass(frozen=True)
class Forecast:
    """What a choice would give.

    Attributes
    ----------
    steps, probes : int
    stderr, bias : float
        Of a trace, in its units.
    cost : int
        Products still to be spent.
    """

    steps: int
    probes: int
    stderr: float
    bias: float
    cost: int

    @property
    def error(self) -> float:
        """Root mean square."""
        return math.hypot(self.stderr, self.bias)


def runs_for(variance: float, target: float, most: int) -> int:
    """Return how many runs of a variance have a mean of so small a standard error; at most `most`.

    No target is too small, and no variance too large.
    """
    ratio = math.sqrt(variance) / target if math.isfinite(variance) else math.inf
    return math.ceil(ratio**2) if ratio < math.sqrt(most) else most


def tridiagonal_of(rule: Rule, steps: int) -> Tridiagonal:
    """Return the tridiagonal of a discrete measure (Stieltjes' procedure, reorthogonalised)."""
    seen = rule.weights > 0
    nodes, q = rule.nodes[seen], np.sqrt(rule.weights[seen])
    scale = max(float(np.abs(nodes).max()), np.finfo(float).tiny)
    basis = [q / np.linalg.norm(q)]
    diagonal: list[float] = []
    off_diagonal: list[float] = []
    for _ in range(min(steps, len(nodes))):
        w = nodes / scale * basis[-1]
        diagonal.append(float(basis[-1] @ w))
        earlier = np.array(basis)
        for _ in range(2):
            w = w - earlier.T @ (earlier @ w)
        off_diagonal.append(float(np.linalg.norm(w)))
        if off_diagonal[-1] <= 1e-14 or len(diagonal) == len(nodes):
            off_diagonal[-1] = 0.0
            break
        basis.append(w / off_diagonal[-1])
    beta = np.array(off_diagonal) * scale
    return Tridiagonal(np.array(diagonal) * scale, beta[:-1], float(beta[-1]))


@dataclass(frozen=True)
class Spending:
    """What may be spent on sampling, and for what.

    Attributes
    ----------
    goal : Goal
    left : int
        Products.
    target : float
        The standard error that is wanted, or 0: as small as the products allow.
    longest : int
        Steps up to which a measure that was estimated tells the truth.
    """

    goal: Goal
    left: int
    target: float
    longest: int


def forecast(
    rule: Rule, f: ScalarFunction, spending: Spending, *, degree: int, mass: float
) -> Forecast | None:
    """Foretell the best division of the products that are left, from an estimate of the measure.

    Parameters
    ----------
    rule : Rule
        Of the operator that will be sampled.
    f : ScalarFunction
    spending : Spending
    degree : int
        Of the polynomials whose traces are known.
    mass : float
        ``tr I`` of what is sampled.

    Returns
    -------
    Forecast or None
        None if not even the least number of probes fits.
    """
    goal, left, target, longest = spending.goal, spending.left, spending.target, spending.longest
    y = f.on_host(rule.nodes)
    spread = residual_spread([rule], [y], degree)
    whole = tridiagonal_of(rule, longest)
    full = rule.integrate(y)
    best: Forecast | None = None
    few = LEAST_PROBES if goal.probes is None else goal.probes
    for m in range(1, min(longest, left // few) + 1) if goal.steps is None else (goal.steps,):
        short = gauss(whole.leading(m))
        bias = mass * abs(short.integrate(f.on_host(short.nodes)) - full)
        probes = left // m if goal.probes is None else goal.probes
        if probes < 1 or probes * m > left:
            continue
        if target > 0:
            probes = max(min(few, probes), runs_for(2 * mass * spread, target, probes))
        stderr = math.sqrt(2 * mass * spread / probes)
        option = Forecast(m, probes, stderr, bias, probes * m)
        if best is None or _better(option, best, target):
            best = option
    return best


def _better(new: Forecast, old: Forecast, target: float) -> bool:
    """Whether one is better: cheaper if both reach the target, else more accurate."""
    if target > 0 and max(new.error, old.error) <= 1.2 * target:
        return new.cost < old.cost
    return new.error < old.error
