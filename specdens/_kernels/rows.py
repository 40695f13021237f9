"""Rows of ``y = a A x + b x + c y`` in vector registers: LLVM vector code, put into numba's.

A plain loop keeps the sums of a row in memory, and is bound by that. Here one vector holds the sums
of all columns, and two the dot products of all rows so far.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from specdens._kernels.vectors import LONG, Vectors

__all__ = ["update_csr_rows"]


@intrinsic
def update_csr_rows(  # type: ignore[no-untyped-def]  # numba passes types, not values
    typingctx, data, indices, indptr, x, y, first, last, abc, dots, width
):
    """Update the rows of y from `first` up to `last`, and add to both dot products.

    Parameters
    ----------
    data, indices, indptr : array
        Of A in CSR form.
    x, y : array, shape (n, width), of real numbers in C order
        A complex column is two real ones.
    first, last : int
    abc : array, shape (3, width), of the type of x
    dots : array of float64, shape (2, width)
        Sums of ``y * y`` and ``y * x`` over rows, which grow.
    width : int literal
    """
    signature = types.void(data, indices, indptr, x, y, first, last, abc, dots, width)
    if not isinstance(width, types.IntegerLiteral):
        return None
    return signature, _Rows(width.literal_value, data.dtype, x.dtype).generate


class _Rows:
    """The code of a run of rows, for a number of real columns and a type."""

    def __init__(self, width: int, entry: Any, column: Any) -> None:
        self.complex = isinstance(entry, types.Complex)
        self.vectors = Vectors(width, column.bitwidth)

    def generate(self, context: Any, builder: Any, signature: Any, args: Any) -> Any:
        """Emit the code: numba's protocol for intrinsics."""
        names = {"data": 0, "indices": 1, "indptr": 2, "x": 3, "y": 4, "abc": 7, "dots": 8}
        pointers = {
            name: context.make_array(signature.args[k])(context, builder, args[k]).data
            for name, k in names.items()
        }
        v, one = self.vectors, ir.Constant(LONG, 1)
        abc = v.load_all(builder, pointers["abc"], 3)
        places = [cgutils.alloca_once(builder, v.wide) for _ in range(2)]
        for place, dot in zip(places, v.load_dots(builder, pointers["dots"]), strict=True):
            builder.store(dot, place)
        with cgutils.for_range_slice(builder, args[5], args[6], one) as (row, _):
            start = self._index(builder, pointers["indptr"], row)
            stop = self._index(builder, pointers["indptr"], builder.add(row, one))
            product = self._product(builder, pointers, start, stop)
            dots = [builder.load(place) for place in places]
            dots = v.finish(builder, pointers["x"], pointers["y"], row, abc, product, dots)
            for place, dot in zip(places, dots, strict=True):
                builder.store(dot, place)
        v.store_dots(builder, pointers["dots"], [builder.load(place) for place in places])
        return context.get_dummy_value()

    def _index(self, builder: Any, base: Any, place: Any) -> Any:
        found = builder.load(builder.gep(base, [place]))
        return found if found.type.width == 64 else builder.sext(found, LONG)

    def _product(self, builder: Any, pointers: Any, start: Any, stop: Any) -> Any:
        """Return ``(A x)[row]``; of complex entries in two sums, one of which is turned last."""
        v = self.vectors
        sums = [cgutils.alloca_once(builder, v.vector) for _ in range(1 + self.complex)]
        for place in sums:
            builder.store(v.zero, place)
        parts = builder.bitcast(pointers["data"], v.scalar.as_pointer())
        with cgutils.for_range_slice(builder, start, stop, ir.Constant(LONG, 1)) as (k, _):
            x = v.load(builder, pointers["x"], self._index(builder, pointers["indices"], k))
            for part, place in enumerate(sums):
                index = builder.add(builder.mul(k, ir.Constant(LONG, len(sums))),
                                    ir.Constant(LONG, part))  # fmt: skip
                entry = v.splat(builder, builder.load(builder.gep(parts, [index])))
                builder.store(v.fma(builder, entry, x, builder.load(place)), place)
        total = builder.load(sums[0])
        if not self.complex:
            return total
        return builder.fadd(total, v.times_i(builder, builder.load(sums[1])))
