"""Links of a value to the tensors that it depends on, by derivatives that come when asked for."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

from specdens.gradients.histories import Tensor, leaves, sources_of
from specdens.operators.linear_operator import LinearOperator
from specdens.operators.sparse import TorchSparseOperator

__all__ = ["linked", "of_product", "recomputed", "trace_of_function", "with_shift"]


@cache
def trace_of_function() -> Any:
    """Return the function of autograd that gives a value, and its derivatives when asked."""
    import torch

    class TraceOfFunction(torch.autograd.Function):
        """The value itself; its derivatives are computed when they are asked for."""

        @staticmethod
        def forward(
            ctx: Any,
            value: Tensor,
            derivatives: Callable[[], list[Tensor]],
            origins: list[Tensor],
            *tensors: Tensor,
        ) -> Tensor:
            # Saved so that Torch notices if they are changed in place before backward.
            ctx.save_for_backward(*origins)
            ctx.derivatives = derivatives
            ctx.kinds = [(tensor.dtype, tensor.device) for tensor in tensors]
            return value.clone()

        @staticmethod
        def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
            origins, again = ctx.saved_tensors, torch.is_grad_enabled()
            with torch.enable_grad():  # somebody's product may itself be a derivative
                found = ctx.derivatives()
            with torch.no_grad():
                found = [
                    _times(upstream, d if dtype.is_complex else d.real).to(device, dtype)
                    for d, (dtype, device) in zip(found, ctx.kinds, strict=True)
                ]
            if again:
                found = [_once_only().apply(d, upstream, *origins) for d in found]
            return upstream, None, None, *found

    return TraceOfFunction


@cache
def _once_only() -> Any:
    import torch

    class Gradient(torch.autograd.Function):
        """A gradient that says that it has none itself."""

        @staticmethod
        def forward(ctx: Any, gradient: Tensor, *_: Tensor) -> Tensor:
            return gradient.clone()

        @staticmethod
        def backward(ctx: Any, *_: Tensor) -> Any:
            msg = (
                "second derivatives of log|det A| and tr f(A) are not implemented: the gradient "
                "comes from Lanczos or a factorisation that autograd does not see."
            )
            raise NotImplementedError(msg)

    return Gradient


def _times(upstream: Tensor, derivative: Tensor) -> Tensor:
    """Return a derivative, or a stack of them, each times its own number."""
    ones = (1,) * (derivative.ndim - upstream.ndim)
    return upstream.reshape((*upstream.shape, *ones)) * derivative


def linked(
    value: Tensor,
    derivatives: Callable[[], list[Tensor]],
    tensors: list[Tensor],
    origins: list[Tensor],
) -> Tensor:
    """Return the value with derivatives c: ``d value = Re sum_k <c_k, d tensor_k>``.

    Parameters
    ----------
    value : tensor, 0-d, or shape (B,) for a stack
    derivatives : callable
        Gives them, when they are asked for.
    tensors : list of tensor
    origins : list of tensor
        What is kept until then: the tensors themselves, or smaller ones that depend on the same.
    """
    if not bool(value.isfinite().all()):
        derivatives = _no_derivatives
    return trace_of_function().apply(value, derivatives, origins, *tensors)


def _no_derivatives() -> list[Tensor]:
    msg = (
        "the value is infinite (A is singular to working precision) and has no derivative there. "
        "Add a shift, or leave such a matrix out before backward()."
    )
    raise ValueError(msg)


def with_shift(live: Tensor | None, shift: Any) -> tuple[list[Tensor], Callable[..., list[Any]]]:
    """Return those of (entries, shift) that have a history, and the same choice of derivatives."""
    wanted = [getattr(tensor, "requires_grad", False) for tensor in (live, shift)]

    def chosen(*pair: Any) -> list[Any]:
        return [one for one, yes in zip(pair, wanted, strict=True) if yes]

    return chosen(live, shift), chosen


def of_product(
    value: Tensor, derivative: Callable[[], Tensor], product: Tensor, op: LinearOperator
) -> Tensor:
    """Link the value to a product, which is not kept itself."""
    whole = (leaf for leaf in leaves(op) if not isinstance(leaf, TorchSparseOperator))
    origins = [product.sum(), *(source for leaf in whole for source in sources_of(leaf))]
    return linked(value, lambda: [derivative()], [product], origins)


def recomputed(product: Callable[[], Tensor]) -> Tensor:
    """Return a product of which nothing is kept: `backward` computes it again."""
    from torch.utils.checkpoint import checkpoint

    return checkpoint(product, use_reentrant=False, preserve_rng_state=False)
