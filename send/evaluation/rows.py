"""Rows to evaluate on: a prompt, and where there is one the reference that should follow it."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from send.data.as_dataset import as_dataset
from send.data.load_texts import load_questions
from send.models.answers import Prompt, token_ids
from send.models.tokenized_rows import IGNORED, TrackingRow, read_row

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["EvaluationRow", "draw", "read_questions", "with_reference", "with_room"]

logger = logging.getLogger(__name__)

PROMPT_COLUMNS = ("prompt", "question", "user_query")
REFERENCE_COLUMNS = ("completion", "answer", "reference")


@dataclass(frozen=True)
class EvaluationRow:
    """One prompt and its reference.

    Attributes
    ----------
    prompt : str or chat
        What the model is asked.
    reference : str or None
        The text of the answer that is expected.
    tokens : TrackingRow
        Prompt and reference as the training reads them, labels on the reference; no token without.
    """

    prompt: Prompt
    reference: str | None
    tokens: TrackingRow


def read_questions(data: Dataset | Sequence[Any] | str | Path) -> list[Any]:
    """Return rows in any of their forms as a list of prompts and dictionaries.

    Parameters
    ----------
    data : datasets.Dataset, list of dict, list of str, str or Path
        A path goes to `load_questions`; strings in a list are prompts, next to rows too.

    Returns
    -------
    list of str and dict

    Raises
    ------
    TypeError
        If it is none of these.
    ValueError
        If there is no row.
    """
    if isinstance(data, (str, Path)):
        return list(load_questions(data))
    if isinstance(data, Sequence) and data and all(isinstance(r, str | Mapping) for r in data):
        return list(data)  # a data set would have the columns of the first row alone
    return list(as_dataset(data))


def draw(rows: Sequence[Any], count: int | None, seed: int) -> list[Any]:
    """Return at most so many of the rows, drawn at random and in their order; all of them at None.

    Parameters
    ----------
    rows : sequence
        To draw from.
    count : int, optional
        How many, at least 1.
    seed : int
        Of the draw.

    Returns
    -------
    list
    """
    if count is None or count >= len(rows):
        return list(rows)
    drawn = np.random.default_rng(seed).choice(len(rows), count, replace=False)
    return [rows[i] for i in np.sort(drawn)]


def with_reference(
    row: str | Mapping[str, Any], tokenizer: PreTrainedTokenizerBase, kept: slice
) -> EvaluationRow:
    """Return a prompt, or a row of columns, with its tokens.

    Parameters
    ----------
    row : str or mapping
        A prompt, or a row as `send.evaluate` describes it.
    tokenizer : PreTrainedTokenizerBase
        Of the model.
    kept : slice
        Of the tokens of prompt and reference together.

    Returns
    -------
    EvaluationRow

    Raises
    ------
    ValueError
        If the row has none of the known columns.
    """
    if isinstance(row, str):
        return _alone(row)
    if row.get("messages"):
        *before, last = row["messages"]
        if last["role"] != "assistant":
            return _alone(row["messages"])
        return _answered(before, [last], last["content"], tokenizer, kept)
    prompt = next((row[name] for name in PROMPT_COLUMNS if row.get(name)), None)
    if prompt is not None:
        completion = next((row[name] for name in REFERENCE_COLUMNS if row.get(name)), None)
        if not completion:
            return _alone(prompt)
        text = completion if isinstance(completion, str) else completion[-1]["content"]
        return _answered(prompt, completion, text, tokenizer, kept)
    if row.get("text"):
        return _halves(row["text"], tokenizer, kept)
    msg = (
        f"a row to evaluate on has the columns {', '.join(row) or '(none)'}, or nothing in them; "
        "expected prompt, with or without completion, or messages, or text."
    )
    raise ValueError(msg)


def _alone(prompt: Prompt) -> EvaluationRow:
    """Return a prompt to which no answer is known."""
    return EvaluationRow(prompt, None, TrackingRow([], [], prompt))


def _answered(
    prompt: Any, completion: Any, text: str, tokenizer: PreTrainedTokenizerBase, kept: slice
) -> EvaluationRow:
    if not prompt or isinstance(prompt, str) is not isinstance(completion, str):
        msg = (
            f"the prompt {prompt!r:.60} does not go with the completion {completion!r:.60}; "
            "expected two texts, or messages in both."
        )
        raise ValueError(msg)
    row = {"prompt": prompt, "completion": completion}
    tokens = read_row(row, tokenizer, kept, completion_only=True)
    return EvaluationRow(prompt, text.strip(), tokens)


def _halves(text: str, tokenizer: PreTrainedTokenizerBase, kept: slice) -> EvaluationRow:
    """Return the first half of the tokens as the prompt, the rest as the reference."""
    whole = read_row({"text": text}, tokenizer, slice(None), completion_only=True)
    ids, special = whole.input_ids, set(tokenizer.all_special_ids)
    words = [i for i, token in enumerate(ids) if token not in special]
    middle = words[(len(words) + 1) // 2] if len(words) > 1 else len(ids)
    prompt = tokenizer.decode(ids[:middle], skip_special_tokens=True)
    if middle == len(ids):
        return _alone(prompt)
    labels = [IGNORED] * middle + ids[middle:]
    reference = tokenizer.decode(ids[middle:], skip_special_tokens=True).strip()
    return EvaluationRow(prompt, reference, TrackingRow(ids[kept], labels[kept], prompt))


def with_room(
    rows: Sequence[EvaluationRow],
    tokenizer: PreTrainedTokenizerBase,
    room: float,
) -> list[EvaluationRow]:
    """Return the rows whose prompts have no more tokens than there is room for, and at least one.

    Parameters
    ----------
    rows : sequence of EvaluationRow
        At least one.
    tokenizer : PreTrainedTokenizerBase
        Of the model.
    room : float
        Positions of the model that an answer leaves; infinite for a rotary model.

    Returns
    -------
    list of EvaluationRow
        What is left out is told in the log.

    Raises
    ------
    ValueError
        If none is left.
    """
    lengths = [len(ids) for ids in token_ids(tokenizer, [row.prompt for row in rows])]
    fit = [row for row, length in zip(rows, lengths, strict=True) if 0 < length <= room]
    if not fit:
        msg = (
            f"the prompts have {min(lengths)} to {max(lengths)} tokens; expected at least one with "
            f"1 to {room:.0f}, the positions of the model less the new tokens."
        )
        raise ValueError(msg)
    if len(fit) < len(rows):
        unfit = len(rows) - len(fit)
        logger.warning("left out %d of %d prompts: empty or too long", unfit, len(rows))
    return fit
