"""The end of a step: rows of ``y = a (A x) + b x + c y`` and both dot products, in registers."""

from __future__ import annotations

from typing import Any

from llvmlite import ir

from specdens.kernels.cpu.llvm_vectors import LONG, Row, Vectors

__all__ = ["Update"]


class Update:
    """The code that makes rows of y of products with A, and adds to the dot products.

    Parameters
    ----------
    builder : IRBuilder
    vectors : Vectors
        Those of a row.
    x, y, abc, dots : pointer
        To the entries of blocks: n rows, n rows, three rows, and two rows of double precision.
    """

    def __init__(self, builder: Any, vectors: Vectors, *blocks: Any) -> None:
        self._builder, self._v, self._wide = builder, vectors, vectors.wide
        self._x, self._y, abc, self._into = blocks
        self._abc = [vectors.load(builder, abc, ir.Constant(LONG, k)) for k in range(3)]
        self._dots = [
            self._wide.keep(builder, self._wide.load(builder, self._into, ir.Constant(LONG, k)))
            for k in range(2)
        ]

    def finish(self, row: Any, product: Row) -> None:
        """Set ``y[row]``, and add its products with itself and with ``x[row]`` to the sums."""
        builder, v, (a, b, c) = self._builder, self._v, self._abc
        old = v.load(builder, self._x, row)
        new = v.fma(builder, b, old, v.times(builder, c, v.load(builder, self._y, row)))
        new = v.fma(builder, a, product, new)
        v.store(builder, self._y, row, new)
        old, new = v.widen(builder, old), v.widen(builder, new)
        for places, other in zip(self._dots, (new, old), strict=True):
            total = self._wide.fma(builder, new, other, self._wide.read(builder, places))
            self._wide.update(builder, places, total)

    def store_dots(self) -> None:
        """Put the dot products where they came from: after the last row."""
        for k, places in enumerate(self._dots):
            dots = self._wide.read(self._builder, places)
            self._wide.store(self._builder, self._into, ir.Constant(LONG, k), dots)
