"""Vector code for rows of a block, as LLVM instructions that numba compiles."""

from __future__ import annotations

from itertools import accumulate
from typing import Any, TypeAlias

from llvmlite import ir
from numba.core import cgutils

__all__ = ["LONG", "REGISTER", "Row", "Vectors", "data_of", "shifted"]

LONG = ir.IntType(64)

REGISTER = 64
"""Bytes of a vector, at most; the compiler takes several registers where they are smaller."""

Row: TypeAlias = list[Any]
"""The vectors of a row of a block, or places of such."""


class Vectors:
    """Rows of so many real columns, each in a few vectors; a complex column is two real ones.

    The lengths of vectors are powers of two, since the compiler makes poor code of others.
    """

    def __init__(self, width: int, bits: int, longest: int | None = None) -> None:
        self.width, self.bits = width, bits
        self.scalar = ir.DoubleType() if bits == 64 else ir.FloatType()
        self.lengths = _powers_of_two(width, longest or 8 * REGISTER // bits)

    @property
    def wide(self) -> Vectors:
        """The same vectors in double precision."""
        return Vectors(self.width, 64, self.lengths[0])

    def zeros(self) -> Row:
        """Return a row of zeros."""
        return [ir.Constant(ir.VectorType(self.scalar, k), [0.0] * k) for k in self.lengths]

    def splat(self, builder: Any, value: Any) -> Row:
        """Return a row of one value."""
        return [_splat(builder, value, length) for length in self.lengths]

    def widen(self, builder: Any, row: Row) -> Row:
        """Return a row in double precision."""
        if self.bits == 64:
            return row
        kinds = [ir.VectorType(ir.DoubleType(), length) for length in self.lengths]
        return [builder.fpext(v, kind) for v, kind in zip(row, kinds, strict=True)]

    def times_i(self, builder: Any, row: Row) -> Row:
        """Return i times a row of real and imaginary parts: (re, im) becomes (-im, re)."""
        return [_times_i(builder, v) for v in row]

    def fma(self, builder: Any, a: Row, b: Row, c: Row) -> Row:
        """Return ``a b + c``, rounded once."""
        return [_fma(builder, *three) for three in zip(a, b, c, strict=True)]

    def add(self, builder: Any, a: Row, b: Row) -> Row:
        """Return ``a + b``."""
        return [builder.fadd(*two) for two in zip(a, b, strict=True)]

    def times(self, builder: Any, a: Row, b: Row) -> Row:
        """Return ``a b``, entry by entry."""
        return [builder.fmul(*two) for two in zip(a, b, strict=True)]

    def load(self, builder: Any, base: Any, row: Any) -> Row:
        """Return a row of a block of the memory of an array."""
        return [self._aligned(builder.load(place)) for place in self._places(builder, base, row)]

    def store(self, builder: Any, base: Any, row: Any, values: Row) -> None:
        """Set a row of a block."""
        for place, value in zip(self._places(builder, base, row), values, strict=True):
            self._aligned(builder.store(value, place))

    def keep(self, builder: Any, values: Row) -> Row:
        """Return places for a row, which the compiler makes registers of, with its values there."""
        places = [cgutils.alloca_once(builder, value.type) for value in values]
        self.update(builder, places, values)
        return places

    def read(self, builder: Any, places: Row) -> Row:
        """Return what is kept."""
        return [builder.load(place) for place in places]

    def update(self, builder: Any, places: Row, values: Row) -> None:
        """Keep other values."""
        for place, value in zip(places, values, strict=True):
            builder.store(value, place)

    def _aligned(self, access: Any) -> Any:
        access.align = self.bits // 8  # NumPy promises no more
        return access

    def _places(self, builder: Any, base: Any, row: Any) -> Row:
        base = builder.bitcast(base, self.scalar.as_pointer())
        first = builder.mul(row, ir.Constant(LONG, self.width))
        places = []
        for start, length in zip(accumulate(self.lengths, initial=0), self.lengths, strict=False):
            place = builder.gep(base, [builder.add(first, ir.Constant(LONG, start))])
            places.append(builder.bitcast(place, ir.VectorType(self.scalar, length).as_pointer()))
        return places


def data_of(context: Any, builder: Any, signature: Any, args: Any, *which: int) -> list[Any]:
    """Return pointers to the entries of some arguments of an intrinsic, which are arrays."""
    arrays = [context.make_array(signature.args[k])(context, builder, args[k]) for k in which]
    return [array.data for array in arrays]


def shifted(builder: Any, index: Any, shift: int) -> Any:
    """Return ``index + shift``."""
    return builder.add(index, ir.Constant(LONG, shift))


def _powers_of_two(width: int, most: int) -> list[int]:
    """Cut a number into powers of two, the largest ones first."""
    if not width:
        return []
    length = min(most, 1 << (width.bit_length() - 1))
    return [length, *_powers_of_two(width - length, most)]


def _splat(builder: Any, value: Any, length: int) -> Any:
    undefined = ir.Constant(ir.VectorType(value.type, length), ir.Undefined)
    first = builder.insert_element(undefined, value, ir.Constant(ir.IntType(32), 0))
    zeros = ir.Constant(ir.VectorType(ir.IntType(32), length), [0] * length)
    return builder.shuffle_vector(first, undefined, zeros)


def _times_i(builder: Any, v: Any) -> Any:
    length = v.type.count
    swapped = [k + 1 if k % 2 == 0 else k - 1 for k in range(length)]
    order = ir.Constant(ir.VectorType(ir.IntType(32), length), swapped)
    turned = builder.shuffle_vector(v, ir.Constant(v.type, ir.Undefined), order)
    return builder.fmul(turned, ir.Constant(v.type, [-1.0, 1.0] * (length // 2)))


def _fma(builder: Any, a: Any, b: Any, c: Any) -> Any:
    bits = 32 if a.type.element == ir.FloatType() else 64
    kind = ir.FunctionType(a.type, [a.type] * 3)
    name = f"llvm.fma.v{a.type.count}f{bits}"
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), [a, b, c])
