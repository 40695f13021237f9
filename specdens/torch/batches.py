"""What a loss over batches means: one sum over all data, however it is cut into batches.

A loss that is a mean over a batch weighs in the whole by the number of terms it is a mean of.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

__all__ = ["Batch", "Loss", "Model", "as_batches", "option_of"]

Batch: TypeAlias = Any
"""A pair (inputs, targets), or a mapping of arguments of the model."""

REDUCTIONS = ("mean", "sum")
NOT_A_TARGET = -100
"""The label that losses ignore, by convention of Torch and Transformers."""


def as_batches(data: Any) -> Iterable[Batch]:
    """Return something that can be iterated again and again from what users have."""
    if isinstance(data, Mapping) or _is_pair(data):
        return [data]
    if isinstance(data, (Tensor, str)) or not hasattr(data, "__iter__"):
        msg = (
            f"data is of type {type(data).__name__}; expected a DataLoader, a list of batches "
            "(inputs, targets), or one batch."
        )
        raise TypeError(msg)
    return list(data) if isinstance(data, Iterator) else data


def _is_pair(batch: Any) -> bool:
    """Whether this is one batch (inputs, targets) and not a sequence of batches."""
    return isinstance(batch, Sequence) and len(batch) == 2 and isinstance(batch[1], Tensor)


def on_device(x: Any, where: torch.device) -> Any:
    """Bring the tensors of a batch to a device."""
    if isinstance(x, Tensor):
        return x.to(where, non_blocking=True)
    if isinstance(x, Mapping):
        return {key: on_device(value, where) for key, value in x.items()}
    if isinstance(x, (tuple, list)):
        return [on_device(value, where) for value in x]
    return x


@dataclass(frozen=True)
class Model:
    """A module as a function of inputs as they come: a tensor, several, or named ones."""

    module: nn.Module
    device: torch.device

    def parts(self, batch: Batch) -> tuple[Any, Any]:
        """Return the inputs and targets of a batch, on the device of the model."""
        batch = on_device(batch, self.device)
        if isinstance(batch, Mapping):
            inputs = dict(batch)
            return inputs, inputs.pop("labels", None)
        if isinstance(batch, list) and len(batch) == 2:
            return batch[0], batch[1]
        msg = (
            f"a batch is of type {type(batch).__name__}, and not a pair (inputs, targets) nor a "
            "mapping of arguments of the model. Several inputs go into a tuple: ((x, y), targets)."
        )
        raise TypeError(msg)

    def __call__(self, inputs: Any) -> Any:
        """Return outputs; of the structured ones of Transformers, the logits."""
        # The fused attention kernels have no second derivative.
        with sdpa_kernel(SDPBackend.MATH):
            if isinstance(inputs, Mapping):
                found = self.module(**inputs)
            elif isinstance(inputs, list):
                found = self.module(*inputs)
            else:
                found = self.module(inputs)
        return getattr(found, "logits", found)

    def own_loss(self, inputs: Any, targets: Any) -> Tensor:
        """Return the loss that the module itself computes from its labels."""
        if targets is None or not isinstance(inputs, Mapping):
            msg = (
                "loss is None, but a batch is not a mapping with labels, from which the model "
                "could return its own; pass loss=, a function of outputs and targets."
            )
            raise TypeError(msg)
        with sdpa_kernel(SDPBackend.MATH):
            found: Tensor = self.module(**inputs, labels=targets).loss
        return found


class Loss:
    """A loss with what is known of its reduction.

    Parameters
    ----------
    function : callable or None
        A function of outputs and targets; None for the loss that the model returns.
    reduction : {"mean", "sum"} or None
        None to look it up: an attribute, a keyword of a partial, a default in the signature.
    terms : callable or None
        ``terms(inputs, targets)``: of how many terms the loss of a batch is the mean.
    """

    def __init__(
        self,
        function: Any,
        reduction: str | None,
        terms: Callable[[Any, Any], Any] | None,
        model: Model,
    ) -> None:
        if function is not None and not callable(function):
            msg = f"loss is of type {type(function).__name__}; expected a function or None."
            raise TypeError(msg)
        self.function, self.model, self._terms = function, model, terms
        found = option_of(function, "reduction") if reduction is None else reduction
        found = "mean" if function is None and found is None else found
        if found is not None and found not in (*REDUCTIONS, "batchmean"):
            msg = f"the reduction of the loss is {found!r}; expected one of {REDUCTIONS}."
            raise ValueError(msg)
        self.reduction = found

    def __call__(self, inputs: Any, targets: Any) -> Tensor:
        """Return the loss of a batch, a scalar."""
        if self.function is None:
            return self.model.own_loss(inputs, targets)
        return self.of_outputs(self.model(inputs), targets)

    def of_outputs(self, outputs: Any, targets: Any) -> Tensor:
        """Return the loss of a batch from its outputs."""
        assert self.function is not None
        value: Any = self.function(outputs, targets)
        if not isinstance(value, Tensor) or value.numel() != 1:
            shape = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            msg = f"the loss of a batch is {shape}; expected a scalar tensor: a mean or a sum."
            raise ValueError(msg)
        return value

    def size(self, inputs: Any, targets: Any, *, alone: bool) -> float:
        """Return how a batch weighs among others, before division by the sum of all sizes."""
        if self.reduction == "sum" or (alone and self._terms is None):
            return 1.0
        self.require_reduction("there is more than one batch")
        if self._terms is not None:
            return float(self._terms(inputs, targets))
        if not isinstance(targets, Tensor):
            msg = (
                f"targets are of type {type(targets).__name__}, so that it is unknown of how many "
                "terms the loss of a batch is the mean. Pass terms=, a function of inputs and "
                "targets that counts them."
            )
            raise TypeError(msg)
        if self.reduction == "batchmean":
            return float(len(targets))
        return self._counted(targets)

    def require_reduction(self, why: str) -> None:
        """Raise a ValueError if it is unknown whether the loss is a mean or a sum."""
        if self.reduction is None:
            msg = (
                "the loss does not say whether it is a mean or a sum over its batch, which counts "
                f'here: {why}. Pass reduction="mean" or reduction="sum".'
            )
            raise ValueError(msg)

    def _counted(self, targets: Tensor) -> float:
        """Count the targets of a mean; those that are ignored do not count, some count more."""
        if self.function is None:
            kind = str(getattr(self.model.module, "loss_type", ""))
            # The first token of a text is not predicted.
            targets = targets[..., 1:] if kind.startswith("ForCausalLM") else targets
            return float((targets != NOT_A_TARGET).sum())
        ignored, weight = (option_of(self.function, name) for name in ("ignore_index", "weight"))
        if ignored is None or targets.is_floating_point():
            return float(targets.numel())
        kept = targets[targets != ignored]
        return float(kept.numel() if weight is None else weight.to(kept.device)[kept].sum())


def option_of(function: Any, name: str) -> Any:
    """Return an option of a loss: an attribute, a keyword of a partial, or a default; or None."""
    if function is None:
        return None
    if isinstance(function, nn.Module):
        return getattr(function, name, None)
    if isinstance(function, partial):
        return function.keywords.get(name, option_of(function.func, name))
    try:
        parameter = inspect.signature(function).parameters.get(name)
    except (TypeError, ValueError):  # built into Torch
        return None
    return None if parameter is None or parameter.default is parameter.empty else parameter.default
