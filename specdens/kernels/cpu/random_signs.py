"""Random signs by counter: Philox4x32-10 as in `specdens.arrays.probes`, to the same bits."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numba import njit, prange

__all__ = ["fill_signs"]

Host: TypeAlias = np.ndarray[Any, Any]

ROWS = 128
"""Whose signs come from the four words of one counter."""

M0, M1 = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
W0, W1 = np.uint64(0x9E3779B9), np.uint64(0xBB67AE85)
WORD, HALF = np.uint64(0xFFFFFFFF), np.uint64(32)


def fill_signs(out: Host, first: int, key: int, stream: int) -> None:
    """Fill an array (n, R) of float32 or float64, of any strides, with the signs of R probes.

    Parameters
    ----------
    out : ndarray
    first : int
        The number of the first probe.
    key, stream : int
        As for `specdens.arrays.probes.signs`.
    """
    _fill(out, np.uint64(first), np.uint64(key), np.uint64(stream))


@njit(parallel=True, nogil=True, cache=True)
def _fill(out, first, key, stream):  # type: ignore[no-untyped-def]  # numba has no types
    n, columns = out.shape
    for block in prange(-(-n // ROWS)):
        words = np.empty((4, columns), np.uint64)
        for column in range(columns):
            c0, c1 = np.uint64(block) & WORD, np.uint64(block) >> HALF
            c2, c3 = (first + np.uint64(column)) & WORD, stream
            k0, k1 = key & WORD, key >> HALF
            for _ in range(10):
                p0, p1 = c0 * M0, c2 * M1
                c0, c1 = (p1 >> HALF) ^ c1 ^ k0, p1 & WORD
                c2, c3 = (p0 >> HALF) ^ c3 ^ k1, p0 & WORD
                k0, k1 = (k0 + W0) & WORD, (k1 + W1) & WORD
            words[0, column], words[1, column] = c0, c1
            words[2, column], words[3, column] = c2, c3
        for row in range(block * ROWS, min(n, (block + 1) * ROWS)):
            place = row - block * ROWS
            for column in range(columns):
                bit = (words[place >> 5, column] >> np.uint64(place & 31)) & np.uint64(1)
                out[row, column] = 1 - 2 * np.int64(bit)
