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

__all__ = ["update_row"]

LONG = ir.IntType(64)


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
        self.width, self.complex = width, isinstance(entry, types.Complex)
        self.bits = column.bitwidth
        self.scalar = ir.DoubleType() if self.bits == 64 else ir.FloatType()
        self.vector = ir.VectorType(self.scalar, width)
        self.wide = ir.VectorType(ir.DoubleType(), width)

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
        product = self._product(builder, pointers, start, stop)
        x, y = (self._load(builder, pointers[name], row) for name in "xy")
        a, b, c = (self._load(builder, pointers["abc"], ir.Constant(LONG, k)) for k in range(3))
        y = self._fma(builder, a, product, self._fma(builder, b, x, builder.fmul(c, y)))
        place = self._at(builder, pointers["y"], row, self.vector)
        builder.store(y, place).align = self.bits // 8
        if self.bits == 32:
            x, y = builder.fpext(x, self.wide), builder.fpext(y, self.wide)
        for k, other in enumerate((y, x)):
            place = self._at(builder, pointers["dots"], ir.Constant(LONG, k), self.wide)
            old = builder.load(place)
            old.align = 8
            builder.store(self._fma(builder, y, other, old), place).align = 8
        return context.get_dummy_value()

    def _product(self, builder: Any, pointers: Any, start: Any, stop: Any) -> Any:
        """Return ``(A x)[row]``; of complex entries in two sums, one of which is turned last."""
        sums = [cgutils.alloca_once(builder, self.vector) for _ in range(1 + self.complex)]
        for place in sums:
            builder.store(ir.Constant(self.vector, [0.0] * self.width), place)
        parts = builder.bitcast(pointers["data"], self.scalar.as_pointer())
        with cgutils.for_range_slice(builder, start, stop, ir.Constant(LONG, 1)) as (k, _):
            column = builder.load(builder.gep(pointers["indices"], [k]))
            column = column if column.type.width == 64 else builder.sext(column, LONG)
            x = self._load(builder, pointers["x"], column)
            for part, place in enumerate(sums):
                index = builder.add(builder.mul(k, ir.Constant(LONG, len(sums))),
                                    ir.Constant(LONG, part))  # fmt: skip
                entry = self._splat(builder, builder.load(builder.gep(parts, [index])))
                builder.store(self._fma(builder, entry, x, builder.load(place)), place)
        total = builder.load(sums[0])
        if not self.complex:
            return total
        return builder.fadd(total, self._times_i(builder, builder.load(sums[1])))

    def _times_i(self, builder: Any, v: Any) -> Any:
        """Return i v of interleaved real and imaginary parts: (re, im) becomes (-im, re)."""
        swapped = [k + 1 if k % 2 == 0 else k - 1 for k in range(self.width)]
        order = ir.Constant(ir.VectorType(ir.IntType(32), self.width), swapped)
        turned = builder.shuffle_vector(v, ir.Constant(self.vector, ir.Undefined), order)
        return builder.fmul(turned, ir.Constant(self.vector, [-1.0, 1.0] * (self.width // 2)))

    def _fma(self, builder: Any, a: Any, b: Any, c: Any) -> Any:
        bits = 32 if a.type.element == ir.FloatType() else 64
        kind = ir.FunctionType(a.type, [a.type] * 3)
        name = f"llvm.fma.v{self.width}f{bits}"
        return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), [a, b, c])

    def _splat(self, builder: Any, value: Any) -> Any:
        undefined = ir.Constant(self.vector, ir.Undefined)
        first = builder.insert_element(undefined, value, ir.Constant(ir.IntType(32), 0))
        zeros = ir.Constant(ir.VectorType(ir.IntType(32), self.width), [0] * self.width)
        return builder.shuffle_vector(first, undefined, zeros)

    def _at(self, builder: Any, base: Any, row: Any, vector: Any) -> Any:
        """Return a pointer to a row of a block, as a vector."""
        base = builder.bitcast(base, vector.element.as_pointer())
        place = builder.gep(base, [builder.mul(row, ir.Constant(LONG, self.width))])
        return builder.bitcast(place, vector.as_pointer())

    def _load(self, builder: Any, base: Any, row: Any) -> Any:
        loaded = builder.load(self._at(builder, base, row, self.vector))
        loaded.align = self.bits // 8  # NumPy promises no more
        return loaded
