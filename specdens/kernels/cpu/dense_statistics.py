"""What the entries of a dense square matrix tell, from one pass over memory.

Blocks on both sides of the diagonal are looked at together: read by rows first, which brings them
into the cache, then compared by tiles. Pairs of blocks are dealt out to chunks that depend on the
order of the matrix only, and the sums of chunks are added in their order: results do not depend on
the number of threads.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numba import njit, prange

from specdens.kernels.cpu.threads import one_thread_if

__all__ = ["BLOCK", "TILE", "entry_statistics"]

Host: TypeAlias = np.ndarray[Any, Any]

BLOCK = 128
"""Rows and columns: two blocks of double precision fit into the second cache."""

TILE = 32
"""Rows and columns of what is turned over at a time: it fits into the first cache."""

CHUNKS = 16
"""As many threads can be used."""

ALONE = 2**22
"""Entries up to which one thread does not wait for others."""


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
    pairs = np.stack(np.triu_indices(-(-n // BLOCK)), axis=1)
    largest, sums = np.zeros((CHUNKS, n), np.int64), np.zeros((CHUNKS, n))
    squares, deviations = np.zeros(CHUNKS), np.zeros((CHUNKS, TILE))
    modulus = np.iinfo(bits.dtype).max
    with one_thread_if(matrix.size <= ALONE):
        _all_pairs(matrix, bits, modulus, pairs, largest, sums, squares, deviations)
    sizes = largest.max(axis=0).astype(bits.dtype).view(matrix.dtype).astype(np.float64)
    return sizes, sums.sum(axis=0), float(squares.sum()), float(deviations.max())


@njit(parallel=True, nogil=True, cache=True)
def _all_pairs(  # type: ignore[no-untyped-def]
    matrix, bits, modulus, pairs, largest, sums, squares, deviations
):
    n = len(matrix)
    for chunk in prange(CHUNKS):
        mirror = np.zeros((TILE, TILE), matrix.dtype)
        for pair in range(chunk, len(pairs), CHUNKS):
            i, j = pairs[pair] * BLOCK
            for a, b in ((i, j), (j, i)):
                for row in range(a, min(n, a + BLOCK)):
                    total, more = _sums(matrix[row, b : b + BLOCK])
                    most = _largest(bits[row, b : b + BLOCK], modulus)
                    sums[chunk, row] += total
                    squares[chunk] += more
                    largest[chunk, row] = max(largest[chunk, row], most)
                if i == j:
                    break
            for a in range(i, min(n, i + BLOCK), TILE):
                for b in range(j, min(n, j + BLOCK), TILE):
                    _compare(matrix, a, b, mirror, deviations[chunk])


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
    """Return the largest modulus: by their bits floating-point numbers are ordered, NaN on top."""
    found = 0
    for k in range(len(bits)):
        found = max(found, bits[k] & modulus)
    return found


@njit(nogil=True)
def _compare(matrix, i, j, mirror, deviations):  # type: ignore[no-untyped-def]
    """Compare a tile with that on the other side, which is turned over first."""
    rows, columns = min(TILE, len(matrix) - i), min(TILE, len(matrix) - j)
    for column in range(columns):
        for row in range(rows):
            mirror[row, column] = matrix[j + column, i + row]
    for row in range(rows):
        here, there = matrix[i + row, j : j + columns], mirror[row, :columns]
        for k in range(len(here)):
            size = abs(np.float64(here[k]) - np.float64(there[k]))
            deviations[k] = size if size > deviations[k] else deviations[k]
