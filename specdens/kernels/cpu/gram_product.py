"""Products with ``E^T J E`` of a dense matrix E, which is read once for all columns.

Rows of E are taken some at a time: as long as they are in the cache, their products with X are
formed, and added back with E^T. J subtracts the mean of each column of E, entry by entry, so that a
large one costs no accuracy. Rows are cut into chunks that depend on the shape only, and the sums of
chunks are added in their order: results do not depend on the number of threads.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numba import njit, prange, types
from numba.core import cgutils
from numba.extending import intrinsic

from specdens.kernels.cpu.llvm_vectors import REGISTER, Row, Vectors, data_of, shifted

__all__ = ["column_statistics", "gram_product"]

Host: TypeAlias = np.ndarray[Any, Any]

CHUNKS = 32
"""As many threads can be used; each chunk has a sum of its own, of the size of X."""

SUMS = 24
"""Vectors that stay in registers: those of as many rows of E as are taken together."""

WIDEST = 4
"""Vectors: of double precision 32 columns."""


def gram_product(e: Host, means: Host, x: Host) -> Host:
    """Return ``C^T (C X)`` for ``C = E - 1 means^T``.

    Parameters
    ----------
    e : ndarray of float32 or float64, shape (d, K), C order
    means : ndarray, shape (K,), of that type
    x : ndarray, shape (K, R), of that type

    Returns
    -------
    ndarray, shape (K, R)
    """
    lanes = REGISTER // e.itemsize
    found = np.empty_like(x, order="C")
    for start in range(0, x.shape[1], WIDEST * lanes):
        columns = x[:, start : start + WIDEST * lanes]
        width = -(-columns.shape[1] // lanes) * lanes
        padded = np.zeros((len(x), width), x.dtype)
        padded[:, : columns.shape[1]] = columns
        vectors = width // lanes
        together = (0,) * min(12, SUMS // vectors)
        sums = np.zeros((min(CHUNKS, -(-len(e) // len(together))), *padded.shape), x.dtype)
        _all_rows(e, means, padded, sums, together, (0,) * vectors)
        found[:, start : start + width] = sums.sum(axis=0)[:, : columns.shape[1]]
    return found


def column_statistics(e: Host, center: bool) -> tuple[Host, float]:
    """Return the mean of each column, and the sum of squares of what all entries differ by from it.

    Parameters
    ----------
    e : ndarray of float32 or float64, shape (d, K), C order
    center : bool
        Else zeros serve as means.

    Returns
    -------
    ndarray of float64, shape (K,)
    float
    """
    sums = np.zeros((min(CHUNKS, len(e)), e.shape[1]))
    if center:
        _sums(e, sums)
    means = sums.sum(axis=0) / len(e)
    squares = np.zeros(len(sums))
    _squares(e, means, squares)
    return means, float(squares.sum())


@njit(parallel=True, nogil=True, cache=True)
def _all_rows(e, means, x, sums, together, vectors):  # type: ignore[no-untyped-def]
    """Add the products of all rows; the lengths of tuples are known to the compiler."""
    d, chunks = len(e), len(sums)
    blocks = -(-d // len(together))
    for chunk in prange(chunks):
        stop = min(d, (chunk + 1) * blocks // chunks * len(together))
        row = chunk * blocks // chunks * len(together)
        while row + len(together) <= stop:
            gram_rows(e, means, x, sums[chunk], row, together, vectors)
            row += len(together)
        while row < stop:
            gram_rows(e, means, x, sums[chunk], row, (0,), vectors)
            row += 1


@njit(parallel=True, nogil=True, cache=True)
def _sums(e, sums):  # type: ignore[no-untyped-def]
    for chunk in prange(len(sums)):
        for row in range(chunk * len(e) // len(sums), (chunk + 1) * len(e) // len(sums)):
            for column in range(e.shape[1]):
                sums[chunk, column] += e[row, column]


@njit(parallel=True, nogil=True, cache=True)
def _squares(e, means, squares):  # type: ignore[no-untyped-def]
    for chunk in prange(len(squares)):
        for row in range(chunk * len(e) // len(squares), (chunk + 1) * len(e) // len(squares)):
            squares[chunk] += _square(e[row], means)


@njit(nogil=True, fastmath={"reassoc", "contract", "nsz"}, cache=True)
def _square(x, means):  # type: ignore[no-untyped-def]
    total = 0.0
    for i in range(len(x)):
        total += (x[i] - means[i]) ** 2
    return total


@intrinsic
def gram_rows(  # type: ignore[no-untyped-def]  # numba passes types, not values
    typingctx, e, means, x, sums, row, together, vectors
):
    """Add ``C^T (C X)`` of the rows from `row` on to `sums`.

    Parameters
    ----------
    e : array, shape (d, K), C order
    means : array, shape (K,)
    x, sums : array, shape (K, columns), C order
    row : int
    together, vectors : tuple of int
        Of any numbers, as many as there are rows of E, and vectors in a row of x.
    """
    signature = types.void(e, means, x, sums, row, together, vectors)
    bits = e.dtype.bitwidth
    width = vectors.count * 8 * REGISTER // bits
    return signature, _GramRows(together.count, Vectors(width, bits)).generate


class _GramRows:
    """The code of `gram_rows`."""

    def __init__(self, count: int, vectors: Vectors) -> None:
        self.count, self.vectors = count, vectors

    def generate(self, context: Any, builder: Any, signature: Any, args: Any) -> Any:
        """Emit the code: numba's protocol for intrinsics."""
        v = self.vectors
        shape = context.make_array(signature.args[0])(context, builder, args[0]).shape
        e, means, x, sums = data_of(context, builder, signature, args, 0, 1, 2, 3)
        columns = builder.extract_value(shape, 1)
        rows = [
            builder.gep(e, [builder.mul(shifted(builder, args[4], r), columns)])
            for r in range(self.count)
        ]
        kept = [v.keep(builder, v.zeros()) for _ in rows]
        with cgutils.for_range(builder, columns) as loop:
            across = v.load(builder, x, loop.index)
            for row, places in zip(rows, kept, strict=True):
                entry = self._entry(builder, row, means, loop.index)
                total = v.fma(builder, entry, across, v.read(builder, places))
                v.update(builder, places, total)
        products = [v.read(builder, places) for places in kept]
        with cgutils.for_range(builder, columns) as loop:
            total = v.load(builder, sums, loop.index)
            for row, product in zip(rows, products, strict=True):
                entry = self._entry(builder, row, means, loop.index)
                total = v.fma(builder, entry, product, total)
            v.store(builder, sums, loop.index, total)
        return context.get_dummy_value()

    def _entry(self, builder: Any, row: Any, means: Any, column: Any) -> Row:
        """Return an entry of C, in each column of a row of x."""
        value = builder.load(builder.gep(row, [column]))
        value = builder.fsub(value, builder.load(builder.gep(means, [column])))
        return self.vectors.splat(builder, value)
