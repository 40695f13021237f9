"""Evaluation of a model on prompts: how its answers differ, and how near they are to references.

Each number is a mean over prompts with its interval, never one over all answers together: the
answers to one prompt are no independent sample of what might be asked.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from send.detection.score_table import Numbers, ScoreTable
from send.detection.scorer import HallucinationScorer
from send.dropout.options import keywords_of
from send.evaluation.intervals import Metric, mean_over_prompts
from send.evaluation.options import EvaluationOptions
from send.evaluation.rouge import rouge_l
from send.evaluation.rows import EvaluationRow, draw, read_questions, with_reference, with_room
from send.models.embeddings import accepted_inputs, device_of, evaluating, learned_positions
from send.models.generation_options import DEFAULT_BATCH
from send.models.tokenized_rows import IGNORED, TrackingRow, padded

if TYPE_CHECKING:
    import pandas as pd
    from datasets import Dataset

__all__ = ["METRICS", "Evaluation", "evaluate", "reference_nll"]

METRICS = (
    "eigenscore",
    "ees",
    "entropy",
    "distinct",
    "length",
    "loss",
    "perplexity",
    "rouge_l",
)
"""The names of all metrics; the last three need references."""

OF_THE_SCORER = (
    "num_samples",
    "temperature",
    "top_k",
    "top_p",
    "max_new_tokens",
    "alpha",
    "batch_size",
    "seed",
)
"""Options that a scorer takes with each call."""

READ_SHARE = 4
"""Of references fewer are read at once than answers generated: all their tokens need logits."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Evaluation:
    """What a model answered to P prompts, and the metrics of that.

    Attributes
    ----------
    scores : ScoreTable
        Answers and scores, a row for each prompt.
    reference : list of str or None, length P
        The answers that were expected; None where none was given.
    reference_nll : ndarray, shape (P,)
        Mean negative log-likelihood of a token of the reference, after its prompt, in nats; NaN
        without reference.
    reference_tokens : ndarray of int, shape (P,)
        How many tokens that is the mean of, the end token one of them.
    rouge_l : ndarray, shape (P,)
        ROUGE-L F1 of the greedy answer and the reference; NaN without reference.
    level : float
        Coverage of the intervals of `metrics`.
    """

    scores: ScoreTable
    reference: list[str | None]
    reference_nll: Numbers
    reference_tokens: Numbers
    rouge_l: Numbers
    level: float

    def __len__(self) -> int:
        return len(self.scores)

    def __str__(self) -> str:
        lines = [f"{name:<12}{metric}" for name, metric in self.metrics.items()]
        return "\n".join([
            f"{len(self)} prompts, {100 * self.level:.4g} % intervals over them",
            *lines,
        ])

    @cached_property
    def metrics(self) -> dict[str, Metric]:
        """The metrics by name, in the order of `METRICS`; without references, not the last three.

        ``eigenscore``, ``ees``, ``entropy``, ``distinct`` and ``length`` are means of the columns
        of `scores` (``length``: of ``mean_length``), ``rouge_l`` is that of the column here, with
        Student t intervals, of ROUGE-L cut to between 0 and 1. ``loss`` is the mean over all tokens
        of the references, as the loss of a trainer is, with the interval of a ratio;
        ``perplexity`` is its exponential.
        """
        columns = {
            "eigenscore": self.scores.eigenscore,
            "ees": self.scores.ees,
            "entropy": self.scores.entropy,
            "distinct": self.scores.distinct,
            "length": self.scores.mean_length,
        }
        found = {
            name: mean_over_prompts(column, level=self.level) for name, column in columns.items()
        }
        read = self.reference_tokens > 0
        if read.any():
            found["loss"] = mean_over_prompts(
                self.reference_nll[read], weights=self.reference_tokens[read], level=self.level
            )
            found["perplexity"] = found["loss"].through(_exp)
        known = ~np.isnan(self.rouge_l)
        if known.any():
            rouge = mean_over_prompts(self.rouge_l[known], level=self.level)
            found["rouge_l"] = rouge.through(lambda x: min(max(x, 0.0), 1.0))
        return found

    def to_pandas(self) -> pd.DataFrame:
        """Return the table of prompts: the columns of `scores`, and those of the references.

        Returns
        -------
        pandas.DataFrame
        """
        return self.scores.to_pandas().assign(
            reference=self.reference,
            reference_nll=self.reference_nll,
            reference_tokens=self.reference_tokens,
            rouge_l=self.rouge_l,
        )

    def save(self, path: str | Path) -> None:
        """Write the table of prompts, a row a prompt, with the answers.

        Parameters
        ----------
        path : str or Path
            Ends in ``.csv``, with the answers of a prompt as a JSON list; else JSON, where what is
            not there or not finite is null.
        """
        table = self.to_pandas()
        if str(path).lower().endswith(".csv"):
            lists = [json.dumps(answers, ensure_ascii=False) for answers in self.scores.answers]
            table.assign(answers=lists).to_csv(path, index=False)
        else:
            table.to_json(path, orient="records", force_ascii=False, indent=1)


def _exp(x: float) -> float:
    try:
        return math.exp(x)
    except OverflowError:
        return math.inf


@keywords_of(EvaluationOptions)
def evaluate(
    model: str | Path | PreTrainedModel,
    data: Dataset | Sequence[Any] | str | Path,
    *,
    processing_class: PreTrainedTokenizerBase | None = None,
    device: str | torch.device | None = None,
    trust_remote_code: bool = False,
    progress: bool = False,
    **options: Any,
) -> Evaluation:
    """Evaluate a model on prompts: scores of sampled answers, and what references say of it.

    Parameters
    ----------
    model : str, Path or PreTrainedModel
        A causal language model, also inside a PEFT wrapper, which is left as it is; or where it is.
    data : datasets.Dataset, list of dict, list of str, str or Path
        Prompts; or rows with ``prompt`` (also ``question``, ``user_query``) and, where it is known,
        its reference, ``completion`` (also ``answer``, ``reference``); or ``messages``, the last
        of the assistant being the reference; or ``text``, whose second half by tokens is the
        reference of the first. Or a file of such rows. Prompts with no room for an answer in the
        model are left out.
    processing_class : PreTrainedTokenizerBase, optional
        The tokenizer, if it is not where the model is.
    device, trust_remote_code
        Of a model that is loaded, as for `HallucinationScorer.from_pretrained`.
    progress : bool
        Show bars.
    num_samples, temperature, top_k, top_p, max_new_tokens, layer, pooling, alpha
        Of the answers and their scores: see `EvaluationOptions`.
    max_prompts, batch_size, level, seed
        Of the prompts and the intervals: see there.

    Returns
    -------
    Evaluation
        ``.metrics`` by name, each with an interval over prompts; ``.to_pandas()``, a row a prompt.

    Raises
    ------
    TypeError
        If the data are none of these.
    ValueError
        If an option is out of range, there is no row, or no prompt that the model has room for.

    Notes
    -----
    Costs K + 1 generated answers a prompt and a forward pass over the references. The mode of the
    model and the random state of the caller are left alone; a mask of SenD is off meanwhile.

    A falling mean EigenScore does not mean less hallucination: it falls, too, when a model becomes
    surer of what it invents. It goes with the length of the answers, which alone is a competitive
    sign of wrong ones (arXiv:2508.08285): compare with ``length``. ROUGE-L counts common words, not
    facts. Up to K = 10, EES is exact and equals EigenScore; beyond, `send.ees` says how far it is.

    References
    ----------
    Chen et al., INSIDE, ICLR 2024 (arXiv:2402.03744); SenD (arXiv:2410.15460); Lin, ROUGE, 2004.

    Examples
    --------
    >>> from send.world import World, small_model
    >>> world = World(0, people=12, new_people=8, unknown_people=4)
    >>> tokenizer = world.tokenizer()
    >>> found = evaluate(
    ...     small_model(tokenizer, width=16, blocks=3, heads=2),
    ...     [{"prompt": q.prompt, "completion": q.answer} for q in world.questions("new", limit=6)],
    ...     processing_class=tokenizer,
    ...     max_new_tokens=4,
    ... )
    >>> list(found.metrics)
    ['eigenscore', 'ees', 'entropy', 'distinct', 'length', 'loss', 'perplexity', 'rouge_l']
    >>> found.metrics["loss"].low < found.metrics["loss"].value < found.metrics["loss"].high
    True
    """
    asked = EvaluationOptions(**options)
    given = draw(read_questions(data), asked.max_prompts, asked.seed)
    scorer = HallucinationScorer.from_pretrained(
        model,
        processing_class=processing_class,
        device=device,
        trust_remote_code=trust_remote_code,
        layer=asked.layer,
        pooling=asked.pooling,
    )
    tokenizer, places = scorer.processing_class, learned_positions(scorer.model)
    kept = slice(None if math.isinf(places) else int(places))
    rows = [with_reference(row, tokenizer, kept) for row in given]
    rows = with_room(rows, tokenizer, places - asked.max_new_tokens)
    scores = scorer(
        [row.prompt for row in rows],
        progress=progress,
        **{name: getattr(asked, name) for name in OF_THE_SCORER},
    )
    tokens = [row.tokens for row in rows]
    at_once = max((asked.batch_size or DEFAULT_BATCH) // READ_SHARE, 1)
    nll, counts = reference_nll(scorer.model, tokens, batch_size=at_once)
    return Evaluation(
        scores=scores,
        reference=[row.reference for row in rows],
        reference_nll=nll,
        reference_tokens=counts,
        rouge_l=_rouge(rows, scores.greedy_answer),
        level=asked.level,
    )


def _rouge(rows: Sequence[EvaluationRow], answers: Sequence[str]) -> Numbers:
    return np.array([
        math.nan if row.reference is None else rouge_l(row.reference, answer)
        for row, answer in zip(rows, answers, strict=True)
    ])


def reference_nll(
    model: nn.Module, rows: Sequence[TrackingRow], *, batch_size: int
) -> tuple[Numbers, Numbers]:
    """Return the mean negative log-likelihood of the labelled tokens of each row, and their number.

    In evaluation mode and without gradients; the mode is restored.

    Parameters
    ----------
    model : nn.Module
        A causal language model.
    rows : sequence of TrackingRow
        P of them, of which some may have no label.
    batch_size : int
        Rows at once. Logits are computed from the first label of a batch on, where the model can.

    Returns
    -------
    nll : ndarray, shape (P,)
        In nats a token; NaN where there is no label.
    tokens : ndarray of int, shape (P,)
    """
    counts = np.array([sum(i != IGNORED for i in row.labels[1:]) for row in rows], dtype=np.int64)
    sums = np.zeros(len(rows))
    labelled, home = np.flatnonzero(counts), device_of(model)
    with torch.no_grad(), evaluating(model):
        for start in range(0, len(labelled), batch_size):
            chosen = labelled[start : start + batch_size]
            batch = (each.to(home) for each in padded([rows[i] for i in chosen.tolist()]))
            sums[chosen] = _summed_nll(model, *batch).double().cpu().numpy()
    return np.divide(sums, counts, out=np.full(len(rows), math.nan), where=counts > 0), counts


def _summed_nll(
    model: nn.Module, ids: torch.Tensor, mask: torch.Tensor, labels: torch.Tensor
) -> torch.Tensor:
    """Return the negative log-likelihood of the labelled tokens of each row, shape (batch,)."""
    counted = labels != IGNORED
    counted[:, 0] = False  # nothing comes before it
    first = int(counted.any(dim=0).nonzero()[0])
    width = ids.shape[1] - first
    inputs = {
        "input_ids": ids,
        "attention_mask": mask,
        "use_cache": False,
        "logits_to_keep": width + 1,
    }
    logits = model(**accepted_inputs(model, inputs)).logits[:, -width - 1 : -1]
    counted, actual = counted[:, first:], labels[:, first:]
    nll = functional.cross_entropy(logits[counted].float(), actual[counted], reduction="none")
    of_rows = torch.split(nll, counted.sum(dim=1).tolist())  # index_add has no order on GPUs
    return torch.stack([of_row.sum() for of_row in of_rows])
