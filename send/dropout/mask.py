"""Dropping embedding indices while training: a hook zeroes them in the output of one block."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any

import torch
from torch import nn

from send.models.hidden_states import PENULTIMATE, block_at, hidden_size, states_of

__all__ = ["SensitivityMask"]


class SensitivityMask:
    """A 0/1 vector by which the output of one decoder block is multiplied while the model trains.

    Weights stay as they are, and so does everything in eval mode: evaluation and generation see the
    whole model. The hook is registered once, and nothing of it is in the model's ``state_dict``.
    A change of the mask is written into the tensors that the hook reads: compiled code goes on as
    it is, if the mask was made before the first compiled pass. Changing it between two steps is
    safe with gradient checkpointing, which runs the hook again within the step.

    Parameters
    ----------
    model : nn.Module
        A causal language model of Transformers, also inside PEFT.
    layer : int
        Index into ``hidden_states``; -2, the paper's, is the output of the last block but one. The
        output is the residual stream: a dropped index loses what earlier blocks wrote into it too.
    rescale : bool
        Whether to multiply the other indices by ``d / (d - dropped)``, as ordinary dropout does.
        Off, because a norm follows anyway.

    Raises
    ------
    ValueError
        If no block computes that hidden state.

    References
    ----------
    SenD (arXiv:2410.15460), Algorithm 2.

    Examples
    --------
    >>> from transformers import GPT2Config, GPT2LMHeadModel
    >>> model = GPT2LMHeadModel(GPT2Config(n_layer=3, n_head=2, n_embd=8, vocab_size=11))
    >>> with SensitivityMask(model) as mask:
    ...     mask.set([1, 5])
    ...     mask.indices
    (1, 5)
    """

    def __init__(
        self, model: nn.Module, layer: int = PENULTIMATE, *, rescale: bool = False
    ) -> None:
        block = block_at(model, layer)
        size, device = hidden_size(model), _device_of(block)
        self.rescale = rescale
        self._indices: tuple[int, ...] = ()
        self._everywhere = False
        # Booleans, not 0.0 and 1.0: they fit every precision, and 0 * inf would be NaN.
        self._dropped = torch.zeros(size, dtype=torch.bool, device=device)
        self._scale = torch.ones((), device=device)
        self._handle = block.register_forward_hook(self._apply)

    @property
    def indices(self) -> tuple[int, ...]:
        """The dropped indices, ascending; empty when released."""
        return self._indices

    @property
    def size(self) -> int:
        """d, the number of embedding indices."""
        return len(self._dropped)

    @property
    def active(self) -> bool:
        """Whether any index is dropped in training mode."""
        return bool(self._indices)

    def set(self, indices: Iterable[int]) -> None:
        """Drop these indices from now on, instead of those before.

        Parameters
        ----------
        indices : iterable of int
            Each in 0..d-1. None at all is the same as `release`.

        Raises
        ------
        ValueError
            If an index is out of range, or all are dropped.
        TypeError
            If an index is not an integer.
        """
        chosen = sorted({operator.index(i) for i in indices})
        d = len(self._dropped)
        if chosen and not (chosen[0] >= 0 and chosen[-1] < d):
            msg = f"indices {chosen[0]}..{chosen[-1]} do not lie in 0..{d - 1} (hidden size {d})."
            raise ValueError(msg)
        if len(chosen) == d:
            msg = f"all {d} indices would be dropped; leave at least one."
            raise ValueError(msg)
        self._indices = tuple(chosen)
        dropped = torch.zeros(d, dtype=torch.bool)
        dropped[chosen] = True
        self._dropped.copy_(dropped)
        self._scale.fill_(d / (d - len(chosen)))

    def release(self) -> None:
        """Drop nothing: the block's output passes unchanged."""
        self.set(())

    @contextmanager
    def everywhere(self) -> Iterator[None]:
        """Apply the mask in eval mode too, inside this context: to measure what it does."""
        self._everywhere = True
        try:
            yield
        finally:
            self._everywhere = False

    def remove(self) -> None:
        """Take the hook out of the model, for good; safe to call twice."""
        self._handle.remove()

    def __enter__(self) -> SensitivityMask:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.remove()

    def _apply(self, block: nn.Module, _inputs: Any, output: Any) -> Any:
        if not (block.training or self._everywhere):
            return None
        # Compiled code is the same for every mask: it must not depend on whether there is one.
        if not (torch.compiler.is_compiling() or self.active):
            return None
        states = states_of(output)
        # Moved only if the model was, or is replicated over devices: not kept, for the next one.
        masked = states.masked_fill(self._dropped.to(states.device), 0)
        if self.rescale:
            masked = masked * self._scale.to(masked)
        return masked if isinstance(output, torch.Tensor) else (masked, *output[1:])


def _device_of(block: nn.Module) -> torch.device:
    """Return where a block computes, if its parameters tell: those that are offloaded do not."""
    device = next((p.device for p in block.parameters()), torch.device("cpu"))
    return torch.device("cpu") if device.type == "meta" else device
