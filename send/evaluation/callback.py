"""Evaluation at the checkpoints of a training: a callback for any Transformers `Trainer`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import TrainingArguments
from transformers.trainer_callback import TrainerControl, TrainerState

from send.checkpoints.checkpoint import Row
from send.dropout.schedule import AtCheckpoints
from send.dropout.sensitivity_dropout import agreed
from send.evaluation.evaluate import METRICS, Evaluation, check_counts, evaluate
from send.evaluation.intervals import check_level
from send.evaluation.rows import draw, read_questions
from send.models.embeddings import check_pooling
from send.models.generation_options import check_generation
from send.models.hidden_states import PENULTIMATE

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["COLUMNS", "EvaluationCallback"]

ENDS = ("", "_low", "_high")
COLUMNS = tuple(f"eval_{name}{end}" for name in METRICS for end in ENDS)
"""What a row of the history has besides ``step`` and ``epoch``."""

LOG = "eval_send/"
"""Before the names of metrics in the log; trackers show ``eval/send/rouge_l`` and so on."""


class EvaluationCallback(AtCheckpoints):
    """Evaluate a model on prompts at the start of a training and at each checkpoint: `evaluate`.

    Parameters
    ----------
    data : datasets.Dataset, list of dict, list of str, str or Path
        As for `send.evaluate`; not trained on.
    every : "epoch" or int
        What a checkpoint is, as for `SendCallback`.
    num_samples, max_new_tokens, layer, pooling, max_prompts, batch_size, level, seed
        As for `send.evaluate`. Every checkpoint has the same prompts and draws alike.

    Attributes
    ----------
    history : list of dict
        One row an evaluation: ``step``, ``epoch``, and for each metric of `Evaluation.metrics` its
        value and the ends of its interval, such as ``eval_rouge_l``, ``eval_rouge_l_low`` and
        ``eval_rouge_l_high``. What does not apply, or is not finite, is None.
    latest : Evaluation or None
        The last one of this process, with all answers; they are not logged.

    Raises
    ------
    TypeError, ValueError
        As `send.evaluate`; or if `every` is not as described.

    Notes
    -----
    Evaluations go into the log as ``eval_send/rouge_l`` and so on, at their own step; only that of
    the start comes with the first step. Trackers are told only by callbacks that stand before them,
    which those passed to a trainer do not: use `add_to`. ``metric_for_best_model`` and early
    stopping may name ``eval_send/rouge_l`` where the trainer evaluates at the same steps.

    The log is part of each checkpoint that `Trainer` saves, so that a resumed training has the
    whole history; resume with the same prompts. The training draws the same random numbers as
    without. Each process of a distributed training evaluates all prompts, and finds the same.

    Examples
    --------
    >>> EvaluationCallback([{"prompt": "Where is Ada?", "completion": "Oslo"}], every=100).steps
    100
    """

    def __init__(
        self,
        data: Dataset | Sequence[Any] | str | Path,
        *,
        every: str | int = "epoch",
        num_samples: int = 10,
        max_new_tokens: int = 64,
        layer: int = PENULTIMATE,
        pooling: str = "mean+last",
        max_prompts: int | None = 64,
        batch_size: int | None = None,
        level: float = 0.95,
        seed: int = 0,
    ) -> None:
        super().__init__(every)
        check_generation(num_samples=num_samples, max_new_tokens=max_new_tokens, seed=seed)
        check_pooling(pooling)
        check_level(level)
        check_counts(max_prompts=max_prompts, batch_size=batch_size)
        self.rows = draw(read_questions(data), max_prompts, seed)
        self.num_samples = num_samples
        self.max_new_tokens = max_new_tokens
        self.layer = layer
        self.pooling = pooling
        self.batch_size = batch_size
        self.level = level
        self.seed = seed
        self.history: list[Row] = []
        self.latest: Evaluation | None = None

    # What Trainer calls -------------------------------------------------------------------------

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **event: Any
    ) -> None:
        """Evaluate the model as it came, or restore what a training had."""
        self._warn_of_reporters(args, "finds")
        logged = state.log_history if state.global_step else []
        self.history = [_restored(entry) for entry in logged if _is_ours(entry)]
        if not self.history:
            self._evaluate(state, event)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **event: Any
    ) -> TrainerControl:
        """Evaluate, if the step completes an epoch or a number of steps; have it logged."""
        if self._completed_by(state):
            self._evaluate(state, event)
        if self._unlogged:
            control.should_log = True
        return control

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **event: Any
    ) -> TrainerControl:
        """Evaluate at the end of a pass through data whose length was not known before."""
        if self._stream_completed_by(state, event["train_dataloader"], self.history[-1]):
            self._evaluate(state, event)
            control.should_log = True
        return control

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **event: Any
    ) -> None:
        """Add the evaluation of this step to the metrics by which the best model is chosen."""
        metrics = event.get("metrics")
        row = next(reversed(self.history), None)
        if metrics is not None and row is not None and row["step"] == state.global_step:
            metrics |= {name: x for name, x in _logged(row).items() if not name.endswith(ENDS[1:])}

    def _evaluate(self, state: TrainerState, event: Mapping[str, Any]) -> None:
        self.latest = evaluate(
            event["model"],
            self.rows,
            processing_class=event["processing_class"],
            num_samples=self.num_samples,
            max_new_tokens=self.max_new_tokens,
            layer=self.layer,
            pooling=self.pooling,
            batch_size=self.batch_size,
            level=self.level,
            seed=self.seed,
        )
        place = {"epoch": float(state.epoch), "step": state.global_step}
        row: Row = {**place, **dict.fromkeys(COLUMNS)}
        for name, metric in self.latest.metrics.items():
            for end, value in zip(ENDS, (metric.value, metric.low, metric.high), strict=True):
                if math.isfinite(value):
                    row[f"eval_{name}{end}"] = value
        row = agreed(row)
        self.history.append(row)
        self._unlogged = _logged(row)
        state.log_history.append({**self._unlogged, **place})


def _logged(row: Row) -> Row:
    """Return the numbers of a row by their names in the log."""
    return {
        LOG + name.removeprefix("eval_"): row[name] for name in COLUMNS if row[name] is not None
    }


def _is_ours(entry: Mapping[str, Any]) -> bool:
    return any(name.startswith(LOG) for name in entry)


def _restored(entry: Mapping[str, Any]) -> Row:
    numbers = {name: entry.get(LOG + name.removeprefix("eval_")) for name in COLUMNS}
    return {"epoch": entry["epoch"], "step": entry["step"], **numbers}
