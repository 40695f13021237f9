"""`DoubleMoments`: response functions as integrals of a double Chebyshev series."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import numpy as np

from specdens.recurrences.chebyshev_series import damping, density_weights, to_unit

__all__ = ["MARGIN", "DoubleMoments"]

Host: TypeAlias = np.ndarray[Any, Any]

MARGIN = 0.01
"""Share of its width by which the interval is widened: kernels need room."""


@dataclass(frozen=True, kw_only=True)
class DoubleMoments:
    r"""Moments ``tr[B T_j C T_k]``, and the response functions that follow from them.

    Attributes
    ----------
    moments : ndarray, shape (N, N)
        On the host; undamped.
    bounds : tuple of float
        The interval that was mapped to [-1, 1].
    order : int
        n, the order of the matrices.
    kernel : str
    samples, matvecs : int
        Probes; products of A, B and C with one vector.
    seed : int or None
        Pass it as ``rng=`` to get the same result again.
    tables : ndarray, shape (R, N, N), or None
        Those of each probe; None if there was nothing random.
    """

    moments: Host
    bounds: tuple[float, float]
    order: int
    kernel: str = "jackson"
    samples: int = 0
    matvecs: int = 0
    seed: int | None = None
    tables: Host | None = field(default=None, repr=False)

    def sum_rule(self) -> complex:
        """Return ``tr[B C]``: the integral of the correlation over both energies."""
        return complex(self.moments[0, 0])

    def correlation(self, x: Any, y: Any = None) -> Host:
        r"""Return :math:`\operatorname{tr}[B\, \delta(x - A)\, C\, \delta(y - A)]`, broadened.

        Parameters
        ----------
        x, y : array_like
            Energies, of shapes that go together; y is x if not given.

        Returns
        -------
        ndarray
            Complex if the moments are. 0 outside of the bounds.
        """
        x = np.asarray(x, dtype=float)
        y = x if y is None else np.asarray(y, dtype=float)
        x, y = np.broadcast_arrays(x, y)
        found = np.sum((self._deltas(x.ravel()) @ self.moments) * self._deltas(y.ravel()), axis=1)
        return np.asarray(found.reshape(x.shape))

    def conductivity(self, chemical: Any, *, temperature: float = 0.0) -> Host:
        r"""Return the static conductivity of Kubo and Greenwood, :math:`\pi \int (-f')\, j(x, x)`.

        Parameters
        ----------
        chemical : array_like
            Chemical potentials.
        temperature : float
            In units of energy.

        Returns
        -------
        ndarray
            The real part: the part that is symmetric in B and C. Divide by the volume.
        """
        chemical = np.asarray(chemical, dtype=float)
        _require_temperature(temperature)
        if temperature == 0:
            return np.asarray(np.pi * np.real(self.correlation(chemical)))
        values = []
        for mu in chemical.ravel():
            # With v = tanh((x - mu) / 2T) the weight -f'(x) dx is dv / 2, however cold it is.
            ends = np.tanh((np.array(self.bounds) - mu) / (2 * temperature))
            v, weights = _panels(list(ends), 4 * len(self.moments))
            x = mu + 2 * temperature * np.arctanh(v)
            values.append(np.pi / 2 * weights @ np.real(self.correlation(x)))
        return np.asarray(values, dtype=float).reshape(chemical.shape)

    def optical(self, omega: Any, chemical: float, *, temperature: float = 0.0) -> Host:
        r"""Return the regular part of the optical conductivity at frequencies above 0.

        :math:`\frac{\pi}{\omega} \int [f(x) - f(x + \omega)]\, j(x, x + \omega)\, dx`

        Parameters
        ----------
        omega : array_like
            Frequencies, positive, in units of energy.
        chemical : float
            The chemical potential.
        temperature : float
            In units of energy.

        Returns
        -------
        ndarray
            The real part. Divide by the volume.

        Raises
        ------
        ValueError
            If a frequency is not positive or the temperature negative.
        """
        omega = np.asarray(omega, dtype=float)
        _require_temperature(temperature)
        if not np.all(omega > 0):
            msg = "omega must be positive; conductivity() gives the limit 0."
            raise ValueError(msg)
        low, high = self.bounds
        values = []
        for w in omega.ravel():
            x, weights = _panels([low, chemical - w, chemical, high - w], 2 * len(self.moments))
            gain = _fermi(x, chemical, temperature) - _fermi(x + w, chemical, temperature)
            values.append(np.pi / w * weights @ (gain * np.real(self.correlation(x, x + w))))
        return np.asarray(values).reshape(omega.shape)

    def hall(self, chemical: Any, *, temperature: float = 0.0) -> Host:
        r"""Return the static conductivity of Kubo and Bastin, which has the Hall part too.

        :math:`i \int f(x) \operatorname{tr}[B\, \delta(x - A)\, C\, \partial_x G^+ -
        B\, \partial_x G^-\, C\, \delta(x - A)]\, dx`

        Parameters
        ----------
        chemical : array_like
            Chemical potentials.
        temperature : float
            In units of energy.

        Returns
        -------
        ndarray
            Real. Divide by the volume; a Chern insulator then has its Chern number over 2 pi.

        References
        ----------
        Bastin et al., J. Phys. Chem. Solids 32, 1811 (1971); García et al. (2015), eqs. 3-5.
        """
        chemical = np.asarray(chemical, dtype=float)
        _require_temperature(temperature)
        low, high = self._inner()
        values = []
        for mu in chemical.ravel():
            x, weights = _panels([low, mu, high], 4 * len(self.moments))
            filled = weights * _fermi(x, mu, temperature)
            seen = filled != 0
            values.append(filled[seen] @ self._bastin(x[seen]))
        return np.asarray(values, dtype=float).reshape(chemical.shape)

    def stderr(self, quantity: Callable[[DoubleMoments], Any]) -> Host:
        """Return the standard error over probes of whatever follows from the moments.

        Parameters
        ----------
        quantity : callable
            For example ``lambda mu: mu.conductivity(0.5)``.

        Returns
        -------
        ndarray
            0 where nothing was left to chance.

        Raises
        ------
        ValueError
            If there was one random probe only.
        """
        if self.tables is None:
            return np.zeros(np.shape(quantity(self)))
        if len(self.tables) < 2:
            msg = "one probe has no scatter; use two at least."
            raise ValueError(msg)
        found = np.array([quantity(replace(self, moments=table)) for table in self.tables])
        return np.asarray(np.std(found, axis=0, ddof=1) / math.sqrt(len(found)))

    def _weights(self) -> Host:
        """Return the damping factors, doubled from the second on."""
        g = damping(self.kernel, len(self.moments))
        return np.where(np.arange(len(g)) == 0, 1, 2) * g

    def _deltas(self, x: Host) -> Host:
        """Return the coefficients of delta(x - A), shape (X, N); 0 outside of the interval."""
        low, high = self.bounds
        factors = damping(self.kernel, len(self.moments)) * (2 / (high - low))
        return density_weights(len(factors), to_unit(x, low, high)) * factors

    def _bastin(self, x: Host) -> Host:
        """Return the integrand of `hall` without f."""
        low, high = self.bounds
        half = (high - low) / 2
        theta = np.arccos(to_unit(x, low, high))[:, None]
        k, sine, t = np.arange(len(self.moments)), np.sin(theta), np.cos(theta)
        table = self.moments * np.outer(self._weights(), self._weights())
        delta = np.cos(k * theta)
        slope = np.exp(-1j * k * theta) * (t + 1j * k * sine)
        total = np.sum((delta @ table) * slope + (slope.conj() @ table) * delta, axis=1)
        return np.asarray(np.real(total) / (np.pi * half**3 * sine[:, 0] ** 4))

    def _inner(self) -> tuple[float, float]:
        """Return the interval before it was widened: the edges of a series are no physics."""
        low, high = self.bounds
        slack = MARGIN * (high - low) / (1 + 2 * MARGIN)
        return low + slack, high - slack


def _require_temperature(temperature: float) -> None:
    if not (math.isfinite(temperature) and temperature >= 0):
        msg = f"temperature is {temperature}; expected a finite number, at least 0."
        raise ValueError(msg)


def _fermi(x: Any, chemical: Any, temperature: float) -> Host:
    """Return the occupation of states at energies x."""
    from scipy.special import expit

    if temperature == 0:
        return np.asarray(np.heaviside(chemical - np.asarray(x), 0.5))
    return np.asarray(expit((chemical - x) / temperature))


def _panels(edges: list[float], points: int) -> tuple[Host, Host]:
    """Return Gauss-Legendre nodes and weights on consecutive intervals; edges out of order fold."""
    low, high = edges[0], edges[-1]
    cuts = np.unique(np.clip(edges, low, max(low, high)))
    x, w = np.polynomial.legendre.leggauss(points)
    half = np.diff(cuts)[:, None] / 2
    nodes = (cuts[:-1] + cuts[1:])[:, None] / 2 + half * x
    return nodes.ravel(), (half * w).ravel()
