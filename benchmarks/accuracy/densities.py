"""How far an estimated density of states is from the spectrum: Wasserstein-1, by its width.

``W_1 = int |F - G| dx`` of the distribution functions. Compared at equal numbers of products: what
`specdens.density` gives; the Jackson-damped Chebyshev moments of plain probes, with the exact
interval for nothing; and the mean Gauss rule of plain Lanczos probes.
"""

from __future__ import annotations

import warnings
from typing import Any, TypeAlias

import numpy as np

import specdens
from benchmarks.accuracy.spectra import Case
from specdens import SpectralDensity
from specdens.arrays.libraries import default_namespace
from specdens.arrays.probes import signs
from specdens.estimation.sampling import widened
from specdens.operators.aslinearoperator import aslinearoperator
from specdens.recurrences.chebyshev_moments import chebyshev_moments
from specdens.recurrences.lanczos import tridiagonalize
from specdens.recurrences.quadrature import gauss
from specdens.results import SpectralBounds

Host: TypeAlias = np.ndarray[Any, Any]

FOR_BOUNDS = 20
"""Products that `specdens.density` spends on the ends of the spectrum."""


def ours(this: Case, products: int, probes: int, seed: int) -> float:
    """Return the distance of `specdens.density`, which finds its interval itself."""
    moments = 2 * ((products - FOR_BOUNDS) // probes)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", specdens.AccuracyWarning)
        rho = specdens.density(this.A, moments=moments, probes=probes, rng=seed)
    return smooth_distance(this.eigenvalues, rho)


def jackson(this: Case, products: int, probes: int, seed: int) -> float:
    """Return the distance of the plain kernel polynomial method."""
    count = 2 * (products // probes)
    low, high = float(this.eigenvalues.min()), float(this.eigenvalues.max())
    low, high = widened(SpectralBounds(low, high, True, True, "known"), 0.01)
    table = chebyshev_moments(*_plain(this, probes, seed), count, low, high)
    rho = SpectralDensity(
        moments=table.mean(axis=1), bounds=(low, high), size=this.n, kernel="jackson", table=table,
        order=this.n, method="chebyshev", matvecs=products, samples=probes,
    )  # fmt: skip
    return smooth_distance(this.eigenvalues, rho)


def gauss_rule(this: Case, products: int, probes: int, seed: int) -> float:
    """Return the distance of the mean of the probes' Gauss rules, which are atoms."""
    from scipy.stats import wasserstein_distance

    rules = [gauss(t) for t in tridiagonalize(*_plain(this, probes, seed), products // probes)]
    nodes = np.concatenate([rule.nodes for rule in rules])
    weights = np.concatenate([rule.weights for rule in rules])
    distance = wasserstein_distance(this.eigenvalues, nodes, v_weights=np.maximum(weights, 0))
    return float(distance / np.ptp(this.eigenvalues))


METHODS = {"specdens.density": ours, "Jackson": jackson, "Gauss rule": gauss_rule}


def _plain(this: Case, probes: int, seed: int) -> tuple[Any, Host]:
    xp = default_namespace()
    block = signs(this.n, range(probes), seed, xp=xp, dtype=xp.float64)
    op = aslinearoperator(this.A)
    op.hermitian = True
    return op, block


def smooth_distance(eigenvalues: Host, rho: SpectralDensity, *, grid: int = 4096) -> float:
    """Return the distance between atoms and a smooth density, by the width of the atoms."""
    low, high = rho.bounds
    t = np.cos(np.linspace(np.pi, 0, grid))
    smooth = (low + high) / 2 + (high - low) / 2 * t
    # Between neighbours of all points the atoms' distribution function is constant.
    x = np.unique(np.concatenate([smooth, eigenvalues]))
    atoms = np.searchsorted(np.sort(eigenvalues), x[:-1], side="right") / len(eigenvalues)
    ours = np.interp((x[1:] + x[:-1]) / 2, smooth, rho.cumulative(smooth))
    return float(np.abs(ours - atoms) @ np.diff(x) / np.ptp(eigenvalues))
