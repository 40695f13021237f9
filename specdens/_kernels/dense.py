"""Products with ``E^T J E`` of a dense matrix E, which is read once for all columns.

Rows of E are taken some at a time: as long as they are in the cache, their products with X are
formed, and added back with E^T. J subtracts the mean of each column of E, entry by entry, so that a
large one costs no accuracy. Rows are cut into chunks that depend on the shape only, and the sums of
chunks are added in their order: results do not depend on the number of threads.
"""

from __future__ import annotations

import itertools
from typing import Any, TypeAlias

import numpy as np
from llvmlite import ir
from numba import njit, prange, types
from numba.core import cgutils
from numba.extending import intrinsic

__all__ = ["column_statistics", "gram_product"]

Host: TypeAlias = np.ndarray[Any, Any]

CHUNKS = 32
"""As many threads can be used; each chunk has a sum of its own, of the size of X."""

SUMS = 24
"""Vectors that stay in registers: those of as many rows of E as are taken together."""

REGISTER = 64
"""Bytes of a vector; the compiler takes several registers where they are smaller."""

WIDEST = 4
"""Vectors: of double precision 32 columns."""

LONG = ir.IntType(64)


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
    return signature, _GramRows(together.count, vectors.count, e.dtype).generate


class _GramRows:
    """The code of `gram_rows`."""

    def __init__(self, count: int, vectors: int, entry: Any) -> None:
        self.count, self.vectors, self.size = count, range(vectors), entry.bitwidth // 8
        self.scalar = ir.DoubleType() if self.size == 8 else ir.FloatType()
        self.lanes = REGISTER // self.size
        self.vector = ir.VectorType(self.scalar, self.lanes)

    def generate(self, context: Any, builder: Any, signature: Any, args: Any) -> Any:
        """Emit the code: numba's protocol for intrinsics."""
        arrays = [
            context.make_array(signature.args[a])(context, builder, args[a]) for a in range(4)
        ]
        e, means, x, sums = (array.data for array in arrays)
        columns = builder.extract_value(arrays[0].shape, 1)
        first = builder.mul(args[4], columns)
        rows = [
            builder.gep(e, [builder.add(first, builder.mul(columns, ir.Constant(LONG, r)))])
            for r in range(self.count)
        ]
        places = [[cgutils.alloca_once(builder, self.vector) for _ in self.vectors] for _ in rows]
        for place in itertools.chain(*places):
            builder.store(ir.Constant(self.vector, [0.0] * self.lanes), place)
        with cgutils.for_range(builder, columns) as loop:
            across = [self._load(builder, x, loop.index, v) for v in self.vectors]
            for row, sums_of_row in zip(rows, places, strict=True):
                entry = self._entry(builder, row, means, loop.index)
                for v, place in zip(across, sums_of_row, strict=True):
                    builder.store(self._fma(builder, entry, v, builder.load(place)), place)
        products = [[builder.load(place) for place in sums_of_row] for sums_of_row in places]
        with cgutils.for_range(builder, columns) as loop:
            totals = [self._load(builder, sums, loop.index, v) for v in self.vectors]
            for row, product in zip(rows, products, strict=True):
                entry = self._entry(builder, row, means, loop.index)
                totals = [self._fma(builder, entry, p, t)
                          for p, t in zip(product, totals, strict=True)]  # fmt: skip
            for v, total in zip(self.vectors, totals, strict=True):
                place = self._at(builder, sums, loop.index, v)
                builder.store(total, place).align = self.size
        return context.get_dummy_value()

    def _entry(self, builder: Any, row: Any, means: Any, column: Any) -> Any:
        """Return an entry of C, in each place of a vector."""
        value = builder.load(builder.gep(row, [column]))
        value = builder.fsub(value, builder.load(builder.gep(means, [column])))
        undefined = ir.Constant(self.vector, ir.Undefined)
        first = builder.insert_element(undefined, value, ir.Constant(ir.IntType(32), 0))
        zeros = ir.Constant(ir.VectorType(ir.IntType(32), self.lanes), [0] * self.lanes)
        return builder.shuffle_vector(first, undefined, zeros)

    def _fma(self, builder: Any, a: Any, b: Any, c: Any) -> Any:
        kind = ir.FunctionType(self.vector, [self.vector] * 3)
        name = f"llvm.fma.v{self.lanes}f{8 * self.size}"
        return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), [a, b, c])

    def _at(self, builder: Any, block: Any, row: Any, vector: int) -> Any:
        start = builder.mul(row, ir.Constant(LONG, len(self.vectors) * self.lanes))
        start = builder.add(start, ir.Constant(LONG, vector * self.lanes))
        return builder.bitcast(builder.gep(block, [start]), self.vector.as_pointer())

    def _load(self, builder: Any, block: Any, row: Any, vector: int) -> Any:
        loaded = builder.load(self._at(builder, block, row, vector))
        loaded.align = self.size  # NumPy promises no more
        return loaded
