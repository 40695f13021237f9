"""What of an operator has an autograd history (Torch), and the same operator with it.

Operators compute with numbers alone; here are the tensors behind them: the entries of a matrix, or
products that autograd can follow.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any, TypeAlias

from specdens.arrays.libraries import Array
from specdens.operators.algebra import Adjoint
from specdens.operators.aslinearoperator import ForeignOperator
from specdens.operators.dense import DenseOperator
from specdens.operators.explicit import ExplicitOperator
from specdens.operators.linear_operator import LinearOperator
from specdens.operators.sparse import TorchSparseOperator
from specdens.structured.diagonal_plus_low_rank import DiagonalPlusLowRank

__all__ = [
    "DenseEntries",
    "SparseEntries",
    "Tensor",
    "entries_of",
    "has_entries",
    "has_history",
    "is_followed",
    "is_on",
    "leaves",
    "sources_of",
    "with_history",
]

Tensor: TypeAlias = Any


def is_on(xp: Any) -> bool:
    """Whether arrays of this library are Torch's, and autograd is on."""
    torch = sys.modules.get("torch")
    return torch is not None and xp.__name__.endswith("torch") and torch.is_grad_enabled()


def is_followed(op: LinearOperator, shift: Any) -> bool:
    """Whether autograd is on and anything here has a history."""
    return is_on(op.xp) and (getattr(shift, "requires_grad", False) or has_history(op))


def has_history(op: LinearOperator) -> bool:
    """Whether op depends on tensors that require a gradient; a product tells, of a foreign one."""
    return any(
        leaf.differentiable if isinstance(leaf, ForeignOperator) else bool(sources_of(leaf))
        for leaf in leaves(op)
    )


def sources_of(leaf: LinearOperator) -> list[Tensor]:
    """Return the tensors that require a gradient of which a leaf was made."""
    if isinstance(leaf, DiagonalPlusLowRank):
        return list(leaf.sources.values())
    if isinstance(leaf, ExplicitOperator) and leaf.source is not None:
        return [leaf.source]
    return []


def _parts(op: LinearOperator) -> list[LinearOperator]:
    """Return the operators that op is composed of."""
    lists = [v if isinstance(v, (list, tuple)) else [v] for v in vars(op).values()]
    return [part for found in lists for part in found if isinstance(part, LinearOperator)]


def leaves(op: LinearOperator) -> Iterator[LinearOperator]:
    """Go through the operators that op is made of.

    Yields
    ------
    LinearOperator
        One that is made of no others.
    """
    parts = _parts(op)
    if not parts:
        yield op
    for part in parts:
        yield from leaves(part)


class DenseEntries:
    """All entries of a dense matrix."""

    def __init__(self, op: DenseOperator) -> None:
        self.op, self.live = op, op.source

    def of(self, matrix: Tensor) -> Tensor:
        """Return the entries of a matrix that the source stores: all."""
        return matrix

    def outer(self, g: Tensor, z: Tensor) -> Tensor:
        """Return those of ``g z^H``."""
        return g @ z.mH

    def polynomial(self, constant: float, slope: float) -> Tensor:
        """Return those of ``constant I + slope A``."""
        a = slope * self.op.array
        a.diagonal().add_(constant)
        return a


class SparseEntries:
    """The stored entries of a sparse matrix."""

    def __init__(self, op: TorchSparseOperator) -> None:
        self.op = op
        self.rows, self.columns = op.array.indices()
        self.live = None
        if op.source is not None:
            self.live = _stored(op.source)

    def of(self, matrix: Tensor) -> Tensor:
        """Return the entries of a matrix that the source stores: those of its pattern."""
        return matrix[self.rows, self.columns]

    def outer(self, g: Tensor, z: Tensor) -> Tensor:
        """Return those of ``g z^H``, with no more memory than two of them."""
        total = g[self.rows, 0] * z[self.columns, 0].conj()
        for r in range(1, g.shape[1]):
            total += g[self.rows, r] * z[self.columns, r].conj()
        return total

    def polynomial(self, constant: float, slope: float) -> Tensor:
        """Return those of ``constant I + slope A``."""
        values = self.op.values()
        return slope * values + constant * (self.rows == self.columns).to(values.dtype)


def _stored(source: Tensor) -> Tensor:
    """Return the stored entries with their history, in the order of the coalesced tensor."""
    if source.layout == sys.modules["torch"].sparse_csr:
        return source.values()  # Torch can convert layouts with a history of real numbers only
    return source.to_sparse_coo().coalesce().values()


def has_entries(op: LinearOperator) -> bool:
    """Whether the entries of op are stored one by one, so that each may have a derivative."""
    return isinstance(op, (DenseOperator, TorchSparseOperator))


def entries_of(op: LinearOperator) -> DenseEntries | SparseEntries:
    """Return the entries that gradients with respect to an explicit matrix have."""
    if isinstance(op, TorchSparseOperator):
        return SparseEntries(op)
    assert isinstance(op, DenseOperator)
    return DenseEntries(op)


def with_history(op: LinearOperator) -> LinearOperator:
    """Return the same operator whose products autograd can follow."""
    if isinstance(op, TorchSparseOperator):
        return op if op.source is None else _LiveSparse(op)
    if isinstance(op, DenseOperator):
        return op if op.source is None else DenseOperator(op.source)
    twin = copy.copy(op)
    if isinstance(op, DiagonalPlusLowRank):
        for name, source in op.sources.items():
            setattr(twin, name, source.to(op.dtype))
    if isinstance(twin, ForeignOperator):
        twin.keeps_history = True
    for name, value in vars(op).items():
        if isinstance(value, LinearOperator):
            setattr(twin, name, with_history(value))
        elif isinstance(value, (list, tuple)):
            setattr(
                twin, name, [with_history(v) if isinstance(v, LinearOperator) else v for v in value]
            )
    return twin


class _LiveSparse(LinearOperator):
    """A sparse tensor; Torch's own derivative of its products would be a dense matrix."""

    def __init__(self, op: TorchSparseOperator) -> None:
        super().__init__(op.shape, dtype=op.dtype, xp=op.xp, device=op.device)
        self.hermitian, self.entries = None, SparseEntries(op)
        assert self.entries.live is not None
        self.live = self.entries.live.to(op.dtype)

    def _matmat(self, x: Array) -> Array:
        e = self.entries
        return _sparse_product().apply(self.live, x, e.op, e.outer)

    def _rmatmat(self, x: Array) -> Array:
        e = self.entries
        return _sparse_product().apply(
            self.live.conj(), x, Adjoint(e.op), lambda g, z: e.outer(z, g).conj()
        )


@cache
def _sparse_product() -> Any:
    import torch
    from torch.autograd.function import once_differentiable

    class SparseProduct(torch.autograd.Function):
        """``A x``, and the derivative with respect to the stored entries alone."""

        @staticmethod
        def forward(
            ctx: Any,
            values: Tensor,
            x: Tensor,
            op: LinearOperator,
            outer: Callable[[Tensor, Tensor], Tensor],
        ) -> Tensor:
            ctx.save_for_backward(x)
            ctx.op, ctx.outer = op, outer
            return op.matmat(x)

        @staticmethod
        @once_differentiable
        def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
            (x,) = ctx.saved_tensors
            return ctx.outer(upstream, x), ctx.op.rmatmat(upstream), None, None

    return SparseProduct
