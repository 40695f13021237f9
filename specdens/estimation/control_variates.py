r"""Exact moments as control variates: only what they do not tell is left to chance.

Where ``tr A, ..., tr A^K`` are known, f is split into a polynomial p of degree K and the rest:
``tr f(A) = tr p(A) + E[z^H (f - p)(A) z]``. The p of each probe is fitted to the measures of other
probes, so that it does not depend on the probe that it corrects: the mean stays unbiased.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np

from specdens.operators.power_traces import PowerTraces
from specdens.recurrences.quadrature import Rule

__all__ = [
    "Controlled",
    "controlled",
    "controlled_table",
    "explained_spread",
    "known_chebyshev",
    "moments_contradict",
    "residual_spread",
]

Host: TypeAlias = np.ndarray[Any, Any]

FOLDS = 16
"""Fits: with up to so many probes each has its own, from all the others."""

CONTRADICTION = 8.0
"""Standard errors beyond which the probes contradict a trace that was stated."""

ROUNDING = 1e-9
"""Of the half width of a spectrum to the same power: a known Chebyshev moment that is less exact is
not used."""

MEANINGLESS = 0.1
"""As `ROUNDING`, where what rounding does to the mean is weighed against what is gained."""

HARMLESS = 1e-2
"""Of the error of a mean, below which its rounding is not looked into."""


@dataclass(frozen=True)
class Controlled:
    """Values of one functional for each probe, after what is known exactly was put in.

    Attributes
    ----------
    values : ndarray, shape (R,)
        For mass 1.
    spread : float
        The variance of what is left of f under the mean spectral measure.
    rounding : float
        How far the rounding of the known moments may put the mean off.
    contradicted : bool
        Whether the probes' own moments are incompatible with the ones that were stated.
    """

    values: Host
    spread: float
    rounding: float = 0.0
    contradicted: bool = False

    @property
    def error(self) -> float:
        """The standard error of the mean, with the rounding."""
        return float(np.std(self.values)) / math.sqrt(len(self.values)) + self.rounding


def controlled(
    values: Host,
    rules: list[Rule],
    y: list[Host],
    traces: PowerTraces,
    ratios: Host | None = None,
) -> Controlled:
    """Return per-probe values with the variance of polynomials taken out.

    Parameters
    ----------
    values : ndarray, shape (R,)
        ``<z, f(A) z> / <z, z>`` by any rule that is exact for low degrees. R at least 2.
    rules : list of Rule
        The Gauss rule of each probe.
    y : list of ndarray
        f at the nodes of each.
    traces : PowerTraces
        Known ones. Those in which rounding would show are left out, and all of them where they
        make the values of probes scatter more.
    ratios : ndarray, shape (R,), optional
        ``<z, z>`` of each probe over the mass, where that fluctuates: then the mass is a control
        variate, too.

    References
    ----------
    Owen, Monte Carlo theory, methods and examples (2013), section 8.9.
    """
    low = min(float(rule.nodes[0]) for rule in rules)
    high = max(float(rule.nodes[-1]) for rule in rules)
    center, half = (low + high) / 2, (high - low) / 2
    plain = Controlled(values, residual_spread(rules, y, 0))
    if half <= 1e-14 * max(abs(low), abs(high)):
        return plain
    # A rule is exact up to degree 2 m - 1; one from an exhausted Krylov space at any degree.
    steps = min(len(rule.nodes) for rule in rules)
    known = traces.about(center).up_to(max(2 * steps - 1, 2)).reliable(half, MEANINGLESS)
    seen = _Seen(rules, y, center, half, known.degree)
    # The variance of a moment is one of twice its degree: a short rule gives no more.
    if _contradicted(seen, known, half, min(known.degree, max(steps - 1, 1))):
        # Where nobody stated them, the probes are as likely to be at fault: better without.
        return replace(plain, contradicted=known.stated)
    ratios = np.ones(len(rules)) if ratios is None else ratios
    best = _with_degree(values, seen, known, half, ratios, known.degree)
    for degree in range(known.degree - 1, -1, -1):
        if best.rounding <= HARMLESS * best.error:
            break
        fewer = _with_degree(values, seen, known, half, ratios, degree)
        best = fewer if fewer.error < best.error else best
    return best


@dataclass(frozen=True)
class _Seen:
    """Gauss rules of all probes, f at their nodes, and the powers of these up to a degree."""

    rules: list[Rule]
    y: list[Host]
    center: float
    half: float
    degree: int

    @cached_property
    def powers(self) -> list[Host]:
        exponents = np.arange(self.degree + 1)
        return [((r.nodes - self.center) / self.half)[:, None] ** exponents for r in self.rules]

    @cached_property
    def moments(self) -> Host:
        """Shape (R, degree + 1)."""
        pairs = zip(self.rules, self.powers, strict=True)
        return np.array([rule.weights @ powers for rule, powers in pairs])


def _with_degree(
    values: Host, seen: _Seen, known: PowerTraces, half: float, ratios: Host, degree: int
) -> Controlled:
    """Return the values less what moments up to a degree explain of them."""
    first = slice(degree + 1)
    scale = known.values[0] * half ** np.arange(degree + 1)
    exact = np.array(known.values[first]) / scale
    errors = np.array(known.errors[first]) / scale
    weights = [rule.weights for rule in seen.rules]
    values, moments = values * ratios, seen.moments[:, first] * ratios[:, None]
    corrected = values.astype(np.result_type(values, *seen.y))
    slopes = np.zeros(degree + 1)
    folds = min(FOLDS, len(weights))
    members = np.arange(len(weights)) % folds
    for fold in range(folds):
        others = np.flatnonzero(members != fold)
        coefficients = _fit(
            [seen.powers[i][:, first] for i in others],
            [weights[i] for i in others],
            [seen.y[i] for i in others],
        )
        own = members == fold
        corrected[own] = values[own] + (exact - moments[own]) @ coefficients
        slopes = np.maximum(slopes, np.abs(coefficients))
    spread = residual_spread(seen.rules, seen.y, degree)
    return Controlled(corrected, spread, float(slopes[1:] @ errors[1:]))


def residual_spread(rules: list[Rule], y: list[Host], degree: int) -> float:
    """Return the variance, under the mean measure, of f less its best polynomial."""
    nodes = np.concatenate([rule.nodes for rule in rules])
    half = (nodes.max() - nodes.min()) / 2
    center = nodes.max() - half
    t = (nodes - center) / (half if half > 0 else 1.0)
    powers = t[:, None] ** np.arange(degree + 1)
    weights = np.concatenate([rule.weights for rule in rules]) / len(rules)
    values = np.concatenate(y)
    rest = values - powers @ _fit([powers], [weights], [values])
    seen = np.isfinite(rest) & (weights > 0)
    with np.errstate(over="ignore"):
        return float(weights[seen] @ np.abs(rest[seen]) ** 2)


def _fit(powers: list[Host], weights: list[Host], y: list[Host]) -> Host:
    """Return coefficients of the weighted least-squares polynomial; infinities have no say."""
    values = np.concatenate(y)
    root = np.sqrt(np.concatenate(weights))
    root[~np.isfinite(values)] = 0
    values = np.where(np.isfinite(values), values, 0)
    matrix = np.concatenate(powers) * root[:, None]
    return np.asarray(np.linalg.lstsq(matrix, values * root, rcond=1e-12)[0])


def _contradicted(seen: _Seen, known: PowerTraces, half: float, degree: int) -> bool:
    """Whether the mean moments of the probes are further from the known ones than chance goes."""
    first = slice(1, degree + 1)
    scale = known.values[0] * half ** np.arange(known.degree + 1)[first]
    exact, errors = np.array(known.values[first]) / scale, np.array(known.errors[first]) / scale
    mean = seen.moments[:, first].mean(axis=0)
    squares = [r.weights @ p[:, first] ** 2 for r, p in zip(seen.rules, seen.powers, strict=True)]
    variance = 2 * np.maximum(np.mean(squares, axis=0) - mean**2, 0) / known.values[0]
    allowed = CONTRADICTION * np.sqrt(variance / len(seen.rules)) + errors + 1e-6
    return bool(np.any(np.abs(mean - exact) > allowed))


def known_chebyshev(traces: PowerTraces, low: float, high: float, count: int) -> Host:
    """Return the first Chebyshev moments on [low, high], for mass 1, as far as traces tell them.

    Parameters
    ----------
    traces : PowerTraces
        Those in which rounding would show about the middle of the interval are left out.
    low, high : float
    count : int
        At most so many.

    Returns
    -------
    ndarray, shape (min(count, degree + 1),)
    """
    half = (high - low) / 2
    known = traces.about((low + high) / 2).up_to(count - 1).reliable(half, ROUNDING)
    scaled = np.array([v / half**k for k, v in enumerate(known.values)]) / known.values[0]
    unit = np.eye(len(scaled))
    rows = [np.polynomial.chebyshev.cheb2poly(unit[k][: k + 1]) for k in range(len(scaled))]
    return np.array([row @ scaled[: len(row)] for row in rows])


def moments_contradict(table: Host, exact: Host, mass: float) -> bool:
    """Whether the mean moments of the probes are further from the known ones than chance goes.

    Parameters
    ----------
    table : ndarray, shape (N, R)
        Chebyshev moments of each probe, for mass 1.
    exact : ndarray, shape (K + 1,)
        The known ones.
    mass : float
        ``tr I``.
    """
    # T_k^2 = (1 + T_2k) / 2: the variance of the k-th takes the 2k-th.
    checked = np.arange(1, min(len(exact), (len(table) + 1) // 2))
    mean = table.mean(axis=1)
    spread = np.maximum((1 + mean[2 * checked]) / 2 - mean[checked] ** 2, 0)
    allowed = CONTRADICTION * np.sqrt(2 * spread / mass / table.shape[1]) + 1e-6
    return bool(np.any(np.abs(mean[checked] - exact[checked]) > allowed))


def controlled_table(table: Host, exact: Host) -> Host:
    """Return the Chebyshev moments of each probe, corrected by the few that are known exactly.

    Parameters
    ----------
    table : ndarray, shape (N, R)
        For mass 1, R at least 2.
    exact : ndarray, shape (K + 1,)
        The known ones, ``exact[0] = 1``; K at most N - 1.

    Returns
    -------
    ndarray, shape (N, R)
        Linear in the same functionals: ``mu - C_kJ C_JJ^-1 (mu_J - exact_J)`` with the covariance
        ``C_jk = (mu_(j+k) + mu_|j-k|)/2 - mu_j mu_k`` of the other probes' mean.
    """
    probes = table.shape[1]
    known = np.arange(1, len(exact))
    folds = min(FOLDS, probes)
    members = np.arange(probes) % folds
    corrected = table.copy()
    for fold in range(folds):
        covariance = _covariance(table[:, members != fold].mean(axis=1), known)
        slopes = np.linalg.lstsq(covariance[known].T, covariance.T, rcond=1e-10)[0].T
        own = members == fold
        corrected[:, own] -= slopes @ (table[:, own][known] - exact[known, None])
    return corrected


def _covariance(mean: Host, known: Host) -> Host:
    """Return the covariances of ``T_k`` with the known ones, under the measure of these moments."""
    k = np.arange(len(mean))[:, None]
    longer = np.concatenate([mean, np.zeros(len(known))])  # the last ones were not computed
    both = (longer[k + known] + longer[np.abs(k - known)]) / 2
    return np.asarray(both - mean[:, None] * mean[known])


def explained_spread(coefficients: Host, mean: Host, degree: int) -> float:
    """Return the variance of a Chebyshev series that its best polynomial of low degree explains.

    Parameters
    ----------
    coefficients, mean : ndarray, shape (N,)
        Of the series; and the moments of the measure.
    degree : int
    """
    known = np.arange(1, degree + 1)
    covariance = _covariance(mean, known)
    with_f = coefficients @ covariance
    slopes = np.linalg.lstsq(covariance[known], with_f, rcond=1e-10)[0]
    return float(np.real(np.vdot(with_f, slopes)))
