"""Which embedding indices to drop: the most sensitive ones, or as many others, as a control.

Sensitive indices tend to be large ones, and dropping any large index does much. So a claim about
sensitivity needs a comparison with indices that are as large without being sensitive.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import Any, TypeAlias

import numpy as np

from send.dropout.sensitivity import most_sensitive

__all__ = ["SELECTIONS", "check_selection", "magnitude_matched", "selected"]

Array: TypeAlias = np.ndarray[Any, Any]

SELECTIONS = ("sensitive", "random", "magnitude-matched", "none")


def check_selection(selection: str, fraction: float) -> None:
    """Raise a ValueError unless there is such a selection, and enough indices to choose from."""
    if selection not in SELECTIONS:
        msg = f"selection is {selection!r}; expected one of {SELECTIONS}."
        raise ValueError(msg)
    if selection == "magnitude-matched" and fraction > 0.5:
        msg = (
            f"drop_fraction is {fraction}, which leaves too few other indices to match; expected "
            "at most 0.5 with selection='magnitude-matched'."
        )
        raise ValueError(msg)


def selected(
    v: Array, fraction: float, *, selection: str, magnitudes: Array, seed: int | list[int]
) -> Array:
    """Return the indices to drop.

    Parameters
    ----------
    v : array, shape (d,)
        Sensitivities.
    fraction : float
        Share of the d indices to return.
    selection : {"sensitive", "random", "magnitude-matched", "none"}
        The largest sensitivities; any indices; others as large as the most sensitive ones: see
        `magnitude_matched`; no index.
    magnitudes : array, shape (d,)
        Mean absolute values of the indices.
    seed : int or list of int
        Of what is random. The same one gives the same indices on every machine.

    Returns
    -------
    ndarray of int64
        In ascending order.

    Raises
    ------
    ValueError
        If an option is not as described.

    Examples
    --------
    >>> v, magnitudes = np.array([3.0, 1.0, 2.0, 3.0, 0.0]), np.array([9.0, 2.0, 7.0, 1.0, 1.0])
    >>> for selection in SELECTIONS:
    ...     print(selected(v, 0.4, selection=selection, magnitudes=magnitudes, seed=0))
    [0 3]
    [3 4]
    [2 4]
    []
    """
    check_selection(selection, fraction)
    sensitive = most_sensitive(v, fraction)
    if selection == "sensitive":
        return sensitive
    if selection == "none":
        return sensitive[:0]
    if selection == "magnitude-matched":
        return magnitude_matched(magnitudes, sensitive, seed=seed)
    drawn = np.random.default_rng(seed).choice(len(v), len(sensitive), replace=False)
    return np.sort(drawn)


def magnitude_matched(magnitudes: Array, chosen: Array, *, seed: int | list[int]) -> Array:
    """Return, for each chosen index, another one that is not chosen and about as large.

    Parameters
    ----------
    magnitudes : array, shape (d,)
        Mean absolute values of the indices.
    chosen : array of int, shape (k,)
        At most d / 2 different indices.
    seed : int or list of int
        Of the order in which they are matched: each takes the nearest one that is left.

    Returns
    -------
    ndarray of int64, shape (k,)
        In ascending order.

    Raises
    ------
    ValueError
        If more indices are chosen than left.

    Notes
    -----
    Where a few indices are far larger than all others and most of these are chosen, as in large
    language models, no match is exact: compare the means. Takes O(k d) time, in moves of memory.

    Examples
    --------
    >>> magnitude_matched(np.array([5.0, 1.0, 4.0, 1.1, 9.0]), np.array([0, 1]), seed=0)
    array([2, 3])
    """
    magnitudes, chosen = np.asarray(magnitudes, np.float64), np.asarray(chosen, np.int64)
    others = np.setdiff1d(np.arange(len(magnitudes)), chosen)
    if len(chosen) > len(others):
        msg = f"{len(chosen)} indices are to be matched by {len(others)} others; expected fewer."
        raise ValueError(msg)
    left = others[np.argsort(magnitudes[others], kind="stable")].tolist()
    sizes = magnitudes[left].tolist()
    matched = []
    for index in np.random.default_rng(seed).permutation(chosen):
        size = float(magnitudes[index])
        at = bisect_left(sizes, size)
        if at == len(sizes) or (at > 0 and size - sizes[at - 1] <= sizes[at] - size):
            at -= 1
        matched.append(left.pop(at))
        sizes.pop(at)
    return np.sort(np.array(matched, np.int64))
