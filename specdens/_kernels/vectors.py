"""Vector code for rows of a block, as LLVM instructions that numba compiles."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import cgutils

__all__ = ["LONG", "Vectors"]

LONG = ir.IntType(64)


class Vectors:
    """One vector for a row of so many real columns; a complex column is two."""

    def __init__(self, width: int, bits: int) -> None:
        self.width, self.bits = width, bits
        self.scalar = ir.DoubleType() if bits == 64 else ir.FloatType()
        self.vector = ir.VectorType(self.scalar, width)
        self.wide = ir.VectorType(ir.DoubleType(), width)

    @property
    def zero(self) -> Any:
        """A vector of zeros."""
        return ir.Constant(self.vector, [0.0] * self.width)

    def times_i(self, builder: Any, v: Any) -> Any:
        """Return i v of interleaved real and imaginary parts: (re, im) becomes (-im, re)."""
        swapped = [k + 1 if k % 2 == 0 else k - 1 for k in range(self.width)]
        order = ir.Constant(ir.VectorType(ir.IntType(32), self.width), swapped)
        turned = builder.shuffle_vector(v, ir.Constant(self.vector, ir.Undefined), order)
        return builder.fmul(turned, ir.Constant(self.vector, [-1.0, 1.0] * (self.width // 2)))

    def fma(self, builder: Any, a: Any, b: Any, c: Any) -> Any:
        """Return ``a b + c``, rounded once."""
        bits = 32 if a.type.element == ir.FloatType() else 64
        kind = ir.FunctionType(a.type, [a.type] * 3)
        name = f"llvm.fma.v{self.width}f{bits}"
        return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), [a, b, c])

    def splat(self, builder: Any, value: Any) -> Any:
        """Return a vector of one value."""
        undefined = ir.Constant(self.vector, ir.Undefined)
        first = builder.insert_element(undefined, value, ir.Constant(ir.IntType(32), 0))
        zeros = ir.Constant(ir.VectorType(ir.IntType(32), self.width), [0] * self.width)
        return builder.shuffle_vector(first, undefined, zeros)

    def at(self, builder: Any, base: Any, row: Any, vector: Any) -> Any:
        """Return a pointer to a row of a block, as a vector."""
        base = builder.bitcast(base, vector.element.as_pointer())
        place = builder.gep(base, [builder.mul(row, ir.Constant(LONG, self.width))])
        return builder.bitcast(place, vector.as_pointer())

    def load(self, builder: Any, base: Any, row: Any) -> Any:
        """Return a row of a block."""
        loaded = builder.load(self.at(builder, base, row, self.vector))
        loaded.align = self.bits // 8  # NumPy promises no more
        return loaded

    def finish(
        self, builder: Any, x: Any, y: Any, row: Any, abc: list[Any], product: Any, dots: list[Any]
    ) -> list[Any]:
        """Set ``y[row]`` to ``a product + b x + c y``; return the dot products, grown by it."""
        a, b, c = abc
        old, place = self.load(builder, x, row), self.at(builder, y, row, self.vector)
        new = self.fma(builder, b, old, builder.fmul(c, self.load(builder, y, row)))
        new = self.fma(builder, a, product, new)
        builder.store(new, place).align = self.bits // 8
        if self.bits == 32:
            old, new = builder.fpext(old, self.wide), builder.fpext(new, self.wide)
        return [
            self.fma(builder, new, other, dot) for other, dot in zip((new, old), dots, strict=True)
        ]

    def load_all(self, builder: Any, base: Any, count: int) -> list[Any]:
        """Return the first rows of a block."""
        return [self.load(builder, base, ir.Constant(LONG, k)) for k in range(count)]

    def load_dots(self, builder: Any, base: Any) -> list[Any]:
        """Return both dot products."""
        places = [self.at(builder, base, ir.Constant(LONG, k), self.wide) for k in range(2)]
        loads = [builder.load(place) for place in places]
        for one in loads:
            one.align = 8
        return loads

    def store_dots(self, builder: Any, base: Any, dots: list[Any]) -> None:
        """Keep both dot products."""
        for k, dot in enumerate(dots):
            place = self.at(builder, base, ir.Constant(LONG, k), self.wide)
            builder.store(dot, place).align = 8
