"""The distribution of eigenvalues as a run has seen it: counts, and densities by moments."""

from __future__ import annotations

import math

from specdens.estimation.estimate import Computed, summed
from specdens.estimation.sampling import moments_of_rules
from specdens.problem.prepare import checked_count
from specdens.recurrences.quadrature import noise_of
from specdens.results import Estimate
from specdens.spectra.density import MARGIN
from specdens.spectra.eigencount import count_by_rules
from specdens.spectra.spectral_density import SpectralDensity
from specdens.spectra.spectral_run import SpectralRun

__all__ = ["count_of", "density_of"]


def count_of(run: SpectralRun, low: float, high: float) -> Estimate:
    """Return the number of eigenvalues in [low, high], as `eigencount` by quadrature."""
    low, high = float(low), float(high)
    if not low <= high:
        msg = f"the interval is [{low}, {high}]; expected low <= high."
        raise ValueError(msg)
    slack = noise_of(run.n, run.unit, *run.ends) if run.n else 0.0
    inside = sum(times for x, times in run.atoms if low - slack <= x <= high + slack)
    if run.eigenvalues is not None:
        found = (run.eigenvalues >= low - slack) & (run.eigenvalues <= high + slack)
        return Estimate(value=float(found.sum()), matvecs=run.matvecs)
    # Beyond a bound that is proved there is nothing to resolve.
    ends = (
        -math.inf if run.known.low_rigorous and low <= run.known.low else low,
        math.inf if run.known.high_rigorous and high >= run.known.high else high,
    )
    truncated = count_by_rules(run.factors, *ends, run.unit)
    return summed(
        truncated,
        run.probes,
        method=run.method,
        matvecs=run.matvecs,
        bounds=None,
        computed=Computed(float(inside)),
    )


def density_of(run: SpectralRun, kernel: str, moments: int | None) -> SpectralDensity:
    """Return the density of states, of at most as many moments as the run has."""
    run.require_values("a density of states")
    count = run.moments if moments is None else checked_count(moments, "moments")
    if count > run.moments and not run.complete:
        msg = f"moments is {count}, but this run has {run.moments}; extend it first."
        raise ValueError(msg)
    rules = [run.with_atoms(rule) for rule in run.rules]
    stated = run.known if run.stated else None
    found = moments_of_rules(rules, count, margin=MARGIN, stated=stated)
    chance = run.eigenvalues is None and not run.exhaustive
    return SpectralDensity(
        moments=found.table.mean(axis=1),
        bounds=(found.bounds.low, found.bounds.high),
        size=run.n,
        kernel="none",
        table=found.table if chance else None,
        order=run.n,
        method=run.method,
        matvecs=run.matvecs,
        samples=len(run.factors),
        seed=run.seed,
    ).with_kernel(kernel)
