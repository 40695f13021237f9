"""``log det(s E^T J E + alpha I)`` of many matrices E of few columns, each read from memory once.

A matrix is centred by portions that stay in the first cache, in double precision; its Gram matrix
is summed in vector registers, and factored at once. Each matrix is the work of one thread, so that
results do not depend on their number.
"""

from __future__ import annotations

import itertools
import math
from typing import Any, TypeAlias

import numpy as np
from llvmlite import ir
from numba import njit, prange, types
from numba.core import cgutils
from numba.extending import intrinsic

__all__ = ["gram_logdets"]

Host: TypeAlias = np.ndarray[Any, Any]

LARGEST = 1e140
"""Of means, and of the root of the trace: beyond, products may overflow."""

PORTION = 2048
"""Numbers of a matrix that are centred at a time: as doubles 16 KiB."""

LONG, LANES = ir.IntType(64), 8
VECTOR = ir.VectorType(ir.DoubleType(), LANES)

SUMS = {"reassoc", "contract", "nsz"}
"""A sum may be taken in vectors: NaN and infinity keep their meaning."""


def gram_logdets(e: Host, center: bool, factor: float, alpha: float, limit: float) -> Host:
    """Return ``log det(factor E^T J E + alpha I)`` of each matrix E of a stack.

    Parameters
    ----------
    e : ndarray of float32 or float64, shape (B, d, K)
        In C order, or with the last two axes exchanged; else it is copied. K is a few tens.
    center : bool
        Whether J subtracts the mean over d; else it is the identity.
    factor, alpha : float
    limit : float
        The largest trace of ``E^T J E`` that a Cholesky factor is good for.

    Returns
    -------
    ndarray of float64, shape (B,)
        NaN where the trace is beyond the limit, or a number is not finite or too large.
    """
    found = np.empty(e.shape[0])
    turned = e.swapaxes(1, 2)
    if turned.flags.c_contiguous and not e.flags.c_contiguous:
        _by_columns(turned, center, factor, alpha, limit, found)
    else:
        flat = np.ascontiguousarray(e).reshape(len(e), e.shape[1] * e.shape[2])
        _by_rows(flat, e.shape[2], center, factor, alpha, limit, found)
    return found


@njit(parallel=True, nogil=True, cache=True)
def _by_rows(e, k, center, factor, alpha, limit, found):  # type: ignore[no-untyped-def]
    """Do it for matrices whose rows lie one after the other, shape (B, d k)."""
    rows = max(4, PORTION // k // 4 * 4)
    for b in prange(len(e)):
        gram = np.zeros((-(-k // LANES) * LANES, -(-k // LANES) * LANES))
        means, pattern = np.zeros(k), np.zeros(rows * k)
        if center:
            for start in range(0, e.shape[1], rows * k):
                _add(pattern, e[b, start : start + rows * k])
            _fold(pattern, means, e.shape[1] // k)
        portion = np.zeros(rows * k + LANES)  # the last vector reaches beyond the last row
        for start in range(0, e.shape[1], rows * k):
            part = e[b, start : start + rows * k]
            _subtract(part, pattern, portion)
            portion[len(part) :] = 0.0
            _add_outer_products(portion, -(-len(part) // (4 * k)) * 4, k, gram)
        found[b] = _logdet(gram, means, factor, alpha, min(limit, LARGEST**2))


@njit(parallel=True, nogil=True, cache=True)
def _by_columns(e, center, factor, alpha, limit, found):  # type: ignore[no-untyped-def]
    """Do it for matrices whose columns lie one after the other, shape (B, k, d)."""
    _, k, d = e.shape
    padded = -(-k // 4) * 4
    rows = max(LANES, PORTION // padded // LANES * LANES)
    for b in prange(len(e)):
        gram, means, portion = np.zeros((padded, padded)), np.zeros(k), np.zeros((padded, rows))
        if center:
            for i in range(k):
                means[i] = _sum(e[b, i]) / d
        for start in range(0, d, rows):
            count = min(rows, d - start)
            for i in range(k):
                _subtract_number(e[b, i, start : start + count], means[i], portion[i])
            for i in range(0, k, 4):
                for j in range(0, i + 1, 4):
                    _add_inner_products(portion, count, i, j, gram)
        found[b] = _logdet(gram, means, factor, alpha, min(limit, LARGEST**2))


@njit(nogil=True, cache=True)
def _logdet(gram, means, factor, alpha, limit):  # type: ignore[no-untyped-def]
    """Return the log-determinant by Cholesky, in place of the lower triangle; NaN if in doubt."""
    k, trace = len(means), 0.0
    for i in range(k):
        trace += gram[i, i]
    if not trace <= limit:
        return math.nan
    logdet = 0.0
    for j in range(k):
        if not abs(means[j]) <= LARGEST:
            return math.nan
        for i in range(j, k):
            rest = factor * gram[i, j] + (alpha if i == j else 0.0)
            for t in range(j):
                rest -= gram[i, t] * gram[j, t]
            if i > j:
                gram[i, j] = rest / gram[j, j]
            elif rest > 0:
                gram[j, j] = math.sqrt(rest)
                logdet += math.log(rest)
            else:
                return math.nan
    return logdet


@njit(nogil=True, fastmath=SUMS, cache=True)
def _sum(x):  # type: ignore[no-untyped-def]
    total = 0.0
    for i in range(len(x)):
        total += np.float64(x[i])
    return total


@njit(nogil=True, fastmath=SUMS, cache=True)
def _add(total, x):  # type: ignore[no-untyped-def]
    for i in range(len(x)):
        total[i] += x[i]


@njit(nogil=True, fastmath=SUMS, cache=True)
def _fold(pattern, means, d):  # type: ignore[no-untyped-def]
    """Sum a portion over its rows, divide by d, and repeat the means in each row."""
    k = len(means)
    for start in range(0, len(pattern), k):
        for j in range(k):
            means[j] += pattern[start + j]
    for j in range(k):
        means[j] /= d
    for start in range(0, len(pattern), k):
        for j in range(k):
            pattern[start + j] = means[j]


@njit(nogil=True, fastmath=SUMS, cache=True)
def _subtract(x, pattern, out):  # type: ignore[no-untyped-def]
    for i in range(len(x)):
        out[i] = x[i] - pattern[i]


@njit(nogil=True, fastmath=SUMS, cache=True)
def _subtract_number(x, number, out):  # type: ignore[no-untyped-def]
    for i in range(len(x)):
        out[i] = x[i] - number


@njit(nogil=True, fastmath=SUMS, cache=True)
def _add_inner_products(x, count, i, j, gram):  # type: ignore[no-untyped-def]
    """Add the products of rows i to i + 3 of x with rows j to j + 3: sixteen sums in registers."""
    s00 = s01 = s02 = s03 = s10 = s11 = s12 = s13 = 0.0
    s20 = s21 = s22 = s23 = s30 = s31 = s32 = s33 = 0.0
    for t in range(count):
        p0, p1, p2, p3 = x[i, t], x[i + 1, t], x[i + 2, t], x[i + 3, t]
        q0, q1, q2, q3 = x[j, t], x[j + 1, t], x[j + 2, t], x[j + 3, t]
        s00, s01, s02, s03 = s00 + p0 * q0, s01 + p0 * q1, s02 + p0 * q2, s03 + p0 * q3
        s10, s11, s12, s13 = s10 + p1 * q0, s11 + p1 * q1, s12 + p1 * q2, s13 + p1 * q3
        s20, s21, s22, s23 = s20 + p2 * q0, s21 + p2 * q1, s22 + p2 * q2, s23 + p2 * q3
        s30, s31, s32, s33 = s30 + p3 * q0, s31 + p3 * q1, s32 + p3 * q2, s33 + p3 * q3
    sums = (
        (s00, s01, s02, s03), (s10, s11, s12, s13), (s20, s21, s22, s23), (s30, s31, s32, s33),
    )  # fmt: skip
    for u in range(4):
        for v in range(4):
            gram[i + u, j + v] += sums[u][v]


@njit(nogil=True, cache=True)
def _add_outer_products(x, rows, k, gram):  # type: ignore[no-untyped-def]
    """Add the Gram matrix of x, rows of k numbers in a flat array: its lower triangle.

    Where k is no multiple of the vector, entries beyond column k are those of the next row, and
    their sums, beside the triangle, mean nothing.
    """
    for i in range(0, k, LANES):
        for j in range(i, k, LANES):
            if k - j > 4:
                outer_products(x, rows, k, i, j, gram, LANES)
            elif k - j > 2:
                outer_products(x, rows, k, i, j, gram, 4)
            else:
                outer_products(x, rows, k, i, j, gram, 2)


@intrinsic
def outer_products(  # type: ignore[no-untyped-def]  # numba passes types, not values
    typingctx, x, rows, k, i, j, gram, count
):
    """Add ``sum_r x[r, j + c] x[r, i : i + 8]`` to ``gram[j + c, i : i + 8]``, c below `count`.

    Parameters
    ----------
    x : array of float64, flat, rows of k numbers, and 7 more at the end
    rows, k : int
        `rows` is a multiple of 4.
    i, j : int
    gram : array of float64, C order, its width a multiple of 8
    count : int literal
        2, 4 or 8: with fewer, more rows are taken at a time, so that there are eight sums.
    """
    signature = types.void(x, rows, k, i, j, gram, count)
    if not isinstance(count, types.IntegerLiteral):
        return None
    return signature, _OuterProducts(count.literal_value).generate


class _OuterProducts:
    """The code of `outer_products`."""

    def __init__(self, count: int) -> None:
        self.count = count

    def generate(self, context: Any, builder: Any, signature: Any, args: Any) -> Any:
        """Emit the code: numba's protocol for intrinsics."""
        arrays = [context.make_array(signature.args[a])(context, builder, args[a]) for a in (0, 5)]
        x, gram = (array.data for array in arrays)
        width = builder.extract_value(arrays[1].shape, 1)
        _, rows, k, i, j, _, _ = args
        sums = [
            [cgutils.alloca_once(builder, VECTOR) for _ in range(self.count)]
            for _ in range(LANES // self.count)
        ]
        for place in itertools.chain(*sums):
            builder.store(ir.Constant(VECTOR, [0.0] * LANES), place)
        step = ir.Constant(LONG, len(sums))
        with cgutils.for_range_slice(builder, ir.Constant(LONG, 0), rows, step) as (row, _):
            for u, places in enumerate(sums):
                start = builder.mul(builder.add(row, ir.Constant(LONG, u)), k)
                across = self._load(builder, x, builder.add(start, i))
                down = builder.gep(x, [builder.add(start, j)])
                for c, place in enumerate(places):
                    entry = builder.load(builder.gep(down, [ir.Constant(LONG, c)]))
                    self._add_product(builder, place, entry, across)
        for c in range(self.count):
            total = builder.load(sums[0][c])
            for places in sums[1:]:
                total = builder.fadd(total, builder.load(places[c]))
            row = builder.mul(builder.add(j, ir.Constant(LONG, c)), width)
            offset = builder.add(row, i)
            total = builder.fadd(self._load(builder, gram, offset), total)
            builder.store(total, self._at(builder, gram, offset)).align = 8
        return context.get_dummy_value()

    def _add_product(self, builder: Any, place: Any, entry: Any, vector: Any) -> None:
        """Add a number times a vector to the sum at a place."""
        undefined = ir.Constant(VECTOR, ir.Undefined)
        first = builder.insert_element(undefined, entry, ir.Constant(ir.IntType(32), 0))
        zeros = ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES)
        spread = builder.shuffle_vector(first, undefined, zeros)
        kind = ir.FunctionType(VECTOR, [VECTOR] * 3)
        fma = cgutils.get_or_insert_function(builder.module, kind, f"llvm.fma.v{LANES}f64")
        builder.store(builder.call(fma, [spread, vector, builder.load(place)]), place)

    def _at(self, builder: Any, base: Any, offset: Any) -> Any:
        return builder.bitcast(builder.gep(base, [offset]), VECTOR.as_pointer())

    def _load(self, builder: Any, base: Any, offset: Any) -> Any:
        loaded = builder.load(self._at(builder, base, offset))
        loaded.align = 8  # NumPy promises no more
        return loaded
