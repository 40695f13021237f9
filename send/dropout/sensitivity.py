"""Sensitivity of embedding indices: ``V_i = Var(e_i) * sum_t |e_i^t - e_i^(t-1)|`` over a window.

An index whose value keeps moving while the model trains is sensitive; SenD drops the most sensitive
ones for a while. Plain NumPy: what an embedding is, and what dropping means, is decided elsewhere.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from numbers import Integral
from typing import Any, TypeAlias

import numpy as np

__all__ = ["SensitivityTracker", "most_sensitive", "net_change", "variability"]

Array: TypeAlias = np.ndarray[Any, Any]

AGGREGATES = ("per-input", "mean-first")


def net_change(previous: Array, current: Array) -> Array:
    """Return how far each embedding moved between two checkpoints, ``|e^t - e^(t-1)|``.

    Parameters
    ----------
    previous, current : ndarray, shape (..., d)
        Embeddings of the same inputs.

    Returns
    -------
    ndarray, shape (..., d)
        float64.

    Raises
    ------
    ValueError
        If the shapes differ.

    References
    ----------
    SenD (arXiv:2410.15460), Definition 3.2.

    Examples
    --------
    >>> net_change(np.array([[1.0, 2.0]]), np.array([[1.5, -1.0]]))
    array([[0.5, 3. ]])
    """
    previous, current = np.asarray(previous, np.float64), np.asarray(current, np.float64)
    if previous.shape != current.shape:
        msg = (
            f"the embeddings have shapes {previous.shape} and {current.shape}; "
            "expected the same inputs and dimension at both checkpoints."
        )
        raise ValueError(msg)
    return np.asarray(np.abs(current - previous))


def variability(
    window: Array, *, before: Array | None = None, aggregate: str = "per-input"
) -> Array:
    r"""Return the sensitivity of each embedding index over a window of C checkpoints.

    :math:`V_i = \mathrm{Var}(e_i) \sum_{t=T-C+1}^{T} |e_i^t - e_i^{t-1}|`: the variance over the C
    checkpoints times the length of the path that the value has gone.

    Parameters
    ----------
    window : array, shape (C, inputs, d)
        Embeddings at the last C checkpoints, oldest first, C at least 2.
    before : array, shape (inputs, d), optional
        The checkpoint before the window, from which the first step of the sum starts. Without it
        (no such checkpoint exists yet) the path has the C - 1 steps inside the window.
    aggregate : {"per-input", "mean-first"}
        How several inputs become one number, which the paper leaves open: the mean over the inputs
        of their V, or V of the mean over the inputs, where opposite changes cancel each other.

    Returns
    -------
    ndarray, shape (d,)
        float64, at least 0. The variance is that of the population (division by C).

    Raises
    ------
    ValueError
        If a shape or the option is not as described, or an embedding is not finite.

    Notes
    -----
    Costs O(C * inputs * d) and a few arrays of one checkpoint's size in float64.

    References
    ----------
    SenD (arXiv:2410.15460), Definition 3.3.

    Examples
    --------
    The second index oscillates, the first one does not; each input moves the third by the same
    amount, but in opposite directions:

    >>> window = np.array([[[1, 0, 0], [2, 0, 0]], [[1, 1, 1], [2, 1, -1]], [[1, 0, 0], [2, 0, 0]]])
    >>> variability(window).round(3)
    array([0.   , 0.444, 0.444])
    >>> variability(window, aggregate="mean-first").round(3)
    array([0.   , 0.444, 0.   ])
    """
    _check_aggregate(aggregate)
    window = _finite(window, ("C", "inputs", "d"))
    if len(window) < 2:
        msg = f"the window has {len(window)} checkpoint; expected at least 2."
        raise ValueError(msg)
    steps = window
    if before is not None:
        steps = np.concatenate([_finite(before, window.shape[1:])[np.newaxis], window])
    if aggregate == "mean-first":
        window, steps = window.mean(axis=1, keepdims=True), steps.mean(axis=1, keepdims=True)
    path = sum(map(net_change, steps, steps[1:]), start=np.zeros_like(window[0]))
    return np.asarray((window.var(axis=0) * path).mean(axis=0))


def _check_aggregate(aggregate: str) -> None:
    if aggregate not in AGGREGATES:
        msg = f"aggregate is {aggregate!r}; expected one of {AGGREGATES}."
        raise ValueError(msg)


def _finite(embeddings: Array, shape: tuple[int | str, ...]) -> Array:
    """Return embeddings in float64 if they have this shape, in which a name stands for any size."""
    e = np.asarray(embeddings, np.float64)
    fits = e.ndim == len(shape) and all(
        size == expected or isinstance(expected, str)
        for size, expected in zip(e.shape, shape, strict=True)
    )
    if not fits or 0 in e.shape:
        expected = ", ".join(map(str, shape))
        msg = f"the embeddings have shape {e.shape}; expected ({expected}), not empty."
        raise ValueError(msg)
    if not np.isfinite(e).all():
        msg = (
            "an embedding contains NaN or infinity; expected finite numbers: has training diverged?"
        )
        raise ValueError(msg)
    return e


def most_sensitive(v: Array, fraction: float) -> Array:
    """Return the indices with the largest sensitivities.

    Parameters
    ----------
    v : array, shape (d,)
        Sensitivities, as from `variability`.
    fraction : float
        Share of the d indices to return, 0 <= fraction < 1.

    Returns
    -------
    ndarray of int64, shape (round(fraction * d),)
        In ascending order. Of equal sensitivities the lower index comes first, so that every
        machine selects the same.

    Raises
    ------
    ValueError
        If v is not a vector of numbers, or the fraction is out of range.

    Examples
    --------
    >>> most_sensitive(np.array([3.0, 1.0, 2.0, 3.0, 0.0]), 0.4)
    array([0, 3])
    """
    v = np.asarray(v, np.float64)
    if v.ndim != 1 or np.isnan(v).any():
        msg = f"the sensitivities have shape {v.shape}; expected a vector (d,) of numbers."
        raise ValueError(msg)
    check_fraction(fraction)
    descending = np.argsort(-v, kind="stable")
    return np.sort(descending[: round(fraction * v.size)]).astype(np.int64)


def check_fraction(fraction: float) -> None:
    """Raise a ValueError unless a share of indices can be dropped."""
    if not 0 <= fraction < 1:
        msg = f"the fraction to drop is {fraction}; expected 0 <= fraction < 1, such as 0.2."
        raise ValueError(msg)


def check_count(name: str, value: Any, low: int) -> None:
    """Raise a TypeError or a ValueError unless a count is an integer and large enough."""
    if not isinstance(value, Integral):
        msg = f"{name} is {value!r}; expected an integer."
        raise TypeError(msg)
    if value < low:
        msg = f"{name} is {value}; expected at least {low}."
        raise ValueError(msg)


class SensitivityTracker:
    """Embeddings of the same inputs at the last C checkpoints, and the sensitivities they give.

    Parameters
    ----------
    window : int
        C, at least 2 checkpoints; the paper has 3. One more is kept, because Definition 3.3 sums
        the change into the first checkpoint of the window too; only the first window of a training
        has none before it.
    aggregate : {"per-input", "mean-first"}
        As for `variability`.

    Raises
    ------
    ValueError
        If an option is not as described.
    TypeError
        If the window is not an integer.

    References
    ----------
    SenD (arXiv:2410.15460), Definition 3.3.

    Examples
    --------
    >>> tracker = SensitivityTracker(window=3)
    >>> for t in range(4):
    ...     tracker.update(np.array([[0.0, (-1.0) ** t, 0.1 * t]]))
    >>> tracker.ready, tracker.select(0.34).tolist()
    (True, [1])
    """

    def __init__(self, window: int = 3, *, aggregate: str = "per-input") -> None:
        check_count("window", window, 2)
        _check_aggregate(aggregate)
        self.window = window
        self.aggregate = aggregate
        self._kept: deque[Array] = deque(maxlen=window + 1)

    def update(self, embeddings: Array) -> None:
        """Add a checkpoint; the oldest one is forgotten.

        Parameters
        ----------
        embeddings : array, shape (inputs, d)
            Kept in float32. NumPy's, or Torch's in any precision and on any device.

        Raises
        ------
        ValueError
            If the shape is not that of the checkpoints before, or a value is not finite, or too
            large for float32.
        """
        expected = self._kept[-1].shape if self._kept else ("inputs", "d")
        if hasattr(embeddings, "detach"):  # NumPy has no bfloat16
            embeddings = embeddings.detach().cpu().double()
        e = _finite(embeddings, expected)
        if np.abs(e).max() > np.finfo(np.float32).max:
            msg = f"an embedding is {np.abs(e).max():.3g}; expected numbers that fit in float32."
            raise ValueError(msg)
        self._kept.append(e.astype(np.float32))

    @property
    def ready(self) -> bool:
        """Whether there are C checkpoints."""
        return len(self._kept) >= self.window

    @property
    def checkpoints(self) -> Array:
        """What is kept, oldest first, shape (at most C + 1, inputs, d), float32: see `restore`."""
        return np.stack(self._kept) if self._kept else np.empty((0, 0, 0), np.float32)

    def restore(self, checkpoints: Iterable[Array]) -> None:
        """Keep these checkpoints, which a tracker's `checkpoints` gave, and forget all others."""
        self._kept.clear()
        for embeddings in checkpoints:
            self.update(embeddings)

    def net_change(self) -> Array:
        """Return the last change of each embedding.

        Returns
        -------
        ndarray, shape (inputs, d)

        Raises
        ------
        ValueError
            If there are fewer than 2 checkpoints.
        """
        if len(self._kept) < 2:
            msg = (
                f"a net change needs 2 checkpoints; there are {len(self._kept)}. Call update first."
            )
            raise ValueError(msg)
        return net_change(self._kept[-2], self._kept[-1])

    def variability(self) -> Array:
        """Return the sensitivity of each index over the last C checkpoints.

        Returns
        -------
        ndarray, shape (d,)

        Raises
        ------
        ValueError
            If there are fewer than C checkpoints.
        """
        if not self.ready:
            msg = (
                f"a window of {self.window} checkpoints is needed; there are {len(self._kept)}. "
                "Call update first."
            )
            raise ValueError(msg)
        before, window = np.split(self.checkpoints, [-self.window])
        return variability(
            window, before=before[0] if len(before) else None, aggregate=self.aggregate
        )

    def select(self, fraction: float) -> Array:
        """Return the indices to drop: `most_sensitive` of `variability`."""
        return most_sensitive(self.variability(), fraction)
