r"""Chebyshev series on an interval: ``f(x) = sum_k c_k T_k(t)`` with ``t = (x - c)/h`` in [-1, 1].

Small arrays only: NumPy float64 on the host.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

__all__ = [
    "KERNELS",
    "Series",
    "cumulative_weights",
    "damping",
    "density_weights",
    "expand",
    "log_abs_series",
    "log_series",
    "nodes",
    "to_unit",
    "width",
]

Host: TypeAlias = np.ndarray[Any, Any]

MAX_NODES = 2**16
"""Nodes after which a function that is still not resolved counts as not smooth."""


def to_unit(x: Any, low: float, high: float) -> Host:
    """Map [low, high] to [-1, 1]."""
    return (2 * np.asarray(x) - (low + high)) / (high - low)


def nodes(count: int) -> Host:
    """Return the Chebyshev nodes ``cos(pi (j + 1/2) / count)``, descending."""
    return np.cos(np.pi * (np.arange(count) + 0.5) / count)


@dataclass(frozen=True)
class Series:
    """A truncated Chebyshev expansion of f.

    Attributes
    ----------
    coefficients : ndarray, shape (N,)
    tail : float
        A bound of the sum of the moduli of all later coefficients: what truncation costs at most.
    resolved : bool
        Whether the tail is a bound, and not an extrapolation of coefficients that still decay.
    """

    coefficients: Host
    tail: float
    resolved: bool


def expand(f: Callable[[Host], Host], low: float, high: float, count: int) -> Series:
    """Return the first `count` coefficients of f on [low, high], by interpolation at many nodes."""
    from scipy.fft import dct

    points = 1 << max(6, math.ceil(math.log2(4 * count)))
    while True:
        x = (low + high) / 2 + (high - low) / 2 * nodes(points)
        c = dct(f(x), type=2) / points
        c[0] /= 2
        size = np.abs(c)
        noise = 1e-13 * max(size.max(), np.finfo(float).tiny)
        if size[-points // 4 :].max() <= noise:
            return Series(c[:count], float(size[count:].sum()), resolved=True)
        if points >= MAX_NODES:
            # Coefficients of a function that is not smooth decay like a power of 1/k: beyond the
            # last one their sum is about (number of terms) x (their size).
            beyond = points * size[-points // 4 :].max()
            return Series(c[:count], float(size[count:].sum() + beyond), resolved=False)
        points *= 4


def log_series(low: float, high: float, count: int) -> Series:
    r"""Return the expansion of log on [low, high], 0 < low, in closed form.

    ``c_0 = 2 log((sqrt(a) + sqrt(b))/2)``, ``c_k = 2 (-1)^(k+1) z^k / k`` with
    ``z = (sqrt(b) - sqrt(a)) / (sqrt(b) + sqrt(a))``; the tail is at most
    ``2 z^N / (N (1 - z))``.
    """
    root_low, root_high = math.sqrt(low), math.sqrt(high)
    log_z = math.log1p(-2 * root_low / (root_low + root_high)) if high > low else -math.inf
    k = np.arange(1, count)
    c = np.empty(count)
    c[0] = 2 * math.log((root_low + root_high) / 2)
    c[1:] = 2 * np.where(k % 2 == 1, 1, -1) * np.exp(k * log_z) / k
    one_minus_z = 2 * root_low / (root_low + root_high)
    return Series(c, 2 * math.exp(count * log_z) / (count * one_minus_z), resolved=True)


def log_abs_series(low: float, high: float, count: int) -> Series:
    r"""Return the expansion of ``log|x|`` on [low, high] around 0, in closed form.

    ``log|t - cos(phi)| = -log 2 - 2 sum_k cos(k phi) T_k(t) / k``: it converges only like 1/N away
    from 0, and not at 0, so that no tail bound exists.
    """
    half = (high - low) / 2
    phi = math.acos(min(1.0, max(-1.0, -(low + high) / 2 / half)))
    k = np.arange(1, count)
    c = np.empty(count)
    c[0] = math.log(half / 2)
    c[1:] = -2 * np.cos(k * phi) / k
    return Series(c, math.inf, resolved=False)


def damping(kernel: str, count: int) -> Host:
    """Return the factors ``g_0 = 1 .. g_(count-1)`` by which a kernel damps the moments.

    References
    ----------
    Weiße et al., Rev. Mod. Phys. 78, 275 (2006), section II.C.
    """
    if kernel not in KERNELS:
        msg = f"kernel is {kernel!r}; expected one of {KERNELS}."
        raise ValueError(msg)
    n = np.arange(count)
    if kernel == "jackson":
        q = np.pi / (count + 1)
        g = (count - n + 1) * np.cos(q * n) + np.sin(q * n) / math.tan(q)
        return np.asarray(g / (count + 1))
    if kernel == "lorentz":
        return np.asarray(np.sinh(4 * (1 - n / count)) / np.sinh(4))
    if kernel == "fejer":
        return 1 - n / count
    if kernel == "lanczos":
        return np.asarray(np.sinc(n / count) ** 3)
    return np.ones(count)


KERNELS = ("jackson", "lorentz", "fejer", "lanczos", "none")


def width(kernel: str, count: int, t: Host) -> Host:
    """Return the standard deviation (Lorentz: half width) of a kernel at t, on [-1, 1].

    Jackson's is exact; the others' are those of their own bulk, ``c/N sqrt(1 - t^2)``.
    """
    if kernel == "jackson":
        bulk = (count - t**2 * (count - 1)) / (2 * (count + 1))
        return np.sqrt(bulk * (1 - math.cos(2 * math.pi / (count + 1))))
    scale = {"lorentz": 4.0, "fejer": math.pi, "lanczos": math.pi, "none": math.pi / 2}[kernel]
    return np.asarray(scale / count * np.sqrt(np.maximum(1 - t**2, 1 / count**2)))


def cumulative_weights(count: int, t: Host) -> Host:
    r"""Return the weights with which moments make the integral of a density from -1 to t.

    ``mu_0 (1 - theta/pi) - (2/pi) sum_k mu_k sin(k theta)/k`` with ``theta = arccos t``.

    Parameters
    ----------
    count : int
        N.
    t : ndarray, shape (m,)
        Clipped to [-1, 1].

    Returns
    -------
    ndarray, shape (m, N)
    """
    theta = np.arccos(np.clip(t, -1, 1))[:, None]
    k = np.arange(1, count)
    waves = -2 / np.pi * np.sin(k * theta) / k
    return np.concatenate([1 - theta / np.pi, waves], axis=1)


def density_weights(count: int, t: Host) -> Host:
    r"""Return the weights with which moments make a density on [-1, 1] at t.

    ``[mu_0 + 2 sum_k mu_k cos(k theta)] / (pi sin theta)`` with ``theta = arccos t``. What a kernel
    leaves of distant states at the ends, however little, would be infinite there; so each end has a
    cell, half as wide as Jackson's kernel is there, in which the density is its own mean.

    Parameters
    ----------
    count : int
        N.
    t : ndarray, shape (m,)
        Outside of [-1, 1] the density is 0.

    Returns
    -------
    ndarray, shape (m, N)
    """
    cell = float(width("jackson", count, np.ones(1))[0]) / 2
    inner = np.abs(t) < 1 - cell
    theta = np.arccos(np.where(inner, t, 0.0))
    order = np.arange(count)
    weights = np.cos(theta[:, None] * order) * np.where(order == 0, 1.0, 2.0)
    weights /= np.pi * np.sin(theta)[:, None]
    below, above = cumulative_weights(count, np.array([cell - 1, 1 - cell]))
    weights[(t >= -1) & (t <= cell - 1)] = below / cell
    weights[(t <= 1) & (t >= 1 - cell)] = ((order == 0) - above) / cell
    weights[np.isnan(t)] = np.nan
    weights[np.abs(t) > 1] = 0.0
    return weights
