r"""A density of states held as its Chebyshev moments; every question to it is linear in them.

With damping factors g_k of a kernel and ``t = (x - c)/h``:
``rho(x) = [g_0 mu_0 + 2 sum_k g_k mu_k T_k(t)] / (pi h sqrt(1 - t^2))``, finite at both ends.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np

from specdens.arrays.libraries import is_array, to_host
from specdens.recurrences.chebyshev_series import (
    cumulative_weights,
    damping,
    density_weights,
    expand,
    nodes,
    to_unit,
    width,
)
from specdens.results import PLUG_IN_BELOW, two_sided_quantile

__all__ = ["SpectralDensity"]

Host: TypeAlias = np.ndarray[Any, Any]


@dataclass(frozen=True, kw_only=True)
class SpectralDensity:
    """The density of states of a Hermitian matrix, of mass 1, broadened by a kernel.

    Made by `density` and `local_density`. Call it on energies. Results are NumPy arrays on the
    host; for R sites or vectors they gain a leading axis of length R.

    Attributes
    ----------
    moments : ndarray, shape (N,), or (N, R) for R sites
        Chebyshev moments on `bounds`, undamped; ``moments[0]`` is 1.
    bounds : tuple of float
        The interval that holds the spectrum, with a margin.
    size : int
        What `count` multiplies by: the order n of the matrix; 1 for a local density.
    kernel : str
        How the moments are damped for densities and counts, but not for `integrate`.
    table : ndarray, shape (N, samples), or None
        The moments of each probe; None where nothing was left to chance.
    order : int
        n.
    method : str
    matvecs, samples : int
        Products spent, and probes.
    seed : int or None
        The key of the probes: pass it as ``rng=`` for the same result.
    corrected : ndarray, shape (N, samples), or None
        The table after ``tr A, tr A^2, ...`` were put in where they are known exactly: it serves
        `integrate`. Densities and counts keep the table itself, that of a positive measure.
    escaped : bool
        Whether bounds that were given did not contain the spectrum, and were replaced.
    """

    moments: Host
    bounds: tuple[float, float]
    size: int
    kernel: str
    table: Host | None
    order: int
    method: str
    matvecs: int
    samples: int
    seed: int | None = None
    escaped: bool = False
    corrected: Host | None = None

    def __call__(self, x: Any) -> Host:
        """Return the density at energies x, per unit energy.

        Parameters
        ----------
        x : array_like, shape (...)

        Returns
        -------
        ndarray, shape (...) or (R, ...)
            0 outside `bounds`; next to their ends, within a `resolution`, a mean.
        """
        return self._apply(self._density_weights, x)

    def stderr(self, x: Any) -> Host:
        """Return the standard error of the density at x, over probes.

        Parameters
        ----------
        x : array_like, shape (...)

        Returns
        -------
        ndarray, shape (...)
            0 where nothing was left to chance. The broadening by the kernel is not in it: see
            `resolution`.
        """
        return self._error(self._density_weights, x)

    def band(self, x: Any, level: float = 0.95) -> tuple[Host, Host]:
        """Return a pointwise confidence band of the broadened density.

        Parameters
        ----------
        x : array_like, shape (...)
        level : float
            In (0, 1).

        Returns
        -------
        low, high : ndarray, shape (...)
        """
        middle, half = self(x), two_sided_quantile(level, self.samples) * self.stderr(x)
        return middle - half, middle + half

    def cumulative(self, x: Any) -> Host:
        """Return the fraction of eigenvalues up to x; monotone for the Jackson and Fejér kernels.

        Parameters
        ----------
        x : array_like, shape (...)

        Returns
        -------
        ndarray, shape (...) or (R, ...)
        """
        return self._apply(self._cumulative_weights, x)

    def cumulative_stderr(self, x: Any) -> Host:
        """Return the standard error of `cumulative`, over probes.

        Parameters
        ----------
        x : array_like, shape (...)

        Returns
        -------
        ndarray, shape (...)
        """
        return self._error(self._cumulative_weights, x)

    def count(self, low: float, high: float) -> Any:
        """Return the number of eigenvalues in [low, high], edges blurred by the kernel.

        `eigencount` bounds its error.

        Parameters
        ----------
        low, high : float

        Returns
        -------
        float, or ndarray of shape (R,)
            For a local density, the weight between the energies.
        """
        low, high = float(low), float(high)
        if not low <= high:
            msg = f"the interval is [{low}, {high}]; expected low <= high."
            raise ValueError(msg)
        ends = self.cumulative(np.array([low, high]))
        return self.size * (ends[..., 1] - ends[..., 0])

    def integrate(self, f: Callable[[Host], Host]) -> Any:
        """Return the mean of f over the spectrum, ``tr f(A) / n``, without broadening.

        Parameters
        ----------
        f : callable
            Takes and gives NumPy arrays, elementwise; finite and smooth on all of `bounds`. For a
            function with a singularity there (log of a positive matrix, say) use `trace_function`.

        Returns
        -------
        float (complex for complex f), or ndarray of shape (R,)
        """
        moments = self.moments if self.corrected is None else self.corrected.mean(axis=1)
        value = self._integral_weights(f) @ moments
        return value if self.moments.ndim > 1 else value.item()

    def integral_stderr(self, f: Callable[[Host], Host]) -> float:
        """Return the standard error of `integrate`, over probes.

        Parameters
        ----------
        f : callable

        Returns
        -------
        float
        """
        weights = self._integral_weights(f)[None, :]
        if self.corrected is None:
            return float(self._scatter(weights, self.table)[0])
        return float(self._scatter(weights, self.corrected)[0])

    def quantile(self, q: Any) -> Host:
        """Return the energy below which a fraction q of the eigenvalues lies.

        Parameters
        ----------
        q : array_like, shape (...)
            In [0, 1].

        Returns
        -------
        ndarray, shape (...) or (R, ...)
        """
        q = np.asarray(q, dtype=float)
        if not np.all((q >= 0) & (q <= 1)):
            msg = f"q is {q}; expected fractions in [0, 1]."
            raise ValueError(msg)
        x = self.energies(max(2048, 8 * len(self.moments)))
        x = np.concatenate([[self.bounds[0]], x, [self.bounds[1]]])
        rising = np.maximum.accumulate(np.atleast_2d(self.cumulative(x)), axis=-1)
        found = np.stack([np.interp(q, row, x) for row in rising])
        return found if self.moments.ndim > 1 else found[0]

    def resolution(self, x: Any) -> Host:
        """Return the width (standard deviation) of the kernel at x, in units of energy.

        Parameters
        ----------
        x : array_like, shape (...)

        Returns
        -------
        ndarray, shape (...)
        """
        t = np.clip(to_unit(_numbers(x), *self.bounds), -1, 1)
        return self._half * width(self.kernel, len(self.moments), t)

    def energies(self, count: int = 512) -> Host:
        """Return energies inside `bounds`, ascending, denser at the edges as the resolution is.

        Parameters
        ----------
        count : int

        Returns
        -------
        ndarray, shape (count,)
        """
        low, high = self.bounds
        return (low + high) / 2 - self._half * nodes(count)

    def with_kernel(self, kernel: str) -> SpectralDensity:
        """Return the same moments under another kernel, for no product.

        Parameters
        ----------
        kernel : {"jackson", "lorentz", "fejer", "lanczos", "none"}

        Returns
        -------
        SpectralDensity
        """
        damping(kernel, 1)  # says what is wrong with an unknown one
        return replace(self, kernel=kernel)

    def __repr__(self) -> str:
        low, high = self.bounds
        return (
            f"<SpectralDensity: {len(self.moments)} moments on [{low:.6g}, {high:.6g}], n = "
            f"{self.order}, {self.method}, {self.samples} probes, {self.matvecs} products>"
        )

    @property
    def _half(self) -> float:
        return (self.bounds[1] - self.bounds[0]) / 2

    def _apply(self, weights: Callable[[Host], Host], x: Any) -> Host:
        """Return a functional of the moments at each x: weights @ moments."""
        x = _numbers(x)
        values = weights(x.ravel()) @ self.moments
        return np.asarray(np.moveaxis(values, 0, -1).reshape((*values.shape[1:], *x.shape)))

    def _error(self, weights: Callable[[Host], Host], x: Any) -> Host:
        x = _numbers(x)
        return self._scatter(weights(x.ravel()), self.table).reshape(x.shape)

    def _scatter(self, weights: Host, table: Host | None) -> Host:
        """Return the standard error of ``weights @ moments``, shape (rows,)."""
        if table is None:
            return np.zeros(len(weights))
        values = weights @ table
        count = table.shape[1]
        error = np.std(values, axis=1, ddof=1) if count > 1 else np.zeros(len(weights))
        if count < PLUG_IN_BELOW and table is self.table:
            error = np.maximum(error, np.sqrt(2 * self._variance(weights) / (self.order + 2)))
        return np.asarray(error / math.sqrt(count))

    def _variance(self, weights: Host) -> Host:
        """Return, for each functional, the variance of its function under the density itself."""
        order = np.arange(len(self.moments))
        theta = np.pi * (np.arange(4 * len(order)) + 0.5) / (4 * len(order))
        waves = np.cos(order[:, None] * theta)
        twice = np.where(order == 0, 1.0, 2.0) * damping("jackson", len(order)) * self.moments
        mass = (twice @ waves) / len(theta)  # positive, and sums to 1
        values = weights @ waves
        mean = values @ mass
        return np.asarray(np.maximum(np.abs(values) ** 2 @ mass - np.abs(mean) ** 2, 0.0))

    def _density_weights(self, x: Host) -> Host:
        factors = damping(self.kernel, len(self.moments)) / self._half
        return density_weights(len(factors), to_unit(x, *self.bounds)) * factors

    def _cumulative_weights(self, x: Host) -> Host:
        factors = damping(self.kernel, len(self.moments))
        return cumulative_weights(len(factors), to_unit(x, *self.bounds)) * factors

    def _integral_weights(self, f: Callable[[Host], Host]) -> Host:
        def checked(x: Host) -> Host:
            with np.errstate(all="ignore"):
                y = np.array(f(x.copy()))
            if y.shape != x.shape or not np.all(np.isfinite(y)):
                msg = (
                    f"f does not give one finite number for each energy of {self.bounds}, the "
                    "interval of this density with its margin; use trace_function."
                )
                raise ValueError(msg)
            return y

        return expand(checked, *self.bounds, len(self.moments)).coefficients


def _numbers(x: Any) -> Host:
    return np.asarray(to_host(x) if is_array(x) else x, dtype=float)
