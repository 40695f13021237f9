r"""Exact moments as control variates: only what they do not tell is left to chance.

Where ``tr A, ..., tr A^K`` are known, f is split into a polynomial p of degree K and the rest:
``tr f(A) = tr p(A) + E[z^H (f - p)(A) z]``. The p of each probe is fitted to the measures of other
probes, so that it does not depend on the probe that it corrects: the mean stays unbiased.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from specdens.operators.algebra import shifted_traces
from specdens.recurrences.quadrature import Rule

__all__ = [
    "Controlled",
    "controlled",
    "controlled_table",
    "explained_spread",
    "known_chebyshev",
    "residual_spread",
]

Host: TypeAlias = np.ndarray[Any, Any]

FOLDS = 16
"""Fits: with up to so many probes each has its own, from all the others."""

CONTRADICTION = 8.0
"""Standard errors beyond which the probes contradict a trace that was stated."""


@dataclass(frozen=True)
class Controlled:
    """Values of one functional for each probe, after what is known exactly was put in.

    Attributes
    ----------
    values : ndarray, shape (R,)
        For mass 1.
    spread : float
        The variance of what is left of f under the mean spectral measure.
    contradicted : bool
        Whether the probes' own moments are incompatible with the ones that were stated.
    """

    values: Host
    spread: float
    contradicted: bool = False


def controlled(
    values: Host,
    rules: list[Rule],
    y: list[Host],
    traces: tuple[float, ...],
    mass: float,
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
    traces : tuple of float
        ``tr A, tr A^2, ...``.
    mass : float
        ``tr I``.
    ratios : ndarray, shape (R,), optional
        ``<z, z>`` of each probe over the mass, where that fluctuates: then the mass is a control
        variate, too.

    References
    ----------
    Owen, Monte Carlo theory, methods and examples (2013), section 8.9.
    """
    steps = min(len(rule.nodes) for rule in rules)
    # A short rule comes from an exhausted Krylov space: it is exact at any degree.
    degree = min(len(traces), max(2 * steps - 1, 2))
    low = min(float(rule.nodes[0]) for rule in rules)
    high = max(float(rule.nodes[-1]) for rule in rules)
    center, half = (low + high) / 2, (high - low) / 2
    if (degree == 0 and ratios is None) or half <= 1e-14 * max(abs(low), abs(high)):
        return Controlled(values, residual_spread(rules, y, 0))
    exact = _scaled_moments((mass, *traces[:degree]), center, half) / mass
    powers = [((rule.nodes - center) / half)[:, None] ** np.arange(degree + 1) for rule in rules]
    found = np.array([rule.weights @ p for rule, p in zip(rules, powers, strict=True)])
    if ratios is not None:
        values, found = values * ratios, found * ratios[:, None]
    corrected = values.astype(np.result_type(values, *y))
    folds = min(FOLDS, len(rules))
    members = np.arange(len(rules)) % folds
    for fold in range(folds):
        others = np.flatnonzero(members != fold)
        coefficients = _fit([powers[i] for i in others], [rules[i].weights for i in others],
                            [y[i] for i in others])  # fmt: skip
        own = members == fold
        corrected[own] = values[own] + (exact - found[own]) @ coefficients
    return Controlled(
        corrected,
        residual_spread(rules, y, degree),
        _contradicted(exact, found, powers, rules, mass),
    )


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


def _scaled_moments(traces: tuple[float, ...], center: float, half: float) -> Host:
    """Return ``tr ((A - center) / half)^k`` from ``tr A^k``, both from k = 0."""
    return np.array([t / half**k for k, t in enumerate(shifted_traces(traces, -center))])


def _fit(powers: list[Host], weights: list[Host], y: list[Host]) -> Host:
    """Return coefficients of the weighted least-squares polynomial; infinities have no say."""
    values = np.concatenate(y)
    root = np.sqrt(np.concatenate(weights))
    root[~np.isfinite(values)] = 0
    values = np.where(np.isfinite(values), values, 0)
    matrix = np.concatenate(powers) * root[:, None]
    return np.asarray(np.linalg.lstsq(matrix, values * root, rcond=1e-12)[0])


def _contradicted(
    exact: Host, found: Host, powers: list[Host], rules: list[Rule], mass: float
) -> bool:
    """Whether the mean moments of the probes are further from the stated ones than chance goes."""
    mean = found.mean(axis=0)
    squares = np.mean([rule.weights @ p**2 for rule, p in zip(rules, powers, strict=True)], axis=0)
    variance = 2 * np.maximum(squares - mean**2, 0) / mass / len(rules)
    return bool(np.any(np.abs(mean - exact) > CONTRADICTION * np.sqrt(variance) + 1e-6))


def known_chebyshev(
    traces: tuple[float, ...], mass: float, low: float, high: float, count: int
) -> Host:
    """Return the first Chebyshev moments on [low, high], for mass 1, as far as traces tell them.

    Parameters
    ----------
    traces : tuple of float
        ``tr A, tr A^2, ...``.
    mass : float
        ``tr I``.
    low, high : float
    count : int
        At most so many.

    Returns
    -------
    ndarray, shape (min(count, len(traces) + 1),)
    """
    powers = (mass, *traces)[:count]
    scaled = _scaled_moments(powers, (low + high) / 2, (high - low) / 2) / mass
    unit = np.eye(len(powers))
    rows = [np.polynomial.chebyshev.cheb2poly(unit[k][: k + 1]) for k in range(len(powers))]
    return np.array([row @ scaled[: len(row)] for row in rows])


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
