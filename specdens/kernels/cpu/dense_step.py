"""A step of a recurrence with a dense symmetric matrix, ``y = a A x + b x + c y``.

Some rows of A at a time meet a portion of x that stays in the second cache; their products with it
stay in vector registers. A is read from memory once, for all columns. Sums go over the columns of
A in their order, and those of chunks of rows are added in theirs: results depend neither on the
number of threads nor on the columns beside.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from llvmlite import ir
from numba import njit, prange, types
from numba.core import cgutils
from numba.extending import intrinsic

from specdens.kernels.cpu.llvm_vectors import LONG, REGISTER, Vectors, data_of, shifted
from specdens.kernels.cpu.step_frame import needs_product, stepped
from specdens.kernels.cpu.threads import one_thread_if
from specdens.kernels.cpu.update import finish_rows

__all__ = ["dense_step"]

Host: TypeAlias = np.ndarray[Any, Any]

SUMS, MOST_ROWS = 24, 12
"""Vectors that stay in registers: those of as many rows of A as are taken together."""

CHUNK = 48
"""Rows for one thread at a time: a multiple of those that are taken together."""

PORTION = 2**18
"""Bytes of x that a chunk of rows meets before the next ones."""

ALONE = 2**24
"""Multiplications up to which one thread does not wait for others."""


def dense_step(matrix: Host, x: Host, y: Host, a: Any, b: Any, c: Any) -> tuple[Host, Host]:
    """Set y to ``a A x + b x + c y``; return ``<y, y>`` and ``<y, x>`` by columns.

    Parameters
    ----------
    matrix : ndarray of float32 or float64, shape (n, n), C order
        A.
    x, y : ndarray, shape (n, R), of that type, C order
        R a multiple of 64 bytes, at most four times; y is written.
    a, b, c : float, or ndarray of shape (R,)
        For the number ``a = 0.0`` A is not read.

    Returns
    -------
    ndarray, ndarray, shape (R,)
        float64.
    """
    n, width = x.shape
    vectors = width * x.itemsize // REGISTER
    read = n if needs_product(a) else 0
    together = (0,) * min(MOST_ROWS, SUMS // vectors)
    portion = PORTION // (width * x.itemsize)

    def update(x: Host, y: Host, abc: Host, partial: Host) -> None:
        _all_rows(matrix, read, portion, x, y, abc, partial, together, (0,) * vectors)

    with one_thread_if(read * n * width <= ALONE):
        return stepped(update, CHUNK, x, y, a, b, c)


@njit(parallel=True, nogil=True, cache=True)
def _all_rows(matrix, read, portion, x, y, abc, partial, together, vectors):  # type: ignore[no-untyped-def]
    """Update all rows; the lengths of tuples are known to the compiler."""
    n = len(x)
    for chunk in prange(len(partial)):
        first, stop = chunk * CHUNK, min(n, (chunk + 1) * CHUNK)
        products = np.zeros((CHUNK, x.shape[1]), x.dtype)
        for start in range(0, read, portion):
            end = min(read, start + portion)
            row = first
            while row + len(together) <= stop:
                add_products(matrix, x, products, row, row - first, start, end, together, vectors)
                row += len(together)
            while row < stop:
                add_products(matrix, x, products, row, row - first, start, end, (0,), vectors)
                row += 1
        rows = products[: stop - first]
        finish_rows(rows, x[first:stop], y[first:stop], abc, partial[chunk])


@intrinsic
def add_products(  # type: ignore[no-untyped-def]  # numba passes types, not values
    typingctx, matrix, x, products, row, place, start, end, together, vectors
):
    """Add the products of some rows of A, from `row` on, to those of `products`, from `place` on.

    Parameters
    ----------
    matrix : array, shape (n, n), C order
    x, products : array, C order
    row, place, start, end : int
        Columns of A from `start` up to `end`.
    together, vectors : tuple of int
        Of any numbers, as many as there are rows of A, and vectors in a row of x.
    """
    signature = types.void(matrix, x, products, row, place, start, end, together, vectors)
    bits = x.dtype.bitwidth
    width = vectors.count * 8 * REGISTER // bits
    return signature, _Tile(together.count, Vectors(width, bits)).products


class _Tile:
    """The code for some rows of A, and vectors of a row of x."""

    def __init__(self, count: int, vectors: Vectors) -> None:
        self.count, self.vectors = count, vectors

    def products(self, context: Any, builder: Any, signature: Any, args: Any) -> Any:
        """Emit the code: numba's protocol for intrinsics."""
        v, (row, place, start, end) = self.vectors, args[3:7]
        matrix = context.make_array(signature.args[0])(context, builder, args[0])
        x, products = data_of(context, builder, signature, args, 1, 2)
        n = builder.extract_value(matrix.shape, 1)
        of_rows, into = [], []
        for r in range(self.count):
            first = builder.mul(shifted(builder, row, r), n)
            of_rows.append(builder.gep(matrix.data, [first]))
            into.append(shifted(builder, place, r))
        sums = [v.keep(builder, v.load(builder, products, one)) for one in into]
        with cgutils.for_range_slice(builder, start, end, ir.Constant(LONG, 1)) as (k, _):
            across = v.load(builder, x, k)
            for of_row, places in zip(of_rows, sums, strict=True):
                entry = v.splat(builder, builder.load(builder.gep(of_row, [k])))
                total = v.fma(builder, entry, across, v.read(builder, places))
                v.update(builder, places, total)
        for one, places in zip(into, sums, strict=True):
            v.store(builder, products, one, v.read(builder, places))
        return context.get_dummy_value()
