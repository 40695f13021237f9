r"""How far m steps are from all steps: rigorous brackets where they exist, else an extrapolation.

A value is that of the averaged Gauss rule where the mirror image of the tridiagonal is a good guess
of its continuation, else of the Gauss rule. With the k-step values G_k averaged over probes,
``D_2 = |G_m - G_(m/2)|`` and ``D_1 = |G_(m/2) - G_(m/4)|``: if the error falls like a power of the
steps, what is left after m is ``D_2 q / (1 - q)`` with ``q = D_2 / D_1``; if geometrically, less.
Twice that is reported, but at least a tenth of the correction by the mirror image, at most
all of it. It cannot see eigenvalues that no probe has met yet, so for log it is at least a tenth of
the gap that eigenvalues at the limit of precision would leave, and at most that gap
(benchmarks/accuracy/truncation.py measures all of it on 23 spectra).

A few long runs may correct many short ones: the mean over all probes of the Gauss values after few
steps, plus the mean over the long ones of what their further steps changed, which hardly depends on
the probe. Only the truncation of the long ones is left.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from specdens.estimation.control_variates import (
    Controlled,
    controlled,
    residual_spread,
)
from specdens.estimation.gauss_radau import bracketing_end, radau_values
from specdens.operators.power_traces import UNKNOWN, PowerTraces
from specdens.recurrences.lanczos import Bidiagonal, Tridiagonal
from specdens.recurrences.quadrature import Rule, averaged, gauss, noise_of
from specdens.results import UNBOUNDED, SpectralBounds, two_sided_quantile
from specdens.scalar_functions import LOG, LOG_ABS, ScalarFunction

__all__ = [
    "Truncated",
    "changes",
    "correction_scale",
    "correction_scatter",
    "foreseen_bias",
    "integrate_factors",
]

Host: TypeAlias = np.ndarray[Any, Any]
Factor: TypeAlias = Tridiagonal | Bidiagonal

UNIT = float(np.finfo(float).eps)

INFLATION = 2.0
FLOOR_SHARE = 0.1

AVERAGED_SHARE = 0.1
AVERAGED_SCATTER = 1.5

CHANGE_SHARE = 0.1
"""Of the mean of what more steps changed, below which its scatter is not believed."""


@dataclass(frozen=True)
class Truncated:
    """Values of one functional for each probe, and how far truncation may put their mean off.

    Attributes
    ----------
    values : ndarray, shape (R,)
    bias : float
        Of the mean, in the same units.
    rigorous : bool
    rounding : float
        The part of the bias that is rounding in the precision of A, which no moments reduce.
    spread : float
        The variance under the mean spectral measure of what is left of f after the control
        variates, for the plug-in variance.
    contradicted : bool
        Whether stated traces are incompatible with the probes.
    changed : float
        Scatter over probes of what the further steps of long runs changed, where those correct the
        mean of short ones.
    long_runs : int
        How many correct it.
    """

    values: Host
    bias: float
    rigorous: bool
    spread: float
    rounding: float = 0.0
    contradicted: bool = False
    changed: float = 0.0
    long_runs: int = 0


def integrate_factors(
    factors: list[Factor],
    f: ScalarFunction,
    known: SpectralBounds,
    *,
    unit: float,
    traces: PowerTraces = UNKNOWN,
    ratios: Host | None = None,
    long_runs: int = 0,
) -> Truncated:
    """Integrate f over each probe's measure, and bound the truncation error of the mean.

    Parameters
    ----------
    factors : list of Tridiagonal or Bidiagonal
    f : ScalarFunction
        Defined on the nodes.
    known : SpectralBounds
        Rigorous ends serve for Gauss-Radau brackets.
    unit : float
        Unit roundoff of the products.
    traces : PowerTraces
        ``tr I``, and ``tr A, tr A^2, ...`` where they may serve as control variates: for random
        probes.
    ratios : ndarray, shape (R,), optional
        ``<z, z>`` of each probe over the mass, where it is not 1.
    long_runs : int
        So many of the first factors have more steps than the others, and correct their truncation.
    """
    if 0 < long_runs < len(factors):
        shared: dict[str, Any] = {"unit": unit, "traces": traces, "ratios": ratios}
        return _two_levels(factors[:long_runs], factors[long_runs:], f, known, **shared)
    gaussian = _gauss_values(factors, f, known)
    best = _best_values(factors, gaussian, f, known, unit)
    known_part = _controlled(gaussian, best.values, traces, ratios)
    rounding = _rounding(gaussian, f, known, unit, traces.values[0]) + known_part.rounding
    return Truncated(
        known_part.values, best.bias + rounding, best.rigorous, known_part.spread, rounding,
        known_part.contradicted,
    )  # fmt: skip


def _two_levels(
    long: list[Factor],
    short: list[Factor],
    f: ScalarFunction,
    known: SpectralBounds,
    *,
    unit: float,
    traces: PowerTraces,
    ratios: Host | None,
) -> Truncated:
    """Integrate short runs, corrected by what more steps changed for the long ones."""
    running = [len(factor.diagonal) for factor in short if factor.residual > 0]
    # Exhausted Krylov spaces are exact: if all are, there is nothing to correct.
    steps = max(running or [len(factor.diagonal) for factor in long])
    cut = _gauss_values([*(factor.leading(steps) for factor in long), *short], f, known)
    found = _controlled(cut, cut.values, traces, ratios)
    whole = _gauss_values(long, f, known)
    best = _best_values(long, whole, f, known, unit)
    with np.errstate(invalid="ignore"):
        changed = best.values - cut.values[: len(long)]
    if not np.all(np.isfinite(changed)):
        changed = np.zeros(len(long))  # the values say it all: they are infinite
    if ratios is not None:
        changed = changed * ratios[: len(long)]
    rounding = _rounding(whole, f, known, unit, traces.values[0]) + found.rounding
    return Truncated(
        found.values + np.mean(changed),
        best.bias + rounding,
        best.rigorous,
        residual_spread(whole.rules, whole.y, traces.degree),
        rounding,
        found.contradicted,
        changed=correction_scatter(changed),
        long_runs=len(long),
    )


def correction_scatter(changed: Host) -> float:
    """Return the scatter of what more steps changed for each long run; at least 2.

    A few of them may agree by chance, so that a share of their mean is the least.
    """
    if not np.all(np.isfinite(changed)):
        return math.inf
    return max(float(np.std(changed, ddof=1)), CHANGE_SHARE * float(abs(np.mean(changed))))


def correction_scale(long_runs: int, probes: int) -> float:
    """Return the standard error of a correction over the scatter of what more steps changed.

    The long runs are few: the error is scaled up to what Student's law makes of it.

    Parameters
    ----------
    long_runs : int
    probes : int
        Long ones and short ones.
    """
    if long_runs < 2:
        return math.inf
    few, many = (two_sided_quantile(0.95, count, least=2) for count in (long_runs, probes))
    return few / many * math.sqrt(1 / long_runs - 1 / probes)


def changes(
    factors: Sequence[Factor], shorter: list[int], f: ScalarFunction, known: SpectralBounds
) -> Host:
    """Return what all steps changed of the Gauss values after fewer: shape (len(shorter), R)."""
    whole = _gauss_values([*factors], f, known)
    better = _averaged_values([*factors], f, whole.values)
    best = whole.values if better is None else better
    cut = [_gauss_values([x.leading(m) for x in factors], f, known).values for m in shorter]
    with np.errstate(invalid="ignore"):  # an infinity may not have changed
        return np.array([best - values for values in cut])


@dataclass(frozen=True)
class _Gaussian:
    """The Gauss rule of each probe, f at its nodes, and its value."""

    rules: list[Rule]
    y: list[Host]
    values: Host


def _gauss_values(factors: list[Factor], f: ScalarFunction, known: SpectralBounds) -> _Gaussian:
    rules = [gauss(factor) for factor in factors]
    # Rounding may put a Ritz value just below a bound that it obeys in truth.
    low = known.low if known.low_rigorous else -math.inf
    y = [f.on_host(f.clipped(np.maximum(rule.nodes, low))) for rule in rules]
    values = np.array([rule.integrate(v) for rule, v in zip(rules, y, strict=True)])
    return _Gaussian(rules, y, values)


def _controlled(
    gaussian: _Gaussian, values: Host, traces: PowerTraces, ratios: Host | None
) -> Controlled:
    """Return the values with what is known exactly taken out, if anything is."""
    rules, y = gaussian.rules, gaussian.y
    if len(rules) > 1 and np.all(np.isfinite(values)):
        return controlled(values, rules, y, traces, ratios)
    return Controlled(values, residual_spread(rules, y, 0))


def _rounding(
    gaussian: _Gaussian, f: ScalarFunction, known: SpectralBounds, unit: float, mass: float
) -> float:
    """Return how far rounding may move the mean value: the recurrence is exact for a neighbour.

    The eigenvalues of that neighbour of A are off by what rounding does to the largest one,
    whatever a bound of the spectrum says of the smallest.

    References
    ----------
    Greenbaum, Linear Algebra Appl. 113, 7 (1989).
    """
    if not gaussian.rules or not np.all(np.isfinite(gaussian.values)):
        return 0.0
    low = min(float(rule.nodes[0]) for rule in gaussian.rules)
    high = max(float(rule.nodes[-1]) for rule in gaussian.rules)
    noise = noise_of(int(mass), unit, low, high)
    moved = [
        rule.integrate(np.nan_to_num(_sensitivity(f, rule.nodes, y, noise, known, unit)))
        for rule, y in zip(gaussian.rules, gaussian.y, strict=True)
    ]
    return 100 * unit * float(np.mean(np.abs(gaussian.values))) + float(np.mean(moved))


def _sensitivity(
    f: ScalarFunction, nodes: Host, y: Host, noise: float, known: SpectralBounds, unit: float
) -> Host:
    """Return how much f may change where eigenvalues move by the noise, but not out of bounds."""
    low = known.low if known.low_rigorous else -math.inf
    high = known.high if known.high_rigorous else math.inf
    ends = np.clip([nodes - noise, nodes + noise], low, high)
    if f.pole:  # nearer to it, A counts as singular
        least = 4 * unit * float(np.abs(nodes).max())
        ends = np.where(np.abs(ends) < least, least, ends)
    with np.errstate(all="ignore"):
        changes = [np.abs(f.on_host(f.clipped(x)) - y) for x in ends]
    return np.asarray(np.maximum(*changes))


@dataclass(frozen=True)
class _Best:
    """The best value of each probe, the bias of the mean, and if that is proved.

    `likely` is the bias to be expected, where that is known already.
    """

    values: Host
    bias: float
    rigorous: bool
    likely: float | None = None


def _best_values(
    factors: list[Factor],
    gaussian: _Gaussian,
    f: ScalarFunction,
    known: SpectralBounds,
    unit: float,
) -> _Best:
    values = gaussian.values
    steps = min(len(factor.diagonal) for factor in factors)
    polynomial = f.degree is not None and f.degree <= 2 * steps - 1
    ended = all(factor.residual == 0 for factor in factors)
    if polynomial or ended or not np.all(np.isfinite(values)):
        return _Best(values, 0.0, True)
    better = _averaged_values(factors, f, values)
    end = bracketing_end(f, known)
    opposite = None if end is None else radau_values(factors, f, end)
    if opposite is not None:
        # The truth of each probe lies between the two rules.
        middle = (values + opposite) / 2 if better is None else better
        middle = np.clip(middle, np.minimum(values, opposite), np.maximum(values, opposite))
        gaps = [abs(float(np.mean(middle - side))) for side in (values, opposite)]
        return _Best(middle, max(gaps), True)
    likely = _expected(factors, f, values, better)
    bias = INFLATION * likely
    if f is LOG:
        bias = _against_floor(bias, factors, gaussian, f, unit)
    return _Best(values if better is None else better, bias, False, likely)


def foreseen_bias(
    factors: list[Factor], f: ScalarFunction, known: SpectralBounds, *, unit: float
) -> tuple[float, float]:
    """Return the likely bias of the mean, and what `integrate_factors` would report; for mass 1."""
    gaussian = _gauss_values(factors, f, known)
    values = gaussian.values
    best = _best_values(factors, gaussian, f, known, unit)
    if all(factor.residual == 0 for factor in factors) or not np.all(np.isfinite(values)):
        return 0.0, best.bias
    likely = best.likely
    if likely is None:
        likely = _expected(factors, f, values, _averaged_values(factors, f, values))
    return likely, best.bias


def _expected(factors: list[Factor], f: ScalarFunction, values: Host, better: Host | None) -> float:
    """Return the extrapolation of the first paragraph; for averaged rules within what they moved.

    On the spectra of benchmarks/accuracy/truncation.py they err by a tenth of that, at the median.
    """
    bias = _extrapolated(factors, f, averages=better is not None)
    if better is None:
        return bias
    moved = abs(float(np.mean(better - values)))
    return min(max(bias, AVERAGED_SHARE * moved), moved)


def _averaged_values(factors: list[Factor], f: ScalarFunction, values: Host) -> Host | None:
    """Return the averaged Gauss value of each probe, or None if that is no better or undefined."""
    if f.own or f is LOG_ABS:
        return None  # a node outside the spectrum may be where f is not defined, or across its pole
    found = []
    for factor in factors:
        if isinstance(factor, Bidiagonal):
            return None
        rule = gauss(factor) if factor.residual == 0 else averaged(factor)
        if rule is None:
            return None
        if rule.nodes[0] <= 0 and f.domain != "real":
            return None  # small isolated eigenvalues: the mirror image adds nothing there
        if f.pole and rule.nodes[0] <= 0 <= rule.nodes[-1]:
            return None
        found.append(rule.integrate(f.on_host(rule.nodes)))
    # Where the mirror image is no good guess, its values scatter more than Gauss's.
    calm = np.std(found) <= AVERAGED_SCATTER * np.std(values) + 1e-12 * abs(np.mean(values))
    return np.array(found) if calm else None


def _extrapolated(factors: list[Factor], f: ScalarFunction, *, averages: bool) -> float:
    """Return the extrapolation of the module's first paragraph."""
    steps = max(len(factor.diagonal) for factor in factors)
    if steps < 3:
        return math.inf
    half = math.ceil(steps / 2)
    # Where convergence is not monotone one difference may be small by chance.
    between = sorted({half, (half + steps) // 2, steps - 1})
    means = {
        k: _mean_after(factors, k, f, averages=averages)
        for k in {steps, math.ceil(half / 2), *between}
    }
    last, middle, early = (means[k] for k in (steps, half, math.ceil(half / 2)))
    second = max(float(abs(last - means[k])) for k in between)
    first = float(abs(middle - early))
    if second <= 1e-13 * max(min(1.0, _largest(factors, f)), float(abs(last))):
        return 0.0
    if second >= first:
        return math.inf
    ratio = second / first
    return float(second * ratio / (1 - ratio))


def _largest(factors: list[Factor], f: ScalarFunction) -> float:
    """Return the largest modulus of f at the nodes of all rules."""
    return max(float(np.abs(y).max()) for y in _gauss_values(factors, f, UNBOUNDED).y)


def _mean_after(factors: list[Factor], steps: int, f: ScalarFunction, *, averages: bool) -> Any:
    """Return the mean value after fewer steps."""
    shorter = [factor.leading(steps) for factor in factors]
    values = _gauss_values(shorter, f, UNBOUNDED).values
    better = _averaged_values(shorter, f, values) if averages else None
    return np.mean(values if better is None else better)


def _against_floor(
    bias: float, factors: list[Factor], gaussian: _Gaussian, f: ScalarFunction, unit: float
) -> float:
    """Weigh an extrapolation against the worst case: a smallest eigenvalue at rounding level."""
    floor = unit * max(rule.nodes[-1] for rule in gaussian.rules)
    lowest = radau_values(factors, f, floor)
    if lowest is None:
        return bias
    gap = abs(float(np.mean(gaussian.values - lowest)))
    return min(gap, max(bias, FLOOR_SHARE * gap))
