"""Which layer: the decoder block whose output is ``hidden_states[layer]``, read by a forward hook.

The blocks are found by shape (a `ModuleList` as long as ``config.num_hidden_layers``), not by an
architecture's attribute names, so that one code serves every causal language model.
"""

from __future__ import annotations

from types import TracebackType
from typing import Any

import torch
from torch import nn

__all__ = ["HiddenTap", "block_at", "decoder_blocks", "hidden_size", "states_of"]

PENULTIMATE = -2
"""The layer of the SenD paper: ``hidden_states[-2]``, the output of the last block but one."""


def decoder_blocks(model: nn.Module) -> nn.ModuleList:
    """Return the decoder blocks of a causal language model, first to last.

    Parameters
    ----------
    model : nn.Module
        A Transformers causal language model, also inside a PEFT or parallel wrapper.

    Returns
    -------
    nn.ModuleList
        Block ``i`` computes ``hidden_states[i + 1]`` from ``hidden_states[i]``.

    Raises
    ------
    ValueError
        If it is no decoder-only model, or no unique list of ``config.num_hidden_layers`` different
        blocks is found.

    Examples
    --------
    >>> from transformers import GPT2Config, GPT2LMHeadModel
    >>> model = GPT2LMHeadModel(GPT2Config(n_layer=3, n_head=2, n_embd=8, vocab_size=11))
    >>> len(decoder_blocks(model))
    3
    """
    name, config = type(model).__name__, _config(model)
    count = getattr(config, "num_hidden_layers", None)
    if getattr(config, "is_encoder_decoder", False):
        msg = f"{name} is an encoder-decoder; expected a decoder-only (causal) language model."
        raise ValueError(msg)
    if count is None:
        msg = (
            f"{name} has no config.num_hidden_layers; "
            "expected a decoder-only language model of Transformers."
        )
        raise ValueError(msg)
    found = {
        path: module
        for path, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) == count
    }
    # A list inside a block (experts, say) may have the same length: the blocks are the outermost.
    outermost = {
        path: module
        for path, module in found.items()
        if not any(module is not other and _contains(other, module) for other in found.values())
    }
    if len(outermost) != 1:
        where = f" ({', '.join(outermost)})" if outermost else ""
        msg = (
            f"{name} has {len(outermost)} lists of num_hidden_layers = {count} blocks{where}; "
            "expected exactly one, a ModuleList: which of its blocks computes which hidden state "
            "cannot be told."
        )
        raise ValueError(msg)
    (blocks,) = outermost.values()
    _check_blocks(name, blocks)
    return blocks


def hidden_size(model: nn.Module) -> int:
    """Return d, the number of embedding indices: the width of the residual stream."""
    return int(_config(model).hidden_size)


def _config(model: nn.Module) -> Any:
    """Return the configuration of the language model inside any wrapper, None without one."""
    # A parallel wrapper has none of its own, and an engine's is of another kind.
    for module in model.modules():
        config: Any = getattr(module, "config", None)
        text = config.get_text_config() if hasattr(config, "get_text_config") else config
        if hasattr(text, "num_hidden_layers"):
            return text
    return None


def _check_blocks(name: str, blocks: nn.ModuleList) -> None:
    if len(set(map(id, blocks))) < len(blocks):
        msg = f"{name} uses one block for several layers; expected a block of its own for each."
        raise ValueError(msg)
    if any(getattr(module, "is_causal", None) is False for module in blocks.modules()):
        msg = (
            f"{name} attends in both directions, as an encoder does; expected a decoder-only "
            "(causal) language model."
        )
        raise ValueError(msg)


def _contains(outer: nn.Module, inner: nn.Module) -> bool:
    return any(module is inner for module in outer.modules())


def block_at(model: nn.Module, layer: int = PENULTIMATE) -> nn.Module:
    """Return the block whose output is ``hidden_states[layer]``.

    Parameters
    ----------
    model : nn.Module
        As for `decoder_blocks`.
    layer : int
        Index into Transformers' ``hidden_states``, of length ``num_hidden_layers + 1``. Index 0 is
        the embedding and the last one passes the final norm: neither is the output of a block.

    Returns
    -------
    nn.Module

    Raises
    ------
    ValueError
        If no block computes that hidden state.
    """
    blocks = decoder_blocks(model)
    index = layer + len(blocks) + 1 if layer < 0 else layer
    if not 1 <= index < len(blocks):
        msg = (
            f"layer {layer} is not the output of a decoder block: this model has {len(blocks)} "
            f"blocks, so layer must lie in 1..{len(blocks) - 1}, or -{len(blocks)}..-2."
        )
        raise ValueError(msg)
    block = blocks[index - 1]
    # What is compiled for itself is a wrapper of the block, whose own hooks are compiled with it.
    inner: nn.Module = getattr(block, "_orig_mod", block)
    return inner


def states_of(output: Any) -> torch.Tensor:
    """Return the hidden states in a block's output: a tensor, or a tuple or list that begins so."""
    states: torch.Tensor = output[0] if isinstance(output, tuple | list) else output
    return states


class HiddenTap:
    """A context in which each forward pass leaves ``hidden_states[layer]`` in ``tap.states``.

    Only one layer is kept, unlike with ``output_hidden_states=True``, and only of the last pass.

    Parameters
    ----------
    model : nn.Module
        As for `decoder_blocks`.
    layer : int
        As for `block_at`.

    Examples
    --------
    >>> from transformers import GPT2Config, GPT2LMHeadModel
    >>> model = GPT2LMHeadModel(GPT2Config(n_layer=3, n_head=2, n_embd=8, vocab_size=11)).eval()
    >>> with HiddenTap(model) as tap:
    ...     _ = model(torch.tensor([[1, 2, 3]]))
    >>> tuple(tap.states.shape)
    (1, 3, 8)
    """

    def __init__(self, model: nn.Module, layer: int = PENULTIMATE) -> None:
        self._block = block_at(model, layer)
        self._states: torch.Tensor | None = None

    @property
    def states(self) -> torch.Tensor:
        """The hidden states of the last forward pass, shape (batch, tokens, d).

        Raises
        ------
        RuntimeError
            If there was none yet.
        """
        if self._states is None:
            msg = "no forward pass has gone through the tapped block yet"
            raise RuntimeError(msg)
        return self._states

    def __enter__(self) -> HiddenTap:
        self._handle = self._block.register_forward_hook(self._keep)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._handle.remove()

    def _keep(self, _module: nn.Module, _inputs: Any, output: Any) -> None:
        self._states = states_of(output)
