r"""One vector for each text: ``e = (mean of the token states + state of the last token) / 2``.

Pads never count, wherever they stand: the attention mask says which tokens are text, and from it
each token gets its position, so that a model of absolute positions sees the same text too.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from send.models.hidden_states import PENULTIMATE, HiddenTap

__all__ = [
    "accepted_inputs",
    "check_pooling",
    "device_of",
    "evaluating",
    "learned_positions",
    "pool",
    "positions",
    "sentence_embedding",
]

POOLINGS = ("mean+last", "mean", "last")


def sentence_embedding(
    model: nn.Module,
    inputs: Mapping[str, Any],
    *,
    layer: int = PENULTIMATE,
    pooling: str = "mean+last",
) -> torch.Tensor:
    """Return the sentence embedding of each text, from the hidden states of one layer.

    One forward pass without gradients, in evaluation mode; the mode is restored. Of the hidden
    states only those of the layer are kept.

    Parameters
    ----------
    model : nn.Module
        A decoder-only language model of Transformers, also inside a PEFT or parallel wrapper.
    inputs : mapping
        ``input_ids`` and ``attention_mask``, each of shape (batch, tokens), as a tokenizer returns
        them. Padded at the left or at the right: the embedding is the same.
    layer : int
        Index into Transformers' ``hidden_states``; -2 is the output of the last block but one.
    pooling : {"mean+last", "mean", "last"}
        As for `pool`.

    Returns
    -------
    torch.Tensor, shape (batch, d)
        float32 at least, on the device of the layer.

    Raises
    ------
    ValueError
        If the mask is missing or marks no token of some text, the shapes differ or are empty, a
        text has more tokens than the model has positions, or the layer or the pooling does not
        exist.

    References
    ----------
    SenD (arXiv:2410.15460), Definition 3.1; the pooling is that of MIND (Su et al., 2024).

    Examples
    --------
    >>> from transformers import GPT2Config, GPT2LMHeadModel
    >>> model = GPT2LMHeadModel(GPT2Config(n_layer=3, n_head=2, n_embd=8, vocab_size=11))
    >>> ids, mask = torch.tensor([[3, 4, 5], [6, 0, 0]]), torch.tensor([[1, 1, 1], [1, 0, 0]])
    >>> tuple(sentence_embedding(model, {"input_ids": ids, "attention_mask": mask}).shape)
    (2, 8)
    """
    check_pooling(pooling)
    ids, mask = _ids_and_mask(inputs, device_of(model))
    longest, places = int((mask != 0).sum(dim=1).max()), learned_positions(model)
    if longest > places:
        msg = f"a text has {longest} tokens; {type(model).__name__} has {places:.0f} positions."
        raise ValueError(msg)
    forward = {
        "input_ids": ids,
        "attention_mask": mask,
        "position_ids": positions(mask),
        "use_cache": False,
        "logits_to_keep": 1,  # the logits are not looked at
    }
    with torch.no_grad(), evaluating(model), HiddenTap(model, layer) as tap:
        model(**accepted_inputs(model, forward))
    return pool(tap.states, mask, pooling=pooling)


def _ids_and_mask(
    inputs: Mapping[str, Any], device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    missing = [name for name in ("input_ids", "attention_mask") if name not in inputs]
    if missing:
        msg = (
            f"inputs lack {' and '.join(missing)}; expected what a tokenizer returns: "
            "tokenizer(texts, padding=True, return_attention_mask=True, return_tensors='pt')."
        )
        raise ValueError(msg)
    ids = torch.as_tensor(inputs["input_ids"], device=device)
    mask = torch.as_tensor(inputs["attention_mask"], device=device)
    if ids.ndim != 2 or ids.shape != mask.shape or 0 in ids.shape:
        msg = (
            f"input_ids have shape {tuple(ids.shape)} and attention_mask {tuple(mask.shape)}; "
            "expected (batch, tokens) for both, not empty."
        )
        raise ValueError(msg)
    return ids, mask


def pool(states: torch.Tensor, mask: torch.Tensor, *, pooling: str = "mean+last") -> torch.Tensor:
    """Return one vector for each row of token states, from the tokens that the mask marks.

    Parameters
    ----------
    states : torch.Tensor, shape (batch, tokens, d)
        Hidden states. What stands at unmarked positions, be it NaN, has no influence.
    mask : torch.Tensor, shape (batch, tokens)
        1 at the tokens that count, 0 elsewhere, in any arrangement.
    pooling : {"mean+last", "mean", "last"}
        Half the mean plus half the last marked token (Definition 3.1), or either alone.

    Returns
    -------
    torch.Tensor, shape (batch, d)
        float32, or the precision of the states where that is higher.

    Raises
    ------
    ValueError
        If the shapes do not fit, a row has no marked token, or the pooling does not exist.

    Examples
    --------
    >>> states = torch.tensor([[[2.0], [4.0], [9.0]]])
    >>> pool(states, torch.tensor([[1, 1, 0]]))
    tensor([[3.5000]])
    """
    check_pooling(pooling)
    if states.ndim != 3 or states.shape[:2] != mask.shape:
        msg = (
            f"states have shape {tuple(states.shape)} and mask {tuple(mask.shape)}; "
            "expected (batch, tokens, d) and (batch, tokens)."
        )
        raise ValueError(msg)
    marked = mask.to(states.device) != 0
    counts = marked.sum(dim=1)
    if bool((counts == 0).any()):
        rows = torch.nonzero(counts == 0).flatten().tolist()
        msg = f"no token of row {rows} is marked in the mask; an embedding needs at least one."
        raise ValueError(msg)
    states = states.to(torch.promote_types(states.dtype, torch.float32))
    # Chosen, not multiplied: 0 * NaN is NaN.
    states = torch.where(marked.unsqueeze(-1), states, 0)
    mean = states.sum(dim=1) / counts.unsqueeze(-1)
    if pooling == "mean":
        return mean
    last = states[torch.arange(len(states), device=states.device), _last_marked(marked)]
    return last if pooling == "last" else (mean + last) / 2


def _last_marked(marked: torch.Tensor) -> torch.Tensor:
    return (marked * torch.arange(marked.shape[1], device=marked.device)).amax(dim=1)


def check_pooling(pooling: str) -> None:
    """Raise a ValueError if the pooling does not exist."""
    if pooling not in POOLINGS:
        msg = f"pooling is {pooling!r}; expected one of {POOLINGS}."
        raise ValueError(msg)


def positions(mask: torch.Tensor) -> torch.Tensor:
    """Return the position of each token in its text, shape (batch, tokens): pads do not count."""
    return (mask.long().cumsum(dim=-1) - 1).clamp(min=0)


def accepted_inputs(model: nn.Module, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Return those of the inputs that the forward method of the model names.

    Not every architecture takes ``position_ids`` or ``logits_to_keep``; wrappers take anything.
    """
    inner = next((m for m in model.modules() if isinstance(m, PreTrainedModel)), model)
    names = inspect.signature(inner.forward).parameters
    return {name: value for name, value in inputs.items() if name in names}


def learned_positions(model: nn.Module) -> float:
    """Return how many tokens a text may have; a rotary model has no end of positions: infinity."""
    config: Any = next((m.config for m in model.modules() if hasattr(m, "config")), None)
    limit = getattr(config, "max_position_embeddings", None)
    rotary = getattr(config, "rope_parameters", None) is not None
    return math.inf if limit is None or rotary else float(limit)


def device_of(model: nn.Module) -> torch.device:
    """Return the device where the model takes its input: that of its first parameters."""
    return next(model.parameters()).device


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put the model in evaluation mode for a while; then each module gets back its own mode."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training
