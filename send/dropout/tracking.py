"""The tracking set: rows that are not trained on, by which a training is watched.

At each checkpoint they give three things: their embeddings, from which sensitivity comes, the
loss on them, and, by answers sampled to prompts taken from them, an EigenScore.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from send.models.answers import Prompt, sample_answers, token_ids
from send.models.embeddings import (
    accepted_inputs,
    device_of,
    evaluating,
    learned_positions,
    pool,
)
from send.models.hidden_states import HiddenTap
from send.scores.eigenscore import eigenscore

__all__ = [
    "IGNORED",
    "TrackingRow",
    "TrackingSet",
    "Watched",
    "padded",
    "read_row",
    "read_rows",
    "with_fitting_prompts",
]

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
    found = [
        read_row(row, tokenizer, slice(max_length), completion_only=completion_only_loss)
        for row in rows
    ]
    empty = sum(not row.input_ids for row in found)
    if empty:
        logger.warning("left out %d rows of the tracking set that have no token", empty)
        found = [row for row in found if row.input_ids]
    if all(label == IGNORED for row in found for label in row.labels[1:]):
        msg = "there is nothing to predict in the tracking set; expected rows of several tokens."
        raise ValueError(msg)
    return found


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
        found = _completion(row["prompt"], row["completion"], tokenizer, kept)
        return found if completion_only else replace(found, labels=found.input_ids)
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
    whole = _ids(prompt + _ended(completion, tokenizer), tokenizer)
    alone = _ids(prompt, tokenizer, add_generation_prompt=True)
    # Where they diverge: tokens may merge across the boundary.
    pairs = zip(alone, whole, strict=False)
    common = next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(alone), len(whole)))
    labels = [IGNORED] * common + whole[common:]
    return TrackingRow(whole[kept], labels[kept], prompt)


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


def with_fitting_prompts(
    rows: Sequence[TrackingRow],
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    max_new_tokens: int,
) -> list[TrackingRow]:
    """Return the rows without those prompts that a model cannot answer; the rows themselves stay.

    A model of learned positions has no place for a long prompt and its answer, which is no reason
    not to train it.

    Raises
    ------
    ValueError
        If no prompt is left.
    """
    room = learned_positions(model) - max_new_tokens
    prompted = [row for row in rows if row.prompt]
    lengths = map(len, token_ids(tokenizer, [row.prompt for row in prompted]))
    unfit = [row for row, n in zip(prompted, lengths, strict=True) if not 0 < n <= room]
    if not unfit:
        return list(rows)
    if len(unfit) == len(prompted):
        msg = (
            "no prompt of the tracking set can be scored: with an answer of max_new_tokens = "
            f"{max_new_tokens} each has more tokens than {type(model).__name__} has positions, or "
            "none at all. Pass fewer new tokens, other rows, or score_prompts=0."
        )
        raise ValueError(msg)
    logger.warning("%d of %d prompts are too long to be scored", len(unfit), len(prompted))
    left_out = set(map(id, unfit))
    return [replace(row, prompt="") if id(row) in left_out else row for row in rows]


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


@dataclass(frozen=True, eq=False, kw_only=True)
class Watched:
    """What a forward pass of the tracking set, or of a part of it, has shown.

    Attributes
    ----------
    embeddings : ndarray of float32, shape (rows, d)
        One of each row.
    magnitudes : ndarray of float64, shape (d,)
        Mean absolute value of each index of the layer, over the tokens of all rows.
    nll : ndarray of float64, shape (rows,)
        Negative log-likelihood of a row's tokens that have a label, their sum, nats.
    tokens : ndarray of int64, shape (rows,)
        The number of these tokens.
    """

    embeddings: np.ndarray[Any, Any]
    magnitudes: np.ndarray[Any, Any]
    nll: np.ndarray[Any, Any]
    tokens: np.ndarray[Any, Any]

    @property
    def loss(self) -> float:
        """Mean negative log-likelihood of the tokens that have a label, nats."""
        return float(self.nll.sum() / self.tokens.sum())


@dataclass(frozen=True, kw_only=True)
class TrackingSet:
    """Rows, and how a model is measured on them.

    Attributes
    ----------
    rows : list of TrackingRow
        As from `read_rows`; at least one token of them has a label.
    layer, pooling
        As for `send.models.embeddings.sentence_embedding`.
    batch_size : int
        Rows at once.
    score_prompts, num_samples, max_new_tokens : int
        How many prompts, taken at random from the rows, answers to each, and tokens of an answer.
    seed : int
        Of the prompts and of the answers, which every call of `score` draws alike.
    """

    rows: list[TrackingRow]
    layer: int
    pooling: str
    batch_size: int
    score_prompts: int
    num_samples: int
    max_new_tokens: int
    seed: int

    def __post_init__(self) -> None:
        """Check that there are prompts if there is to be a score."""
        if self.score_prompts and not self.prompts:
            msg = (
                f"score_prompts is {self.score_prompts}, but the tracking set gives no prompt; "
                "pass processing_class=tokenizer to the trainer, or score_prompts=0."
            )
            raise ValueError(msg)

    @property
    def identity(self) -> dict[str, Any]:
        """What embeddings depend on besides the model; the same on every machine."""
        content = json.dumps([[row.input_ids, row.labels] for row in self.rows])
        digest = hashlib.sha256(content.encode()).hexdigest()
        return {"tracking set": digest, "layer": self.layer, "pooling": self.pooling}

    @cached_property
    def prompts(self) -> list[Prompt]:
        """The prompts to which answers are sampled, in the order of the rows."""
        usable = [row.prompt for row in self.rows if row.prompt]
        count = min(self.score_prompts, len(usable))
        drawn = np.random.default_rng(self.seed).choice(len(usable), count, replace=False)
        return [usable[i] for i in np.sort(drawn)]

    def watch(self, model: nn.Module, *, part: bool = False) -> Watched:
        """Return the embeddings of the rows and the losses of their tokens, by one forward pass.

        In evaluation mode and without gradients; the mode is restored. Pads count in nothing.

        Parameters
        ----------
        model : nn.Module
            A causal language model.
        part : bool
            Whether to take only the rows of `part`, in their order.

        Returns
        -------
        Watched
        """
        rows = [self.rows[i] for i in self.part] if part else self.rows
        found = []
        with torch.no_grad(), evaluating(model), HiddenTap(model, self.layer) as tap:
            for start in range(0, len(rows), self.batch_size):
                found.append(self._watch(rows[start : start + self.batch_size], model, tap))
        embeddings, sizes, nll, tokens = (
            torch.cat(each).cpu().numpy() for each in zip(*found, strict=True)
        )
        return Watched(
            embeddings=embeddings,
            magnitudes=sizes.sum(axis=0, dtype=np.float64)
            / sum(len(row.input_ids) for row in rows),
            nll=nll.astype(np.float64),
            tokens=tokens,
        )

    def _watch(
        self, rows: Sequence[TrackingRow], model: nn.Module, tap: HiddenTap
    ) -> tuple[torch.Tensor, ...]:
        ids, mask, labels = (each.to(device_of(model)) for each in padded(rows))
        inputs = {"input_ids": ids, "attention_mask": mask, "use_cache": False}
        logits = model(**accepted_inputs(model, inputs)).logits
        counted = labels[:, 1:] != IGNORED
        predicted, actual = logits[:, :-1][counted].float(), labels[:, 1:][counted]
        nll = functional.cross_entropy(predicted, actual, reduction="none")
        tokens = counted.sum(dim=1)
        return (
            pool(tap.states, mask, pooling=self.pooling).float(),
            tap
            .states[mask.to(tap.states.device) != 0]
            .abs()
            .sum(dim=0, keepdim=True, dtype=torch.float32),
            torch.stack([of_row.sum() for of_row in torch.split(nll, tokens.tolist())]),
            tokens,
        )

    @cached_property
    def part(self) -> np.ndarray[Any, Any]:
        """The rows on which the jump of the loss is measured: batches of about a tenth of them.

        At least one batch; evenly spaced, since rows of a kind often stand together.
        """
        batches = np.split(
            np.arange(len(self.rows)), range(self.batch_size, len(self.rows), self.batch_size)
        )
        count = max(1, len(batches) // 10)
        return np.concatenate([batches[i * len(batches) // count] for i in range(count)])

    def loss_jump(self, model: nn.Module, before: Watched) -> tuple[float | None, float | None]:
        """Return by how much the loss is higher than it was, on the rows of `part`.

        Parameters
        ----------
        model : nn.Module
            The model, after a change.
        before : Watched
            What all rows gave before it.

        Returns
        -------
        jump, stderr : float or None
            Nats per token, and the standard error over rows. None if no token of the part has a
            label; no error from a single row.
        """
        now, tokens = self.watch(model, part=True), before.tokens[self.part]
        if not tokens.any():
            return None, None
        rise = now.nll - before.nll[self.part]
        jump, rows = float(rise.sum() / tokens.sum()), np.count_nonzero(tokens)
        if rows == 1:
            return jump, None
        off = float(np.sum((rise - jump * tokens) ** 2)) * rows / (rows - 1)
        return jump, math.sqrt(off) / float(tokens.sum())

    def score(
        self, model: Any, tokenizer: PreTrainedTokenizerBase | None
    ) -> tuple[float | None, float | None]:
        """Return the mean EigenScore of sampled answers and its standard error over prompts.

        Parameters
        ----------
        model : PreTrainedModel
            A causal language model that generates.
        tokenizer : PreTrainedTokenizerBase
            Its tokenizer.

        Returns
        -------
        mean, stderr : float or None
            None without prompts; no error from a single one.
        """
        prompts = self.prompts
        if not prompts:
            return None, None
        samples = sample_answers(
            model,
            tokenizer,
            prompts,
            num_samples=self.num_samples,
            max_new_tokens=self.max_new_tokens,
            layer=self.layer,
            pooling=self.pooling,
            seed=self.seed,
        )
        scores = eigenscore(samples.embeddings).tolist()
        stderr = float(np.std(scores, ddof=1)) / math.sqrt(len(scores)) if len(scores) > 1 else None
        return float(np.mean(scores)), stderr
