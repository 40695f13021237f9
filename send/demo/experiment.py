"""An experiment in a closed world: pre-train, fine-tune on new people, ask at every checkpoint."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TrainerCallback,
    TrainingArguments,
)
from transformers.trainer_callback import TrainerControl, TrainerState
from trl import SFTConfig, SFTTrainer

from send.data.as_dataset import as_dataset
from send.models.answers import greedy_answers, sample_answers
from send.scores.eigenscore import eigenscore
from send.training.config import SendConfig
from send.training.result import SendResult
from send.training.train import train
from send.world import Group, Question, World, hallucination_rate

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["Examiner", "Pretraining", "Schedule", "fine_tune", "pretrain"]

GROUPS: tuple[Group, ...] = ("known", "new", "unknown")
LONGEST_ANSWER = 8


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """How long and how fast to train; the defaults suit ``World(people=200)`` and two cores.

    Attributes
    ----------
    pretraining_epochs, finetuning_epochs : int
    pretraining_rate, finetuning_rate : float
        Learning rates: the first falls by the cosine, the second is constant.
    questions : int
        Asked greedily of each group at each checkpoint, at most.
    scored : int
        Of these, how many of each group get K = 10 sampled answers and an EigenScore.
    """

    pretraining_epochs: int = 3
    finetuning_epochs: int = 8
    pretraining_rate: float = 4e-3
    finetuning_rate: float = 5e-4
    questions: int = 160
    scored: int = 40


class Examiner(TrainerCallback):  # type: ignore[misc]  # mypy does not follow transformers
    """Ask a model about known, new and unknown people before training and after every epoch.

    Parameters
    ----------
    world : World
        Whose questions, and whose record judges the answers.
    schedule : Schedule
        How many questions.
    seed : int
        Of the choice of questions and of the sampled answers.

    Attributes
    ----------
    rows : list of dict
        One for each epoch: ``epoch``; ``rates``, by group the fields of `send.world.Rate`;
        ``eigenscore``, its mean by group and overall, and ``eigenscore_stderr``.
    answers : list of dict
        Every greedy answer: ``epoch``, ``group``, ``prompt``, ``right`` (the right answer),
        ``answer``, ``verdict``.
    """

    def __init__(self, world: World, schedule: Schedule, *, seed: int = 0) -> None:
        self.world, self.seed = world, seed
        self.questions: list[Question] = []
        self.scored: list[Question] = []
        for group in GROUPS:
            asked = world.questions(group, limit=schedule.questions, seed=seed)
            self.questions += asked
            self.scored += asked[: schedule.scored]
        self.rows: list[dict[str, Any]] = []
        self.answers: list[dict[str, Any]] = []

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **event: Any
    ) -> None:
        """Ask the model as it came."""
        self.ask(event["model"], event["processing_class"], epoch=0)

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **event: Any
    ) -> None:
        """Ask after an epoch."""
        self.ask(event["model"], event["processing_class"], epoch=round(float(state.epoch)))

    def ask(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, *, epoch: int
    ) -> None:
        """Ask, judge and score, in eval mode: no mask is on. Adds to `rows` and `answers`."""
        prompts = [question.prompt for question in self.questions]
        given = greedy_answers(
            model, tokenizer, prompts, max_new_tokens=LONGEST_ANSWER, batch_size=256
        ).answers
        rates = hallucination_rate(self.world, self.questions, given)
        self.answers += [
            {
                "epoch": epoch,
                "group": question.group,
                "prompt": question.prompt,
                "right": question.answer,
                "answer": answer,
                "verdict": self.world.judge(question, answer),
            }
            for question, answer in zip(self.questions, given, strict=True)
        ]
        self.rows.append({
            "epoch": epoch,
            "rates": {group: asdict(rates[group]) for group in GROUPS},
            **self._scores(model, tokenizer),
        })

    def _scores(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
        samples = sample_answers(
            model,
            tokenizer,
            [question.prompt for question in self.scored],
            num_samples=10,
            max_new_tokens=LONGEST_ANSWER,
            batch_size=256,
            seed=self.seed,
        )
        scores = np.asarray(eigenscore(samples.embeddings))
        groups = np.array([question.group for question in self.scored])
        by_group = {group: float(scores[groups == group].mean()) for group in GROUPS}
        return {
            "eigenscore": {**by_group, "all": float(scores.mean())},
            "eigenscore_stderr": float(scores.std(ddof=1)) / math.sqrt(len(scores)),
        }


@dataclass(frozen=True, kw_only=True)
class Pretraining:
    """How a model is trained from scratch.

    Attributes
    ----------
    epochs, learning_rate, batch_size, max_length, seed
        The rate falls by the cosine after a short warm-up.
    """

    epochs: float
    learning_rate: float
    batch_size: int = 64
    max_length: int = 128
    seed: int = 0


def pretrain(
    model: PreTrainedModel,
    rows: Dataset | Sequence[Any],
    tokenizer: PreTrainedTokenizerBase,
    pretraining: Pretraining,
    *,
    folder: str | Path,
) -> float:
    """Train a model from scratch, by TRL's supervised trainer.

    Parameters
    ----------
    model : PreTrainedModel
        Changed in place.
    rows : datasets.Dataset or list
        As for `send.train`.
    tokenizer : PreTrainedTokenizerBase
    pretraining : Pretraining
    folder : str or Path
        Where the model and its tokenizer are saved.

    Returns
    -------
    float
        The mean training loss.
    """
    config = SFTConfig(
        output_dir=str(folder),
        num_train_epochs=pretraining.epochs,
        learning_rate=pretraining.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=20,
        weight_decay=0.01,
        per_device_train_batch_size=pretraining.batch_size,
        max_length=pretraining.max_length,
        **quiet(pretraining.seed),
    )
    trainer = SFTTrainer(model, config, train_dataset=as_dataset(rows), processing_class=tokenizer)
    loss = float(trainer.train().training_loss)
    trainer.save_model(str(folder))
    tokenizer.save_pretrained(folder)
    return loss


def quiet(seed: int) -> dict[str, Any]:
    """Return the settings that a small training on this machine has besides its own."""
    import torch

    return {
        "seed": seed,
        "logging_strategy": "no",
        "save_strategy": "no",
        "report_to": "none",
        "bf16": False,
        "dataloader_pin_memory": torch.accelerator.is_available(),
        "activation_checkpointing": False,
        "gradient_checkpointing": False,
    }


def fine_tune(
    world: World,
    start: str | Path,
    examiner: Examiner,
    schedule: Schedule,
    *,
    drop_fraction: float,
    seed: int = 0,
    folder: str | Path,
) -> SendResult:
    """Fine-tune a pre-trained model on the new people, with SenD or (``drop_fraction=0``) without.

    All fine-tuning rows are trained on, so that each fact is taught as often as the world says;
    tracked are the same facts in other wordings.

    Parameters
    ----------
    world : World
    start : str or Path
        The folder of the pre-trained model and its tokenizer.
    examiner : Examiner
        Asks at every epoch.
    schedule : Schedule
    drop_fraction : float
        As for `send.SendCallback`.
    seed : int
        The same for all arms: the same batches in the same order.
    folder : str or Path
        Where the trained model is saved.

    Returns
    -------
    SendResult
    """
    from transformers import AutoTokenizer

    config = SendConfig(
        output_dir=str(folder),
        num_train_epochs=schedule.finetuning_epochs,
        learning_rate=schedule.finetuning_rate,
        lr_scheduler_type="constant",
        weight_decay=0.01,
        per_device_train_batch_size=32,
        drop_fraction=drop_fraction,
        score_prompts=0,  # the examiner scores its own questions
        **quiet(seed),
    )
    result = train(
        start,
        world.finetuning_rows(),
        tracking_dataset=world.tracking_rows(),
        config=config,
        processing_class=AutoTokenizer.from_pretrained(start),
        callbacks=[examiner],
    )
    result.save(folder)
    return result
