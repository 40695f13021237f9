"""What residuals of Ritz pairs leave open: bounds of a spectrum, its condition number, its rank."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np

from specdens.estimation.estimate import SINGULAR, finite_pair
from specdens.problem.bounds import RESIDUALS, SHARE
from specdens.recurrences.quadrature import noise_of
from specdens.results import Estimate, SpectralBounds
from specdens.scalar_functions import ScalarFunction
from specdens.spectra.spectral_run import SpectralRun

__all__ = ["bounds_of", "condition_of", "rank_of"]

INNER = "Ritz values lie inside the spectrum: the condition number may be larger"
INTERIOR = "eigenvalues of both signs: the one next to 0 is not resolved by a Krylov space"
TRUSTED = 0.1
"""Relative doubt up to which a condition number counts as known."""

SCATTER = 3.0
"""Standard errors by which the weight of doubtful Ritz values may itself be off."""


def bounds_of(run: SpectralRun) -> SpectralBounds:
    """Return an interval that contains the spectrum; ends that are proved where they are near."""
    nodes, residuals = run.ritz("an interval of eigenvalues")
    (low, high), known = run.ends, run.known
    if _is_certain(run):
        return SpectralBounds(low, high, True, True, "eigenvalues", inner=(low, high))
    room = RESIDUALS * residuals + SHARE * (high - low)
    below, above = float(low - room[np.argmin(nodes)]), float(high + room[np.argmax(nodes)])
    noise = noise_of(run.n, run.unit, low, high)
    # A stated bound that a Ritz value contradicts is none.
    low_proved = known.low_rigorous and below <= known.low <= low + noise
    high_proved = known.high_rigorous and high - noise <= known.high <= above
    return SpectralBounds(
        known.low if low_proved else below,
        known.high if high_proved else above,
        low_proved,
        high_proved,
        "Lanczos with a safeguard",
        inner=(low, high),
    )


def _is_certain(run: SpectralRun) -> bool:
    """Whether all eigenvalues were seen: random probes may miss one, if by an improbable chance."""
    return run.complete and (run.eigenvalues is not None or run.exhaustive)


def condition_of(run: SpectralRun) -> Estimate:
    """Return the largest modulus of an eigenvalue over the smallest, and what is open."""
    nodes, residuals = run.ritz("a condition number")
    sizes = np.abs(nodes)
    near, far = int(np.argmin(sizes)), int(np.argmax(sizes))
    smallest, largest = float(sizes[near]), float(sizes[far])
    shared: dict[str, Any] = {"matvecs": run.matvecs, "samples": len(run.factors)}
    shared |= {"method": run.method, "bounds": finite_pair(bounds_of(run)), "seed": run.seed}
    if smallest <= noise_of(run.n, run.unit, *run.ends):
        flags = (SINGULAR,) if smallest > 0 else ()
        return Estimate(value=math.inf, flags=flags, converged=not flags, **shared)
    least, most = smallest - residuals[near], largest + residuals[far]
    if run.known.low_rigorous and run.known.low <= smallest:
        least = max(least, run.known.low)
    value = largest / smallest
    bias = 0.0 if run.complete else (most / least - value if least > 0 else math.inf)
    flags = (INNER,) if bias > TRUSTED * value else ()
    if not run.complete and not run.nonnegative and run.ends[1] > 0:
        flags = (*flags, INTERIOR)
    return Estimate(
        value=value,
        bias_bound=bias,
        bias_rigorous=_is_certain(run),
        flags=flags,
        converged=not flags,
        **shared,
    )


def rank_of(run: SpectralRun, tol: float) -> Estimate:
    """Return the number of eigenvalues of modulus above a tolerance."""
    above = ScalarFunction("the rank", lambda _, x: np.where(np.abs(x) > tol, 1.0, 0.0), own=True)
    found = run.trace(above)
    if run.complete:
        return found
    open_weights = [
        rule.weights @ (np.abs(np.abs(rule.nodes) - tol) <= residuals)
        for rule, residuals in zip(run.rules, run.residuals, strict=True)
    ]
    chance = SCATTER * float(np.std(open_weights)) / math.sqrt(len(open_weights))
    bias = run.sampled * (float(np.mean(open_weights)) + chance)
    negligible = max(found.stderr, 1e-8 * abs(float(found)))
    return replace(
        found,
        bias_bound=bias,
        bias_rigorous=False,
        converged=not found.flags and bias <= negligible,
    )
