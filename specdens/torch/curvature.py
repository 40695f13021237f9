"""The curvature of a loss over data, by the parameters of a model, as an operator."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Iterable, Iterator, Sized
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from specdens.arrays.libraries import namespace, require_finite
from specdens.operators.linear_operator import LinearOperator, Step
from specdens.recurrences.step import plain_step
from specdens.torch.batches import Batch, Loss, Model
from specdens.torch.graphs import (
    Graph,
    Middle,
    bytes_saved_by,
    hessian_graph,
    sandwich_graph,
    scatter_of_slopes,
)

__all__ = ["CurvatureOperator", "Objective"]

IN_CACHE = 2**23
"""Bytes beyond which wider blocks only lose the cache of a CPU: per vector, a block of 32 took 0.5
times as long as single vectors where each saves 1 MB, but 1.6 and 2.9 times at 5 and 16 MB."""

DEFAULT_MEMORY = 2**31
"""Bytes where the system does not tell what is free."""


@dataclass(frozen=True)
class Objective:
    """A loss over data as a function of parameters, with the kind of curvature that is wanted.

    Attributes
    ----------
    middle : callable or None
        What stands between ``J^T`` and ``J``; None for the Hessian.
    """

    model: Model
    loss: Loss
    data: Iterable[Batch]
    parameters: list[nn.Parameter]
    middle: Middle | None

    def samples(self, targets: Any) -> int:
        """Count the samples of a batch, if the matrix is a mean of their squares; else 0."""
        if self.middle is not scatter_of_slopes or self.loss.reduction == "sum":
            return 0
        if not isinstance(targets, Tensor):
            msg = f"targets are of type {type(targets).__name__}; expected a tensor, by samples."
            raise TypeError(msg)
        return len(targets)

    def batches(self) -> Iterator[tuple[Any, Any, float]]:
        """Give inputs, targets and size of each batch.

        Yields
        ------
        tuple
        """
        alone = isinstance(self.data, Sized) and len(self.data) == 1
        for batch in self.data:
            inputs, targets = self.model.parts(batch)
            yield inputs, targets, self.loss.size(inputs, targets, alone=alone)

    def graph(self, inputs: Any, targets: Any, weight: float) -> Graph:
        """Differentiate the loss of a batch, times its weight."""
        # Not inference mode: nothing made in it can be differentiated.
        with torch.inference_mode(False), torch.enable_grad():
            if self.middle is None:
                return hessian_graph(weight * self.loss(inputs, targets), self.parameters)
            outputs = self.model(inputs)
            if not isinstance(outputs, Tensor):
                msg = (
                    f"the model returns a {type(outputs).__name__}; expected a tensor of outputs, "
                    "or an object that has it as .logits."
                )
                raise TypeError(msg)
            return sandwich_graph(
                outputs,
                lambda leaf: weight * self.loss.of_outputs(leaf, targets),
                self.parameters,
                self.middle,
            )


class CurvatureOperator(LinearOperator):
    """A curvature matrix of a loss over data, by the parameters of a model, never formed.

    Made by `hessian_operator`, `gauss_newton_operator` and `fisher_operator`. It is that of the
    parameters as they were: where they have changed since, products raise a ValueError.

    Attributes
    ----------
    parameters : list of Parameter
        Entries of vectors are in their order, as of ``torch.nn.utils.parameters_to_vector``.
    gradient : Tensor, shape (n,)
        Of the loss, by the way.
    keeps_graphs : bool
        Whether the graphs of all batches are kept, or built again in each product.
    width : int
        How many vectors are multiplied at once.
    """

    widths = tuple(range(1, 33))

    def __init__(
        self, objective: Objective, *, graph_memory: float | None, check_deterministic: bool
    ) -> None:
        self._objective, self.parameters = objective, objective.parameters
        first = self.parameters[0]
        self._sizes = [p.numel() for p in self.parameters]
        n = sum(self._sizes)
        xp = namespace(first.detach())
        super().__init__((n, n), dtype=first.dtype, xp=xp, device=first.device)
        self.hermitian = True
        self._state = self._versions()
        self._vectorises = True
        self._survey(_memory(first.device) if graph_memory is None else graph_memory)
        again = self.keeps_graphs or check_deterministic
        self._graphs = self._second_pass(check_deterministic) if again else []

    def _survey(self, graph_memory: float) -> None:
        """Pass over the data once: gradient, sizes of batches, memory that their graphs take."""
        gradient = torch.zeros(sum(self._sizes), dtype=self.dtype, device=self.device)
        total = samples = length = memory = largest = 0.0
        for inputs, targets, size in self._objective.batches():
            taken, graph = bytes_saved_by(
                partial(self._objective.graph, inputs, targets, size), self.parameters
            )
            length += self._add_gradient(graph, gradient)
            samples += self._objective.samples(targets)
            total, memory, largest = total + size, memory + taken, max(largest, taken)
        if total <= 0:
            msg = "data holds no batch with a target; expected one at least."
            raise ValueError(msg)
        self._total = total = 1.0 if self._objective.loss.reduction == "sum" else total
        self._factor = samples or 1.0  # the squares of shares of 1/N are N times too small
        self.gradient, self._length = gradient / total, length / total
        require_finite(self.gradient, "the gradient of the loss")
        self.keeps_graphs = memory <= graph_memory / 2
        room = graph_memory / 2 if self.device.type != "cpu" else min(graph_memory / 2, IN_CACHE)
        self.width = max(1, int(room / max(largest, 1)))

    def _second_pass(self, check: bool) -> list[Graph]:
        """Build the graphs that are kept; compare the gradient with that of the first pass."""
        kept, gradient = [], torch.zeros_like(self.gradient)
        for graph in self._built():
            self._add_gradient(graph, gradient)
            kept += [graph] if self.keeps_graphs else []
        difference = float(torch.linalg.vector_norm(gradient - self.gradient))
        if check and not difference <= math.sqrt(self.unit) * self._length:
            msg = (
                "two passes over the data give different gradients, off by "
                f"{difference / max(self._length, 1e-300):.2g} of their size: the model or the "
                "data is random. Call model.eval(), which stops dropout, and take random "
                "augmentation out of the data; check_deterministic=False lets it pass."
            )
            raise ValueError(msg)
        return kept

    def _built(self) -> Iterator[Graph]:
        """Give the graph of each batch, weighted by its share of the loss.

        Yields
        ------
        Graph
        """
        for inputs, targets, size in self._objective.batches():
            yield self._objective.graph(inputs, targets, size / self._total)

    def _add_gradient(self, graph: Graph, total: Tensor) -> float:
        """Add the gradient of a batch; return its length."""
        parts = torch.zeros_like(total)
        for place, part in zip(torch.split(parts, self._sizes), graph.gradient, strict=True):
            if part is not None:
                place.copy_(part.reshape(-1))
        total += parts
        return float(torch.linalg.vector_norm(parts))

    def _versions(self) -> list[int]:
        return [p._version for p in self._objective.model.module.parameters()]

    @torch.no_grad()
    def _matmat(self, x: Tensor) -> Tensor:
        if self._versions() != self._state:
            msg = "the parameters of the model have changed since; make the operator again."
            raise ValueError(msg)
        rows = x.T.contiguous()  # each vector in one piece
        total = torch.zeros_like(rows)
        for graph in self._graphs if self.keeps_graphs else self._built():
            for start in range(0, len(rows), self.width):
                chunk = slice(start, start + self.width)
                self._add_products(graph, rows[chunk], total[chunk])
        total *= self._factor
        return total.T.contiguous()

    def recurrence(self, columns: int) -> Step:
        """Return the plain step, which does not wait for the device; nothing is padded."""
        return plain_step(self, wait=False)

    def _add_products(self, graph: Graph, rows: Tensor, total: Tensor) -> None:
        if len(rows) > 1 and self._vectorises:
            try:
                with warnings.catch_warnings():
                    # Some operations are known to vmap, but one column at a time.
                    warnings.filterwarnings("ignore", "There is a performance drop")
                    self._add(total, graph.product(self._shaped(rows), True))
            except RuntimeError:  # an operation that vmap does not know at all
                self._vectorises = False
            else:
                return
        for row, place in zip(rows, total, strict=True):
            self._add(place, graph.product(self._shaped(row), False))

    def _shaped(self, rows: Tensor) -> list[Tensor]:
        """Return the pieces of vectors in the shapes of the parameters."""
        return [
            piece.reshape(*rows.shape[:-1], *p.shape)
            for piece, p in zip(
                torch.split(rows, self._sizes, dim=-1), self.parameters, strict=True
            )
        ]

    def _add(self, total: Tensor, parts: list[Tensor | None]) -> None:
        for place, part in zip(torch.split(total, self._sizes, dim=-1), parts, strict=True):
            if part is not None:
                place += part.reshape(place.shape)


def _memory(where: torch.device) -> float:
    """Return half of the bytes that are free on a device."""
    if where.type == "cuda":
        return torch.cuda.mem_get_info(where)[0] / 2
    if where.type == "cpu" and hasattr(os, "sysconf") and "SC_AVPHYS_PAGES" in os.sysconf_names:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2
    return DEFAULT_MEMORY
