"""One row of ``y = a A x + b x + c y`` in vector registers: LLVM vector code, put into numba's.

A plain loop keeps the sums of a row in memory, and is bound by that. Here one vector holds the sums
of all columns.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from specdens._kernels.vectors import LONG, Vectors

__all__ = ["update_row"]


@intrinsic
def update_row(  # type: ignore[no-untyped-def]  # numba passes types, not values
    typingctx, data, indices, start, stop, x, y, row, abc, dots, width
):
    """Update ``y[row]`` from the entries `start` to `stop` of A, and add to both dot products.

    Parameters
    ----------
    data, indices : array, shape (nnz,)
        Of A in CSR form.
    start, stop : int
        Of the row.
    x, y : array, shape (n, width), of real numbers in C order
        A complex column is two real ones.
    row : int
    abc : array, shape (3, width), of the type of x
    dots : array of float64, shape (2, width)
        Sums of ``y * y`` and ``y * x`` over rows, which grow.
    width : int literal
    """
    signature = types.void(data, indices, start, stop, x, y, row, abc, dots, width)
    if not isinstance(width, types.IntegerLiteral):
        return None
    return signature, _Row(width.literal_value, data.dtype, x.dtype).generate


class _Row:
    """The code of one row, for a number of real columns and a type."""

    def __init__(self, width: int, entry: Any, column: Any) -> None:
        self.complex = isinstance(entry, types.Complex)
        self.vectors = Vectors(width, column.bitwidth)

    def generate(self, context: Any, builder: Any, signature: Any, args: Any) -> Any:
        """Emit the code: numba's protocol for intrinsics."""
        pointers = {
            name: context.make_array(signature.args[k])(context, builder, args[k]).data
            for name, k in (
                ("data", 0),
                ("indices", 1),
                ("x", 4),
                ("y", 5),
                ("abc", 7),
                ("dots", 8),
            )
        }
        _, _, start, stop, _, _, row, *_ = args
        v, product = self.vectors, self._product(builder, pointers, start, stop)
        abc, dots = v.load_all(builder, pointers["abc"], 3), v.load_dots(builder, pointers["dots"])
        dots = v.finish(builder, pointers["x"], pointers["y"], row, abc, product, dots)
        v.store_dots(builder, pointers["dots"], dots)
        return context.get_dummy_value()

    def _product(self, builder: Any, pointers: Any, start: Any, stop: Any) -> Any:
        """Return ``(A x)[row]``; of complex entries in two sums, one of which is turned last."""
        v = self.vectors
        sums = [cgutils.alloca_once(builder, v.vector) for _ in range(1 + self.complex)]
        for place in sums:
            builder.store(v.zero, place)
        parts = builder.bitcast(pointers["data"], v.scalar.as_pointer())
        with cgutils.for_range_slice(builder, start, stop, ir.Constant(LONG, 1)) as (k, _):
            column = builder.load(builder.gep(pointers["indices"], [k]))
            column = column if column.type.width == 64 else builder.sext(column, LONG)
            x = v.load(builder, pointers["x"], column)
            for part, place in enumerate(sums):
                index = builder.add(builder.mul(k, ir.Constant(LONG, len(sums))),
                                    ir.Constant(LONG, part))  # fmt: skip
                entry = v.splat(builder, builder.load(builder.gep(parts, [index])))
                builder.store(v.fma(builder, entry, x, builder.load(place)), place)
        total = builder.load(sums[0])
        if not self.complex:
            return total
        return builder.fadd(total, v.times_i(builder, builder.load(sums[1])))
