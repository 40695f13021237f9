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

from specdens._kernels.vectors import LONG, Vectors

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
        names = {"entries": 0, "terms": 1, "x": 5, "y": 6, "abc": 9, "dots": 10}
        pointers = {
            name: context.make_array(signature.args[k])(context, builder, args[k]).data
            for name, k in names.items()
        }
        edges, (first, last) = args[2:5], args[7:9]
        v, together = self.vectors, ir.Constant(LONG, self.together)
        abc = v.load_all(builder, pointers["abc"], 3)
        sums = [cgutils.alloca_once(builder, v.wide) for _ in range(2)]
        for place, dot in zip(sums, v.load_dots(builder, pointers["dots"]), strict=True):
            builder.store(dot, place)
        rest = builder.sub(last, builder.srem(builder.sub(last, first), together))
        for begin, stop, count in ((first, rest, self.together), (rest, last, 1)):
            with cgutils.for_range_slice(builder, begin, stop, ir.Constant(LONG, count)) as (
                row,
                _,
            ):
                rows = [builder.add(row, ir.Constant(LONG, t)) for t in range(count)]
                products = self._products(builder, pointers, edges, rows)
                dots = [builder.load(place) for place in sums]
                for one, product in zip(rows, products, strict=True):
                    dots = v.finish(builder, pointers["x"], pointers["y"], one, abc, product, dots)
                for place, dot in zip(sums, dots, strict=True):
                    builder.store(dot, place)
        v.store_dots(builder, pointers["dots"], [builder.load(place) for place in sums])
        return context.get_dummy_value()

    def _products(self, builder: Any, pointers: Any, edges: Any, rows: list[Any]) -> list[Any]:
        """Return ``(A x)[row]``; of complex entries in two sums, one of which is turned last."""
        v, (start, varying, end) = self.vectors, edges
        sums = [[cgutils.alloca_once(builder, v.vector) for _ in range(self.parts)] for _ in rows]
        for place in (place for pair in sums for place in pair):
            builder.store(v.zero, place)
        one = ir.Constant(LONG, 1)
        with cgutils.for_range_slice(builder, start, varying, one) as (k, _):
            place, shift = self._term(builder, pointers, k)
            entry = self._entry(builder, pointers, place)
            for row, pair in zip(rows, sums, strict=True):
                self._add(builder, pointers, entry, builder.add(row, shift), pair)
        with cgutils.for_range_slice(builder, varying, end, one) as (k, _):
            place, shift = self._term(builder, pointers, k)
            for row, pair in zip(rows, sums, strict=True):
                entry = self._entry(builder, pointers, builder.add(place, row))
                self._add(builder, pointers, entry, builder.add(row, shift), pair)
        found = [[builder.load(place) for place in pair] for pair in sums]
        if self.parts == 1:
            return [total for (total,) in found]
        return [builder.fadd(re, v.times_i(builder, im)) for re, im in found]

    def _term(self, builder: Any, pointers: Any, k: Any) -> list[Any]:
        """Return the place and the shift of a term."""
        base = builder.mul(k, ir.Constant(LONG, 2))
        places = [builder.add(base, ir.Constant(LONG, j)) for j in range(2)]
        return [builder.load(builder.gep(pointers["terms"], [place])) for place in places]

    def _entry(self, builder: Any, pointers: Any, place: Any) -> list[Any]:
        """Return the parts of an entry, each in all places of a vector."""
        numbers = builder.bitcast(pointers["entries"], self.vectors.scalar.as_pointer())
        first = builder.gep(numbers, [builder.mul(place, ir.Constant(LONG, self.parts))])
        parts = [builder.gep(first, [ir.Constant(LONG, part)]) for part in range(self.parts)]
        return [self.vectors.splat(builder, builder.load(part)) for part in parts]

    def _add(self, builder: Any, pointers: Any, entry: Any, row: Any, sums: list[Any]) -> None:
        """Add an entry times a row of x to the sums of its parts."""
        x = self.vectors.load(builder, pointers["x"], row)
        for part, place in zip(entry, sums, strict=True):
            builder.store(self.vectors.fma(builder, part, x, builder.load(place)), place)
