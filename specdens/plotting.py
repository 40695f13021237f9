"""Pictures of densities, counts and convergence: an `Axes` in (or none), an `Axes` out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from specdens.results import Estimate
from specdens.spectra.spectral_density import SpectralDensity

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["plot_convergence", "plot_cumulative", "plot_density"]


def _axes(ax: Axes | None) -> Axes:
    if ax is not None:
        return ax
    try:
        import matplotlib.pyplot as plt
    except ImportError:
        msg = "plots need matplotlib: pip install 'specdens[plot]'"
        raise ImportError(msg) from None
    return plt.subplots()[1]


def plot_density(
    rho: SpectralDensity,
    *,
    ax: Axes | None = None,
    level: float = 0.95,
    label: str | None = None,
    **style: Any,
) -> Axes:
    """Draw a density of states with its confidence band.

    Parameters
    ----------
    rho : SpectralDensity
        For a local one with several sites, a line each.
    ax : matplotlib Axes, optional
        Default a new figure's.
    level : float
        Of the band, which is left out where nothing was left to chance.
    label : str, optional
    **style
        For `matplotlib.axes.Axes.plot`.

    Returns
    -------
    matplotlib Axes

    Examples
    --------
    >>> import specdens
    >>> from specdens.testing import laplacian
    >>> ax = plot_density(specdens.density(laplacian(30, 30), rng=0))
    >>> ax.get_ylabel()
    'density of states'
    """
    ax = _axes(ax)
    x = rho.energies(1024)
    (line, *_) = ax.plot(x, np.atleast_2d(rho(x)).T, label=label, **style)
    if rho.table is not None:
        low, high = rho.band(x, level)
        ax.fill_between(x, low, high, color=line.get_color(), alpha=0.3, linewidth=0)
    ax.set_xlabel("eigenvalue")
    ax.set_ylabel("density of states")
    return ax


def plot_cumulative(
    rho: SpectralDensity,
    *,
    ax: Axes | None = None,
    level: float = 0.95,
    label: str | None = None,
    **style: Any,
) -> Axes:
    """Draw the number of eigenvalues up to each energy, with its confidence band.

    Parameters
    ----------
    rho, ax, level, label, **style
        As for `plot_density`.

    Returns
    -------
    matplotlib Axes

    Examples
    --------
    >>> import specdens
    >>> from specdens.testing import laplacian
    >>> ax = plot_cumulative(specdens.density(laplacian(30, 30), rng=0))
    >>> ax.get_ylabel()
    'eigenvalues up to x'
    """
    from specdens.results import two_sided_quantile

    ax = _axes(ax)
    x = rho.energies(1024)
    count = rho.size * rho.cumulative(x)
    (line, *_) = ax.plot(x, np.atleast_2d(count).T, label=label, **style)
    if rho.table is not None:
        half = two_sided_quantile(level, rho.samples) * rho.size * rho.cumulative_stderr(x)
        low, high = count - half, count + half
        ax.fill_between(x, low, high, color=line.get_color(), alpha=0.3, linewidth=0)
    ax.set_xlabel("eigenvalue")
    ax.set_ylabel("eigenvalues up to x")
    return ax


def plot_convergence(
    moments: Sequence[int],
    estimates: Sequence[Estimate],
    *,
    truth: float | None = None,
    ax: Axes | None = None,
    level: float = 0.95,
    label: str | None = None,
    **style: Any,
) -> Axes:
    """Draw estimates against the moments they used, with their intervals.

    Parameters
    ----------
    moments : sequence of int
    estimates : sequence of Estimate
        One for each, from ``return_info=True``.
    truth : float, optional
        Drawn as a horizontal line.
    ax : matplotlib Axes, optional
    level : float
        Of the intervals, which include the bias bound.
    label : str, optional
    **style
        For `matplotlib.axes.Axes.errorbar`.

    Returns
    -------
    matplotlib Axes

    Raises
    ------
    ValueError
        If there is not one estimate for each number of moments.

    Examples
    --------
    >>> import specdens
    >>> from specdens.testing import laplacian
    >>> A = laplacian(30, 30)
    >>> steps = [40, 80, 160]
    >>> options = {"method": "lanczos", "bounds": (0.02, 8.0), "rng": 0, "return_info": True}
    >>> runs = [specdens.logdet(A, moments=m, **options) for m in steps]
    >>> ax = plot_convergence(steps, [info for _, info in runs])
    >>> ax.get_xlabel()
    'moments'
    """
    if len(moments) != len(estimates):
        msg = f"got {len(moments)} numbers of moments and {len(estimates)} estimates, not pairs."
        raise ValueError(msg)
    ax = _axes(ax)
    values = np.array([float(e) for e in estimates])
    ends = np.array([e.interval(level) for e in estimates])
    errors = np.abs(ends - values[:, None]).T
    ax.errorbar(moments, values, yerr=errors, label=label, fmt=style.pop("fmt", "o-"), **style)
    if truth is not None:
        ax.axhline(truth, color="0.4", linestyle="--", linewidth=1)
    ax.set_xlabel("moments")
    ax.set_ylabel("estimate")
    return ax
