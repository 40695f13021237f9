r"""A growing sketch of a matrix: test vectors W, an orthonormal basis Q of ``A W``, and ``A Q``.

Test vector i may see A through the basis of all the others: with ``A W = Q R`` that leaves out one
direction ``Q s_i`` only, so that m independent views cost no more products than one.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np

from specdens.arrays.libraries import Array, adjoint, matmul, to_host
from specdens.arrays.probes import signs, sphere
from specdens.operators.algebra import Counting
from specdens.operators.linear_operator import LinearOperator

__all__ = ["Sketch", "draw", "gram", "left_out", "no_columns", "product"]

Host: TypeAlias = np.ndarray[Any, Any]

STREAM = 32
"""First of the two streams of test vectors: others than those of the probes."""


def draw(op: LinearOperator, columns: range, key: int, *, kind: str, stream: int = STREAM) -> Array:
    """Return test vectors in double precision: signs, or on the sphere of radius sqrt(n)."""
    make = signs if kind == "signs" else sphere
    return make(
        op.shape[1], columns, key, xp=op.xp, dtype=_double(op), where=op.device, stream=stream
    )


def no_columns(op: LinearOperator) -> Array:
    """Return a block of no vectors, for others to be put beside."""
    return op.xp.zeros((op.shape[1], 0), dtype=_double(op), device=op.device)


def product(op: LinearOperator, apply: Callable[[Array], Array], block: Array) -> Array:
    """Return ``op.matmat(block)`` or ``op.rmatmat(block)``, finite and in double precision."""
    y = op.xp.astype(apply(block), _double(op), copy=False)
    if not bool(op.xp.all(op.xp.isfinite(y))):
        msg = "a product with A contains NaN or infinity; expected finite numbers."
        raise ValueError(msg)
    return y


def gram(a: Array, b: Array) -> Host:
    """Return the small matrix ``a^H b`` on the host."""
    return to_host(matmul(adjoint(a), b))


def left_out(r: Host) -> Host:
    """Return S: column i is the unit vector orthogonal to all columns of R but the i-th."""
    from scipy.linalg import solve_triangular

    inverse = solve_triangular(r, np.eye(len(r)), trans="C")
    return np.asarray(inverse / np.linalg.norm(inverse, axis=0))


def _double(op: LinearOperator) -> Any:
    return op.xp.complex128 if op.xp.isdtype(op.dtype, "complex floating") else op.xp.float64


class Sketch:
    """Test vectors of a square operator and what they show of it; `grow` adds more.

    Attributes
    ----------
    op : Counting
        The operator, with the number of its products.
    tests : array, shape (n, m)
        W.
    basis : array, shape (n, m)
        Q, orthonormal: ``A W = Q R``. If `complete`, fewer columns, which span the range of A.
    images : array, shape (n, m)
        ``A Q``, or ``A^H Q`` if made with ``of_adjoint=True``.
    triangle : ndarray, shape (m, m)
        R; without meaning if `complete`.
    complete : bool
        Whether the rank of A is smaller than m, to the precision of its products.
    """

    def __init__(self, op: LinearOperator, key: int, *, kind: str, of_adjoint: bool = False):
        self.op, self.key, self.kind = Counting(op), key, kind
        self._apply = self.op.rmatmat if of_adjoint else self.op.matmat
        self.tests = self.basis = self.images = no_columns(op)
        self.triangle: Host = np.zeros((0, 0))
        self.complete = False

    @property
    def size(self) -> int:
        """The number of test vectors."""
        return int(self.tests.shape[1])

    def grow(self, count: int) -> None:
        """Add test vectors: two products each, unless the range of A is exhausted."""
        self.look(count)
        self.take()

    def look(self, count: int) -> None:
        """Add test vectors for one product each; `take` spends the second one."""
        xp = self.op.xp
        tests = draw(self.op, range(self.size, self.size + count), self.key, kind=self.kind)
        y = product(self.op, self.op.matmat, tests)
        above = np.zeros((self.size, count))
        for _ in range(2 if self.size else 0):  # twice is enough
            inner = matmul(adjoint(self.basis), y)
            y, above = y - matmul(self.basis, inner), above + to_host(inner)
        q, r = xp.linalg.qr(y)
        corner = to_host(r)
        below = np.zeros((count, self.size))
        self.triangle = np.block([[self.triangle, above], [below, corner]])
        self.tests = xp.concat([self.tests, tests], axis=1)
        self.basis = xp.concat([self.basis, self._resolved(q, corner)], axis=1)

    def take(self) -> None:
        """Multiply the basis vectors that have no image yet."""
        new = self.basis[:, self.images.shape[1] :]
        if new.shape[1]:
            images = product(self.op, self._apply, new)
            self.images = self.op.xp.concat([self.images, images], axis=1)

    def _resolved(self, q: Array, corner: Host) -> Array:
        """Return those directions of new basis vectors that are more than rounding."""
        left, sizes, _ = np.linalg.svd(corner)
        count = int(np.sum(sizes > self._noise()))
        if count == len(sizes):
            return q
        self.complete = True
        turn = self.op.xp.asarray(left[:, :count], dtype=q.dtype, device=self.op.device)
        return matmul(q, turn)

    def _noise(self) -> float:
        # The rounding of a product is near 1 unit of its norm.
        unit = self.op.unit
        return 10 * unit * float(np.linalg.norm(self.triangle))

    def rounding(self) -> float:
        """Return what the trace misses if `complete`: ``|w^H N w| <= ||w|| ||N w||``."""
        return self._noise() * math.sqrt(self.op.shape[0] / self.size)
