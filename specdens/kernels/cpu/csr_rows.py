"""Rows of ``y = a A x + b x + c y`` in vector registers: LLVM vector code, put into numba's.

A plain loop keeps the sums of a row in memory, and is bound by that. Here registers hold the sums
of all columns, and the dot products of all rows so far.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from specdens.kernels.cpu.llvm_vectors import LONG, Row, Vectors, data_of, shifted
from specdens.kernels.cpu.vector_update import Update

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
        data, indices, indptr, x, y, abc, dots = data_of(
            context, builder, signature, args, 0, 1, 2, 3, 4, 7, 8
        )
        update = Update(builder, self.vectors, x, y, abc, dots)
        with cgutils.for_range_slice(builder, args[5], args[6], ir.Constant(LONG, 1)) as (row, _):
            ends = [_index(builder, indptr, place) for place in (row, shifted(builder, row, 1))]
            update.finish(row, self._product(builder, data, indices, x, *ends))
        update.store_dots()
        return context.get_dummy_value()

    def _product(self, builder: Any, data: Any, indices: Any, x: Any, start: Any, stop: Any) -> Row:
        """Return a row of A x; of complex entries in two sums, one of which is turned last."""
        v, parts = self.vectors, range(1 + self.complex)
        sums = [v.keep(builder, v.zeros()) for _ in parts]
        numbers = builder.bitcast(data, v.scalar.as_pointer())
        with cgutils.for_range_slice(builder, start, stop, ir.Constant(LONG, 1)) as (k, _):
            across = v.load(builder, x, _index(builder, indices, k))
            first = builder.mul(k, ir.Constant(LONG, len(parts)))
            for part, places in zip(parts, sums, strict=True):
                number = builder.load(builder.gep(numbers, [shifted(builder, first, part)]))
                entry, total = v.splat(builder, number), v.read(builder, places)
                v.update(builder, places, v.fma(builder, entry, across, total))
        total, *turned = [v.read(builder, places) for places in sums]
        return v.add(builder, total, v.times_i(builder, turned[0])) if turned else total


def _index(builder: Any, base: Any, place: Any) -> Any:
    """Return an index of any width as one of 64 bits."""
    found = builder.load(builder.gep(base, [place]))
    return found if found.type.width == 64 else builder.sext(found, LONG)
