"""The spectrum of a lattice: log-determinant and density of states against the exact ones."""

from __future__ import annotations

import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import specdens
from send.plotting import panels
from specdens.plotting import plot_convergence, plot_density
from specdens.testing import laplacian, laplacian_eigenvalues

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["spectra"]


def spectra(folder: Path, *, side: int = 100, seed: int = 0) -> dict[str, Any]:
    """Estimate log-determinant and density of states of a 3-D lattice, beside the exact ones.

    Parameters
    ----------
    folder : Path
        Gets ``spectra.png``.
    side : int
        The lattice has ``side ** 3`` sites.
    seed : int
        Of the probes.

    Returns
    -------
    dict
    """
    print(f"1. The Laplacian of a {side} x {side} x {side} lattice, zero at its boundary")
    matrix, exact = laplacian(side, side, side), laplacian_eigenvalues(side, side, side)
    truth = float(np.log(exact).sum())
    runs = {
        moments: _timed_logdet(matrix, moments, seed + key)  # other probes each: independent
        for key, moments in enumerate((100, 50, 25))
    }
    info, seconds = runs[100]
    low, high = info.interval(0.95)
    print(f"   log det, exact      {truth:14.1f}   (closed form)")
    print(f"   log det, estimated  {float(info):14.1f}   {info.matvecs} products, {seconds:.1f} s")
    print(f"   95 % interval       [{low:.1f}, {high:.1f}] {_holds(low, truth, high)}")
    print(f"   standard error {info.stderr:.1f}, truncation about {info.bias_bound:.1f}")
    rho = specdens.density(matrix, moments=256, probes=4, rng=seed)
    worst = _error_of_cumulative(rho, exact)
    print(f"   share of eigenvalues below 23 energies: off by {worst:.5f} at most")
    logdets = {moments: estimate for moments, (estimate, _) in runs.items()}
    figure = panels([
        lambda ax: _draw_spectrum(ax, rho, exact),
        lambda ax: _draw_logdet(ax, logdets, truth),
    ])
    figure.savefig(folder / "spectra.png")
    return {
        "sites": len(exact),
        "exact": truth,
        "estimate": float(info),
        "stderr": info.stderr,
        "bias_bound": info.bias_bound,
        "interval_95": [low, high],
        "matvecs": info.matvecs,
        "seconds": seconds,
        "largest_error_of_cumulative": worst,
    }


def _timed_logdet(matrix: Any, moments: int, seed: int) -> tuple[specdens.Estimate, float]:
    """Return an estimated log-determinant, and the seconds that it took."""
    started = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", specdens.AccuracyWarning)  # few moments: it is drawn
        _, estimate = specdens.logdet(
            matrix, moments=moments, probes=8, method="lanczos", rng=seed, return_info=True
        )
    return estimate, time.perf_counter() - started


def _error_of_cumulative(rho: specdens.SpectralDensity, exact: np.ndarray[Any, Any]) -> float:
    """Return by how much the share of eigenvalues below an energy is off at most."""
    x = np.linspace(0, 12, 25)[1:-1]
    counted = np.searchsorted(exact, x) / len(exact)
    return float(np.abs(rho.cumulative(x) - counted).max())


def _holds(low: float, truth: float, high: float) -> str:
    return "holds the exact value" if low <= truth <= high else "MISSES the exact value"


def _draw_spectrum(ax: Axes, rho: specdens.SpectralDensity, exact: np.ndarray[Any, Any]) -> None:
    ax.hist(exact, bins=240, density=True, color="0.8", label="exact eigenvalues")
    plot_density(rho, ax=ax, label="256 moments, 4 probes")
    ax.set_title(f"Laplacian of {len(exact):,} sites")
    ax.legend(loc="lower center")  # over the grey: no other place is free


def _draw_logdet(ax: Axes, runs: dict[int, specdens.Estimate], truth: float) -> None:
    steps = sorted(runs)
    plot_convergence(
        steps,
        [runs[m] for m in steps],
        truth=truth,
        ax=ax,
        fmt="o",  # no line between independent runs
        capsize=4,
        label="95 % interval",
    )
    ax.set_xticks(steps)
    ax.lines[-1].set_label("exact")
    ax.set_title("log-determinant, each with probes of its own")
    ax.set_ylabel("log det")
    ax.legend()
