"""Rows of ``y = a A x + b x + c y`` that have the same neighbours, a few of them at once.

The entries of such rows lie along diagonals: no indices are read, and rows share the arithmetic of
addresses. Sums go over the rows in their order: they do not depend on how many rows go together.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from specdens.kernels.cpu.llvm_vectors import LONG, Row, Vectors, data_of, shifted
from specdens.kernels.cpu.vector_update import Update

__all__ = ["update_rows"]

REGISTERS = 256
"""Bytes of sums that stay in vector registers."""

MOST_ROWS = 4


@intrinsic
def update_rows(  # type: ignore[no-untyped-def]  # numba passes types, not values
    typingctx, entries, terms, start, varying, end, x, y, first, last, abc, dots, width
):
    """Update the rows of y from `first` up to `last`, and add to both dot products.

    Parameters
    ----------
    entries : array
        Of A, where the terms find them.
    terms : array of int64, shape (N, 2)
        A constant term ``(place, shift)`` adds ``entries[place] x[row + shift]``, a varying one
        ``entries[place + row] x[row + shift]``.
    start, varying, end : int
        The terms of these rows: constant ones before `varying`.
    x, y : array, shape (n, width), of real numbers in C order
        A complex column is two real ones.
    first, last : int
    abc : array, shape (3, width), of the type of x
    dots : array of float64, shape (2, width)
        Sums of ``y * y`` and ``y * x`` over rows, which grow.
    width : int literal
    """
    signature = types.void(entries, terms, start, varying, end, x, y, first, last, abc, dots, width)
    if not isinstance(width, types.IntegerLiteral):
        return None
    return signature, _Rows(width.literal_value, entries.dtype, x.dtype).generate


class _Rows:
    """The code of a run of rows, for a number of real columns and a type."""

    def __init__(self, width: int, entry: Any, column: Any) -> None:
        self.parts = 2 if isinstance(entry, types.Complex) else 1
        self.vectors = Vectors(width, column.bitwidth)
        bytes_of_sums = width * column.bitwidth // 8 * self.parts
        self.together = max(1, min(MOST_ROWS, REGISTERS // bytes_of_sums))

    def generate(self, context: Any, builder: Any, signature: Any, args: Any) -> Any:
        """Emit the code: numba's protocol for intrinsics."""
        entries, terms, x, y, abc, dots = data_of(
            context, builder, signature, args, 0, 1, 5, 6, 9, 10
        )
        edges, (first, last) = args[2:5], args[7:9]
        update = Update(builder, self.vectors, x, y, abc, dots)
        together = ir.Constant(LONG, self.together)
        rest = builder.sub(last, builder.srem(builder.sub(last, first), together))
        for begin, stop, count in ((first, rest, self.together), (rest, last, 1)):
            step = ir.Constant(LONG, count)
            with cgutils.for_range_slice(builder, begin, stop, step) as (row, _):
                rows = [shifted(builder, row, t) for t in range(count)]
                products = self._products(builder, entries, terms, x, edges, rows)
                for one, product in zip(rows, products, strict=True):
                    update.finish(one, product)
        update.store_dots()
        return context.get_dummy_value()

    def _products(
        self, builder: Any, entries: Any, terms: Any, x: Any, edges: Any, rows: list[Any]
    ) -> list[Row]:
        """Return rows of A x; of complex entries in two sums, one of which is turned last."""
        v, (start, varying, end), one = self.vectors, edges, ir.Constant(LONG, 1)
        sums = [[v.keep(builder, v.zeros()) for _ in range(self.parts)] for _ in rows]
        with cgutils.for_range_slice(builder, start, varying, one) as (k, _):
            place, shift = _term(builder, terms, k)
            entry = self._entry(builder, entries, place)
            for row, parts in zip(rows, sums, strict=True):
                self._add(builder, entry, v.load(builder, x, builder.add(row, shift)), parts)
        with cgutils.for_range_slice(builder, varying, end, one) as (k, _):
            place, shift = _term(builder, terms, k)
            for row, parts in zip(rows, sums, strict=True):
                entry = self._entry(builder, entries, builder.add(place, row))
                self._add(builder, entry, v.load(builder, x, builder.add(row, shift)), parts)
        found = [[v.read(builder, places) for places in parts] for parts in sums]
        if self.parts == 1:
            return [total for (total,) in found]
        return [v.add(builder, re, v.times_i(builder, im)) for re, im in found]

    def _entry(self, builder: Any, entries: Any, place: Any) -> list[Row]:
        """Return the parts of an entry, each in all columns of a row."""
        numbers = builder.bitcast(entries, self.vectors.scalar.as_pointer())
        first = builder.gep(numbers, [builder.mul(place, ir.Constant(LONG, self.parts))])
        parts = [builder.gep(first, [ir.Constant(LONG, part)]) for part in range(self.parts)]
        return [self.vectors.splat(builder, builder.load(part)) for part in parts]

    def _add(self, builder: Any, entry: list[Row], x: Row, sums: list[Row]) -> None:
        """Add an entry times a row of x to the sums of its parts."""
        v = self.vectors
        for part, places in zip(entry, sums, strict=True):
            v.update(builder, places, v.fma(builder, part, x, v.read(builder, places)))


def _term(builder: Any, terms: Any, k: Any) -> list[Any]:
    """Return the place and the shift of a term."""
    base = builder.mul(k, ir.Constant(LONG, 2))
    return [builder.load(builder.gep(terms, [shifted(builder, base, j)])) for j in range(2)]
