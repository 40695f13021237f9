"""The tracking set: rows that are not trained on, by which a training is watched.

At each checkpoint they give three things: their embeddings, from which sensitivity comes, the
loss on them, and, by answers sampled to prompts taken from them, an EigenScore.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Sequence
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
from send.models.tokenized_rows import IGNORED, TrackingRow, padded
from send.scores.eigenscore import eigenscore

__all__ = ["TrackingSet", "Watched", "with_fitting_prompts"]

logger = logging.getLogger(__name__)


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
        As from `send.models.tokenized_rows.read_rows`; at least one token of them has a label.
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
