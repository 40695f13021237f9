r"""Products with curvature matrices of one batch, by a graph that is built once.

Differentiating the graph of a gradient costs about one gradient per product; forward over reverse
differentiation would compute the gradient again in each. With the outputs f of a model, ``J v`` is
the derivative by u of ``J^T u``, so that all graphs here are of the same kind.

References
----------
Pearlmutter, Neural Computation 6, 147 (1994); Schraudolph, Neural Computation 14, 1723 (2002).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

__all__ = [
    "Graph",
    "Middle",
    "bytes_saved_by",
    "curvature_of_loss",
    "hessian_graph",
    "sandwich_graph",
    "scatter_of_slopes",
]

Parts: TypeAlias = list[Tensor | None]
"""One tensor for each parameter; None is zero."""

Middle: TypeAlias = Callable[[Tensor, Tensor], Callable[[Tensor, bool], Tensor]]
"""What stands between J^T and J: from the outputs and the gradient of the loss by them."""


@dataclass(frozen=True)
class Graph:
    """A batch, differentiated.

    Attributes
    ----------
    gradient : list of Tensor or None
        Of the loss by the parameters, without history.
    product : callable
        ``product(vectors, batched)``: of the matrix with vectors in the shapes of the parameters,
        or with several at once, along a first axis.
    """

    gradient: Parts
    product: Callable[[Sequence[Tensor], bool], Parts]


def hessian_graph(loss: Tensor, parameters: Sequence[Tensor]) -> Graph:
    """Return products with the Hessian of a loss by its parameters."""
    gradient = _gradient(loss, parameters, create_graph=True)

    def product(vectors: Sequence[Tensor], batched: bool) -> Parts:
        return _pulled_back(gradient, vectors, parameters, batched)

    return Graph([g if g is None else g.detach() for g in gradient], product)


def sandwich_graph(
    outputs: Tensor,
    loss: Callable[[Tensor], Tensor],
    parameters: Sequence[Tensor],
    middle: Middle,
) -> Graph:
    """Return products with ``J^T M J``, where J is the Jacobian of the outputs."""
    seed = torch.zeros_like(outputs, requires_grad=True)
    pulled = _gradient(outputs, parameters, grad_outputs=seed, create_graph=True)  # J^T u
    leaf = outputs.detach().requires_grad_()
    (slope,) = _gradient(loss(leaf), [leaf], create_graph=True)
    slope = torch.zeros_like(leaf) if slope is None else slope
    between = middle(leaf, slope)

    def product(vectors: Sequence[Tensor], batched: bool) -> Parts:
        (pushed,) = _pulled_back(pulled, vectors, [seed], batched)  # J v
        if pushed is None:
            return [None] * len(parameters)
        return _pulled_back([outputs], [between(pushed, batched)], parameters, batched)

    return Graph(_pulled_back([outputs], [slope.detach()], parameters, False), product)


def curvature_of_loss(outputs: Tensor, slope: Tensor) -> Callable[[Tensor, bool], Tensor]:
    """Return products with the Hessian of the loss by the outputs."""

    def product(vector: Tensor, batched: bool) -> Tensor:
        (found,) = _pulled_back([slope], [vector], [outputs], batched)
        return torch.zeros_like(vector) if found is None else found

    return product


def scatter_of_slopes(outputs: Tensor, slope: Tensor) -> Callable[[Tensor, bool], Tensor]:
    """Return products with ``diag(l_i l_i^T)``: l_i is the gradient by the outputs of sample i."""
    rows = slope.detach().reshape(len(slope), -1)

    def product(vector: Tensor, batched: bool) -> Tensor:
        along = vector.reshape(-1, *rows.shape) * rows
        return (along.sum(-1, keepdim=True) * rows).reshape(vector.shape)

    return product


def _gradient(
    value: Tensor,
    inputs: Sequence[Tensor],
    *,
    create_graph: bool,
    grad_outputs: Tensor | None = None,
) -> Parts:
    if not value.requires_grad:
        return [None] * len(inputs)
    return list(
        torch.autograd.grad(
            value, inputs, grad_outputs, create_graph=create_graph, allow_unused=True
        )
    )


def _pulled_back(
    values: Sequence[Tensor | None],
    vectors: Sequence[Tensor],
    inputs: Sequence[Tensor],
    batched: bool,
) -> Parts:
    """Differentiate ``sum <values, vectors>``, where values depend on the inputs at all."""
    pairs = [
        (value, vector)
        for value, vector in zip(values, vectors, strict=True)
        if value is not None and value.requires_grad
    ]
    if not pairs:
        return [None] * len(inputs)
    return list(
        torch.autograd.grad(
            [value for value, _ in pairs],
            list(inputs),
            [vector for _, vector in pairs],
            retain_graph=True,
            allow_unused=True,
            is_grads_batched=batched,
        )
    )


def bytes_saved_by(build: Callable[[], Graph], parameters: Sequence[Tensor]) -> tuple[int, Graph]:
    """Build a graph that serves for its gradient only, and count what it keeps of the memory.

    Returns
    -------
    int
        Bytes of what was saved for differentiation, parameters not counted.
    Graph
        Its products would be wrong.
    """
    own = {p.untyped_storage().data_ptr() for p in parameters}
    sizes: dict[int, int] = {}

    def noted(x: Tensor) -> Tensor:
        storage = x.untyped_storage()
        if storage.data_ptr() not in own:
            sizes[storage.data_ptr()] = storage.nbytes()
        return x.detach()  # with its history it would keep itself alive, in a circle

    with saved_tensors_hooks(noted, lambda x: x):
        graph = build()
    return sum(sizes.values()), graph
