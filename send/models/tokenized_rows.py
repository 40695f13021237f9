"""Rows as a model reads them: token ids, and which of them the loss is on, as TRL makes them."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from send.models.answers import Prompt

__all__ = ["IGNORED", "TrackingRow", "padded", "read_row", "read_rows"]

logger = logging.getLogger(__name__)

IGNORED = -100
"""The label of a token that the loss passes over."""


@dataclass(frozen=True)
class TrackingRow:
    """One row of the tracking set.

    Attributes
    ----------
    input_ids : list of int
        Its tokens, without pads.
    labels : list of int
        The same tokens, those outside the loss replaced by -100.
    prompt : str or chat
        What answers are sampled to; empty if there is no tokenizer to write it with.
    """

    input_ids: list[int]
    labels: list[int]
    prompt: Prompt


def read_rows(
    rows: Sequence[Mapping[str, Any]],
    tokenizer: PreTrainedTokenizerBase | None = None,
    *,
    max_length: int | None = None,
    completion_only_loss: bool = True,
) -> list[TrackingRow]:
    """Return the rows of a tracking set as tokens, in the way in which TRL makes them to train on.

    Parameters
    ----------
    rows : sequence of mappings
        Each with ``text`` (loss on all of it; the prompt is its first half), ``prompt`` and
        ``completion`` (loss on the completion), ``messages`` (loss on all of it; the prompt is the
        chat before its last message), or ``input_ids``, and with it, if wanted, ``labels`` and
        ``attention_mask`` (pads are left out; the prompt is what precedes the first label, or else
        the first half).
    tokenizer : PreTrainedTokenizerBase, optional
        Needed for all but ``input_ids``.
    max_length : int, optional
        Tokens of a row beyond it are cut off.
    completion_only_loss : bool
        Whether of ``prompt`` and ``completion`` the loss is on the completion only, TRL's default.

    Returns
    -------
    list of TrackingRow
        Rows without any token are left out, with a warning in the log.

    Raises
    ------
    ValueError
        If a row has other columns, a tokenizer is needed and missing, or no token has a label.

    Examples
    --------
    >>> read_rows([{"input_ids": [5, 6, 7, 0], "attention_mask": [1, 1, 1, 0]}])
    [TrackingRow(input_ids=[5, 6, 7], labels=[5, 6, 7], prompt='')]
    """
    read = [
        read_row(row, tokenizer, slice(max_length), completion_only=completion_only_loss)
        for row in rows
    ]
    empty = sum(not row.input_ids for row in read)
    if empty:
        logger.warning("left out %d rows of the tracking set that have no token", empty)
        read = [row for row in read if row.input_ids]
    if all(label == IGNORED for row in read for label in row.labels[1:]):
        msg = "there is nothing to predict in the tracking set; expected rows of several tokens."
        raise ValueError(msg)
    return read


def read_row(
    row: Mapping[str, Any],
    tokenizer: PreTrainedTokenizerBase | None,
    kept: slice,
    *,
    completion_only: bool,
) -> TrackingRow:
    """Return one row as `read_rows` does, its tokens from `kept`; it may have none."""
    if "input_ids" in row:
        return _tokenized(row, tokenizer, kept)
    if tokenizer is None:
        msg = (
            "the tracking set holds text, but the trainer has no tokenizer; pass "
            "processing_class=tokenizer to the trainer, or rows with input_ids."
        )
        raise ValueError(msg)
    if {"prompt", "completion"} <= row.keys():
        read = _completion(row["prompt"], row["completion"], tokenizer, kept)
        return read if completion_only else replace(read, labels=read.input_ids)
    if "messages" in row:
        ids = _ids(row["messages"], tokenizer)[kept]
        return TrackingRow(ids, ids, row["messages"][:-1] or row["messages"])
    if "text" in row:
        ids = _ids(_ended(row["text"], tokenizer), tokenizer)[kept]
        return TrackingRow(ids, ids, _first_half(ids, tokenizer))
    msg = (
        f"a row of the tracking set has the columns {', '.join(row)}; expected text, or prompt and "
        "completion, or messages, or input_ids."
    )
    raise ValueError(msg)


def _tokenized(
    row: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase | None, kept: slice
) -> TrackingRow:
    marked = np.asarray(row.get("attention_mask", np.ones(len(row["input_ids"])))) != 0
    ids = np.asarray(row["input_ids"])[marked][kept].tolist()
    labels = np.asarray(row.get("labels", row["input_ids"]))[marked][kept].tolist()
    before = next((i for i, label in enumerate(labels) if label != IGNORED), 0)
    if tokenizer is None:
        return TrackingRow(ids, labels, "")
    prompt = tokenizer.decode(ids[:before], skip_special_tokens=True)
    return TrackingRow(ids, labels, prompt or _first_half(ids, tokenizer))


def _completion(
    prompt: Any, completion: Any, tokenizer: PreTrainedTokenizerBase, kept: slice
) -> TrackingRow:
    ids = _ids(prompt + _ended(completion, tokenizer), tokenizer)
    alone = _ids(prompt, tokenizer, add_generation_prompt=True)
    # Where they diverge: tokens may merge across the boundary.
    pairs = zip(alone, ids, strict=False)
    common = next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(alone), len(ids)))
    labels = [IGNORED] * common + ids[common:]
    return TrackingRow(ids[kept], labels[kept], prompt)


def _ids(
    content: Any, tokenizer: PreTrainedTokenizerBase, *, add_generation_prompt: bool = False
) -> list[int]:
    if isinstance(content, str):
        return list(tokenizer(content)["input_ids"])
    encoded = tokenizer.apply_chat_template(
        content, add_generation_prompt=add_generation_prompt, return_dict=True
    )
    return list(encoded["input_ids"])


def _ended(content: Any, tokenizer: PreTrainedTokenizerBase) -> Any:
    """Return a text with the end token after it; a chat template ends a chat itself."""
    end = tokenizer.eos_token
    if not isinstance(content, str) or end is None or content.endswith(end):
        return content
    return content + end


def _first_half(ids: list[int], tokenizer: PreTrainedTokenizerBase) -> str:
    words = [i for i in ids if i not in tokenizer.all_special_ids]
    return str(tokenizer.decode(words[: math.ceil(len(words) / 2)]))


def padded(rows: Sequence[TrackingRow]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return ids, attention mask and labels of rows, padded at the right."""
    shape = len(rows), max(len(row.input_ids) for row in rows)
    ids, mask = torch.zeros(shape, dtype=torch.long), torch.zeros(shape, dtype=torch.long)
    labels = torch.full(shape, IGNORED)
    for i, row in enumerate(rows):
        ids[i, : len(row.input_ids)] = torch.tensor(row.input_ids)
        labels[i, : len(row.labels)] = torch.tensor(row.labels)
        mask[i, : len(row.input_ids)] = 1
    return ids, mask, labels
