r"""Block Lanczos with full reorthogonalisation: a basis Q of a Krylov space, and ``T = Q^H A Q``.

From ``A Q = Q T + Q_next R E^H`` follow, without a further product, Ritz pairs with the norms of
their residuals, the traces of A and A^2 on the space, and the quadrature of the starting vectors.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from specdens.arrays.libraries import Array, adjoint, eps, is_complex, matmul, to_host
from specdens.operators.hermitian import is_surely_hermitian
from specdens.operators.linear_operator import LinearOperator
from specdens.recurrences.lanczos import NotHermitianError, Tridiagonal

__all__ = ["KrylovBasis", "RitzPairs"]

Host: TypeAlias = np.ndarray[Any, Any]


@dataclass(frozen=True)
class RitzPairs:
    """Ritz values, ascending, of a Krylov space.

    Attributes
    ----------
    values : ndarray, shape (k,)
    vectors : ndarray, shape (k, k)
        In the basis.
    residuals : ndarray, shape (k,)
        ``||A u - theta u||``.
    weights : ndarray, shape (k,)
        Of the quadrature of the starting block; they sum to 1.
    """

    values: Host
    vectors: Host
    residuals: Host
    weights: Host


class KrylovBasis:
    """An orthonormal basis of the block Krylov space of some vectors, grown step by step.

    Parameters
    ----------
    op : LinearOperator, shape (n, n)
        Hermitian.
    start : array, shape (n, b)
        b at most n.

    Attributes
    ----------
    steps : int
        Block steps taken; each costs b products.
    exhausted : bool
        Whether the space is invariant, so that nothing more can be found from these vectors.
    """

    def __init__(self, op: LinearOperator, start: Array) -> None:
        self.op, self.width, self.steps = op, start.shape[1], 0
        first, self._mixing = op.xp.linalg.qr(start)
        self._mixing = to_host(self._mixing)
        self._stored: Array = first
        self._filled = self.width
        self._next: Array | None = first
        kind = complex if is_complex(start) else float
        self._t: Host = np.zeros((0, 0), dtype=kind)
        self._last: Host = np.zeros((0, 0), dtype=kind)
        self._unit = eps(start)

    @property
    def exhausted(self) -> bool:
        """Whether the last residual vanished."""
        return self._next is None

    @property
    def size(self) -> int:
        """The number of basis vectors that were multiplied."""
        return len(self._t)

    def grow(self, steps: int) -> None:
        """Take some more block steps, as long as there is something new.

        Raises
        ------
        NotHermitianError
            If ``<q, A p>`` is not the conjugate of ``<p, A q>``.
        ValueError
            If a product is not finite.
        """
        for _ in range(steps):
            if self._next is None:
                return
            self._step(self._next)

    def _step(self, block: Array) -> None:
        xp, old, width = self.op.xp, self.size, block.shape[1]
        product = self.op.matmat(block)
        if not bool(xp.all(xp.isfinite(product))):
            msg = "a product with A contains NaN or infinity; expected finite numbers."
            raise ValueError(msg)
        basis = self.vectors(include_next=True)
        overlap = matmul(adjoint(basis), product)
        rest = product - matmul(basis, overlap)
        again = matmul(adjoint(basis), rest)
        rest = rest - matmul(basis, again)
        column = to_host(overlap) + to_host(again)
        self._require_hermitian(column[:old])
        t = np.zeros((old + width, old + width), dtype=self._t.dtype)
        t[:old, :old] = self._t
        t[:, old:] = column
        t[old:, :old] = column[:old].conj().T
        self._t = (t + t.conj().T) / 2
        self.steps += 1
        self._extend(rest)

    def _require_hermitian(self, above: Host) -> None:
        """Compare the new column of T with the residual of the step before, its mirror image."""
        if not self.size:
            return
        expected = np.zeros_like(above)
        expected[-self._last.shape[1] :] = self._last.conj().T
        size = max(float(np.abs(self._t).max()), float(np.abs(above).max()))
        asymmetry = float(np.abs(above - expected).max())
        unit = max(self._unit, self.op.unit)
        rounding = (1000 + 10 * self.op.shape[0] ** 0.5) * unit * size
        if asymmetry > rounding and not is_surely_hermitian(self.op):
            msg = (
                "the operator is not Hermitian: <x, A y> and <A x, y> differ by "
                f"{asymmetry:.3g} for unit vectors. "
                "Pass hermitian=False, with an adjoint product (rmatvec=) if it is only applied."
            )
            raise NotHermitianError(msg)

    def _extend(self, rest: Array) -> None:
        """Orthonormalise the residual block; drop directions that are rounding noise."""
        xp = self.op.xp
        gram = to_host(matmul(adjoint(rest), rest))
        squares, turn = np.linalg.eigh((gram + gram.conj().T) / 2)
        scale = float(np.abs(self._t).max())
        room = self.op.shape[0] - self.size
        kept = squares > (100 * self._unit * scale) ** 2
        kept[: max(0, len(kept) - room)] = False
        if not np.any(kept):
            self._next, self._last = None, np.zeros((0, len(squares)), dtype=self._t.dtype)
            return
        directions = matmul(rest, self._device(turn[:, kept] / np.sqrt(squares[kept])))
        directions, _ = xp.linalg.qr(directions)
        basis = self.vectors()
        directions = directions - matmul(basis, matmul(adjoint(basis), directions))
        self._next, _ = xp.linalg.qr(directions)
        self._last = to_host(matmul(adjoint(self._next), rest))
        self._store(self._next)

    def _store(self, block: Array) -> None:
        """Put new vectors beside the old ones, in room that doubles where it runs out."""
        end = self._filled + block.shape[1]
        if end > self._stored.shape[1]:
            room = self.op.xp.zeros_like(self._stored)
            self._stored = self.op.xp.concat([self._stored, room], axis=1)
        self._stored[:, self._filled : end] = block
        self._filled = end

    def _device(self, x: Host) -> Array:
        return self.op.xp.asarray(x, dtype=self._stored.dtype, device=self.op.device)

    def vectors(self, *, include_next: bool = False) -> Array:
        """Return the basis, shape (n, size), with the vectors not yet multiplied if asked."""
        return self._stored[:, : self._filled if include_next else self.size]

    def ritz(self) -> RitzPairs:
        """Return the Ritz pairs of the space."""
        values, vectors = np.linalg.eigh(self._t)
        tail = self._last @ vectors[len(vectors) - self._last.shape[1] :]
        weights = np.mean(np.abs(vectors[: self.width]) ** 2, axis=0)
        return RitzPairs(values, vectors, np.linalg.norm(tail, axis=0), weights)

    def tridiagonals(self) -> list[Tridiagonal]:
        """Return what Lanczos' method would have found from each starting vector by itself."""
        return [self._tridiagonal(column) for column in self._mixing.T]

    def _tridiagonal(self, start: Host) -> Tridiagonal:
        size, new = self.size, self._last.shape[1]
        q = np.zeros(size, dtype=np.result_type(self._t, start))
        q[: len(start)] = start
        basis = [q / np.linalg.norm(q)]
        scale = float(np.abs(self._t).max())
        diagonal: list[float] = []
        beta: list[float] = []
        for _ in range(self.steps):
            w = self._t @ basis[-1]
            diagonal.append(float(np.vdot(basis[-1], w).real))
            earlier = np.array(basis)
            for _ in range(2):
                w = w - earlier.T @ (earlier.conj() @ w)
            # The last product leads out of the space, to the vectors not yet multiplied.
            outside = np.linalg.norm(self._last @ basis[-1][size - new :])
            inside = np.linalg.norm(w)
            beta.append(float(np.hypot(inside, outside)))
            if inside <= 10 * self._unit * scale:
                beta[-1] = beta[-1] if outside > 10 * self._unit * scale else 0.0
                break
            basis.append(w / inside)
        return Tridiagonal(np.array(diagonal), np.array(beta[:-1]), beta[-1])

    def tridiagonal_block(self) -> Host:
        """Return T, shape (size, size)."""
        return self._t

    def remove_from(self, block: Array, columns: int) -> Array:
        """Return the components of a block orthogonal to the first vectors of the basis."""
        basis = self.vectors()[:, :columns]
        for _ in range(2):
            block = block - matmul(basis, matmul(adjoint(basis), block))
        return block
