"""What the entries of a dense square matrix tell, from about one pass over memory.

Tiles on both sides of the diagonal are compared while the rows of one of them are in the cache.
Each row is the work of one thread, so that results do not depend on their number.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numba import njit, prange

__all__ = ["TILE", "entry_statistics"]

Host: TypeAlias = np.ndarray[Any, Any]

TILE = 32
"""Rows and columns: two tiles of double precision fit into the first cache."""

CHUNKS = 32
"""As many threads can be used; rows of tiles are dealt out to them: later ones are shorter."""


def entry_statistics(matrix: Host) -> tuple[Host, Host, float, float]:
    """Return largest moduli and sums of moduli of rows, the sum of squares, and ``max |A - A^T|``.

    Parameters
    ----------
    matrix : ndarray of float32 or float64, shape (n, n)

    Returns
    -------
    largest, sums : ndarray of float64, shape (n,)
        NaN or infinite where an entry of the row is; then the rest means nothing.
    squares, deviation : float
        Squares are added up in double precision, but not protected from overflow.
    """
    n = len(matrix)
    bits = matrix.view(f"i{matrix.itemsize}")
    largest, sums, squares = np.zeros(n, np.int64), np.zeros(n), np.zeros(n)
    deviations = np.zeros((CHUNKS, TILE))
    _all_tiles(matrix, bits, np.iinfo(bits.dtype).max, largest, sums, squares, deviations)
    sizes = largest.astype(bits.dtype).view(matrix.dtype).astype(np.float64)
    return sizes, sums, float(squares.sum()), float(deviations.max(initial=0.0))


@njit(parallel=True, nogil=True, cache=True)
def _all_tiles(matrix, bits, modulus, largest, sums, squares, deviations):  # type: ignore[no-untyped-def]
    n = len(matrix)
    tiles = -(-n // TILE)
    for chunk in prange(CHUNKS):
        here, mirror = np.zeros((TILE, TILE)), np.zeros((TILE, TILE))
        for i in range(chunk, tiles, CHUNKS):
            rows = range(i * TILE, min(n, (i + 1) * TILE))
            for row in rows:
                sums[row], squares[row] = _sums(matrix[row])
                largest[row] = _largest(bits[row], modulus)
            for j in range(i, tiles):
                _copy(matrix, i * TILE, j * TILE, here, mirror)
                _compare(here, mirror, deviations[chunk])


@njit(nogil=True, fastmath={"reassoc", "contract", "nsz"})
def _sums(x):  # type: ignore[no-untyped-def]
    """Return the sums of moduli and squares, in vectors: NaN and infinity keep their meaning."""
    total, squares = 0.0, 0.0
    for k in range(len(x)):
        size = abs(np.float64(x[k]))
        total += size
        squares += size * size
    return total, squares


@njit(nogil=True)
def _largest(bits, modulus):  # type: ignore[no-untyped-def]
    """Return the largest modulus: in bits floating-point numbers are ordered, NaN on top."""
    found = 0
    for k in range(len(bits)):
        found = max(found, bits[k] & modulus)
    return found


@njit(nogil=True)
def _copy(matrix, first, start, here, mirror):  # type: ignore[no-untyped-def]
    """Set tiles to one of the matrix, and to the transpose of that on the other side."""
    rows, columns = min(TILE, len(matrix) - first), min(TILE, len(matrix) - start)
    if rows < TILE or columns < TILE:
        here[:], mirror[:] = 0, 0
    for row in range(rows):
        for column in range(columns):
            here[row, column] = matrix[first + row, start + column]
    for column in range(columns):
        for row in range(rows):
            mirror[row, column] = matrix[start + column, first + row]


@njit(nogil=True)
def _compare(here, mirror, deviations):  # type: ignore[no-untyped-def]
    for row in range(TILE):
        for k in range(TILE):
            size = abs(here[row, k] - mirror[row, k])
            deviations[k] = size if size > deviations[k] else deviations[k]
