"""Fine-tuning with Sensitivity Dropout on TRL's supervised trainer, in one call or by its parts."""

from __future__ import annotations

import logging
import pickle
from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from torch import nn
from transformers import (
    BitsAndBytesConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TrainerCallback,
)
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from trl import SFTTrainer

from send.checkpoints.checkpoint import Row, check_complete, last_checkpoint, saving
from send.data.as_dataset import as_dataset
from send.data.split_tracking import split_tracking
from send.distillation.distil import ROW, distil
from send.distillation.distillation import Distillation
from send.distillation.teacher import Teacher
from send.dropout.callback import SendCallback
from send.evaluation.callback import COLUMNS, EvaluationCallback
from send.models.tokenized_rows import IGNORED
from send.training.config import SendConfig
from send.training.result import SendResult
from send.training.running_sums import RunningSums

if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset
    from peft import PeftConfig

__all__ = ["SendTrainer", "train"]

logger = logging.getLogger(__name__)

ANSWERS_A_ROW = 8
"""Answers generated at once for each row of an evaluation batch, which needs far more memory."""


Rows: TypeAlias = "Dataset | Sequence[Any] | str | Path"
"""What `send.data.as_dataset.as_dataset` takes."""


def _rows(data: Rows | IterableDataset, args: SendConfig) -> Dataset | IterableDataset:
    from datasets import IterableDataset

    if isinstance(data, IterableDataset):
        return data
    return as_dataset(data, text_column=args.dataset_text_field)


def _each(
    data: Rows | dict[str, Dataset] | None, args: SendConfig
) -> Dataset | IterableDataset | dict[str, Any] | None:
    """Return the rows to evaluate on; of several sets each."""
    if isinstance(data, dict):
        return {name: _rows(rows, args) for name, rows in data.items()}
    return None if data is None else _rows(data, args)


def _with_labels(tokenized: Any, given: Any) -> Any:
    """Return the rows of which a token is trained on; TRL leaves out some, without a word."""
    if "labels" not in (getattr(tokenized, "column_names", None) or ()):
        return tokenized
    rows = tokenized.filter(_is_trained_on)
    if not hasattr(rows, "__len__"):
        return rows
    if not len(rows):
        msg = (
            f"none of the {len(given)} training rows has a token to train on: each is a single "
            "token, or its prompt alone fills max_length."
        )
        raise ValueError(msg)
    if len(rows) < len(given):
        logger.warning(
            "left out %d of %d training rows without a token to train on, such as rows whose "
            "prompt alone fills max_length",
            len(given) - len(rows),
            len(given),
        )
    return rows


def _is_trained_on(row: dict[str, Any]) -> bool:
    return any(label != IGNORED for label in row["labels"][1:])  # the first is not predicted


def _check_columns(dataset: Dataset | IterableDataset, args: SendConfig) -> None:
    """Refuse rows of no known shape before TRL fails on one of them."""
    given = set(dataset.column_names or ())  # a stream may not know
    shapes = ({"prompt", "completion"}, {"messages"}, {args.dataset_text_field}, {"input_ids"})
    if given and not any(shape <= given for shape in shapes):
        msg = (
            f"the training rows have the columns {', '.join(sorted(given))}; expected "
            f"{args.dataset_text_field}, or prompt and completion, or messages, or input_ids."
        )
        raise ValueError(msg)


def _split(dataset: Dataset | IterableDataset, args: SendConfig) -> tuple[Dataset, Dataset]:
    if not hasattr(dataset, "__len__"):
        msg = (
            f"no share of a stream ({type(dataset).__name__}) can be kept apart; "
            "pass tracking_dataset=<rows that are not trained on>."
        )
        raise ValueError(msg)
    return split_tracking(dataset, args.tracking_fraction, seed=args.seed)


def _callback(tracking_dataset: Dataset, args: SendConfig) -> SendCallback:
    columns, text = set(tracking_dataset.column_names), args.dataset_text_field
    if args.assistant_only_loss and "input_ids" not in columns:
        msg = (
            "assistant_only_loss is not known to the tracking loss; give chats as prompt and "
            "completion, where only the completion counts, or a tracking_dataset of input_ids and "
            "labels."
        )
        raise ValueError(msg)
    if args.truncation_mode != "keep_start":
        msg = (
            f"truncation_mode is {args.truncation_mode!r}; rows of the tracking set are cut at "
            "their ends, so expected 'keep_start', or rows that are no longer than max_length."
        )
        raise ValueError(msg)
    if text in columns and text != "text":
        tracking_dataset = tracking_dataset.select_columns([text]).rename_column(text, "text")
    return SendCallback(
        tracking_dataset,
        drop_fraction=args.drop_fraction,
        selection=args.selection,
        window=args.window,
        hold=args.hold,
        warmup=args.warmup,
        cooldown=args.cooldown,
        every=args.every,
        layer=args.layer,
        pooling=args.pooling,
        aggregate=args.aggregate,
        rescale=args.rescale,
        score_prompts=args.score_prompts,
        num_samples=args.num_samples,
        max_new_tokens=args.max_new_tokens,
        stop_loss=args.stop_loss,
        stop_score=args.stop_score,
        max_length=args.max_length,
        completion_only_loss=args.completion_only_loss is not False,
        batch_size=args.per_device_eval_batch_size,
        seed=args.seed,
    )


def _evaluation(
    prompt_dataset: Dataset | Sequence[Any] | str | Path, args: SendConfig
) -> EvaluationCallback:
    return EvaluationCallback(
        prompt_dataset,
        every=args.every,
        num_samples=args.num_samples,
        max_new_tokens=args.max_new_tokens,
        layer=args.layer,
        pooling=args.pooling,
        max_prompts=args.eval_prompts,
        batch_size=ANSWERS_A_ROW * args.per_device_eval_batch_size,
        seed=args.seed,
    )


class SendTrainer(SFTTrainer):  # type: ignore[misc]  # mypy does not follow trl
    """TRL's `SFTTrainer` with a `SendCallback`, which is its attribute ``send``.

    With prompts to evaluate on, the attribute ``evaluation`` is an `EvaluationCallback`, else None.

    Parameters
    ----------
    model : str or PreTrainedModel
        A causal language model, or where it is.
    args : SendConfig, optional
        All settings.
    train_dataset : datasets.Dataset, list of dict, list of str, str, Path or IterableDataset
        Columns ``text`` (or ``args.dataset_text_field``), or ``prompt`` and ``completion``, or
        ``messages``, or ``input_ids``. Rows that are broken, empty, or without a token to train on
        are left out, with a warning, except from a stream, which moreover needs a
        `tracking_dataset` and ``args.max_steps``.
    tracking_dataset : as train_dataset, optional
        Rows of the same shape that are not trained on. Without it ``args.tracking_fraction`` of the
        training rows, chosen by ``args.seed``, are kept apart.
    prompt_dataset : datasets.Dataset, list, str or Path, optional
        Prompts, with or without references, that the model answers at each checkpoint: as for
        `send.evaluate`; ``args.eval_prompts`` of them, 8 answers at once for each of
        ``args.per_device_eval_batch_size``.
    teacher : PreTrainedModel, str or Path, optional
        A model with the same tokenizer, or where it is: see `Distillation`. It is
        frozen, each process has a whole one, and the mask is not on it. None, or
        ``args.lambda_kd = 0``: no distillation.
    eval_dataset, processing_class, data_collator, callbacks, optimizers, quantization_config
        As for `SFTTrainer`.
    peft_config : PeftConfig, optional
        As for `SFTTrainer`: train an adapter only.

    Raises
    ------
    ValueError
        If the rows have none of these columns, there are none to track, or the loss is one that
        cannot be tracked; if the teacher has another tokenizer, or its cache is of something else.

    Notes
    -----
    For other trainers, and for what this one does not take, add a `SendCallback` to them.

    References
    ----------
    SenD (arXiv:2410.15460), Algorithm 2.
    """

    train_dataset: Any  # mypy does not follow trl

    def __init__(
        self,
        model: str | PreTrainedModel,
        args: SendConfig | None = None,
        *,
        train_dataset: Rows | IterableDataset,
        tracking_dataset: Rows | None = None,
        prompt_dataset: Rows | None = None,
        teacher: PreTrainedModel | str | Path | None = None,
        eval_dataset: Rows | IterableDataset | dict[str, Dataset] | None = None,
        processing_class: PreTrainedTokenizerBase | None = None,
        data_collator: Any = None,
        callbacks: list[TrainerCallback] | None = None,
        optimizers: tuple[Any, Any] = (None, None),
        quantization_config: BitsAndBytesConfig | None = None,
        peft_config: PeftConfig | None = None,
    ) -> None:
        args = SendConfig() if args is None else args
        if args.kd_cache is not None and teacher is None:
            msg = f"kd_cache is {args.kd_cache}, but there is no teacher; pass teacher=, too."
            raise ValueError(msg)
        train_dataset = _rows(train_dataset, args)
        _check_columns(train_dataset, args)
        if args.eval_strategy != "no" and eval_dataset is None:
            msg = (
                f"eval_strategy is {args.eval_strategy.value!r}, but there is no eval_dataset; "
                "pass one, or eval_strategy='no'."
            )
            raise ValueError(msg)
        if tracking_dataset is None:
            train_dataset, tracking_dataset = _split(train_dataset, args)
        else:
            tracking_dataset = as_dataset(tracking_dataset, text_column=args.dataset_text_field)
        self.send = _callback(tracking_dataset, args)
        self.evaluation = None if prompt_dataset is None else _evaluation(prompt_dataset, args)
        super().__init__(
            model,
            args,
            data_collator=data_collator,
            train_dataset=train_dataset,
            eval_dataset=_each(eval_dataset, args),
            processing_class=processing_class,
            callbacks=callbacks,
            optimizers=optimizers,
            quantization_config=quantization_config,
            peft_config=peft_config,
        )
        if not args.packing:
            self.train_dataset = _with_labels(self.train_dataset, train_dataset)
        self._sums = RunningSums(self)
        self.add_callback(self._sums)
        if self.evaluation is not None:
            self.evaluation.add_to(self)
        self.send.add_to(self)
        self.distillation: Distillation | None = None
        if teacher is not None and args.lambda_kd > 0:
            self.distillation = distil(
                self,
                Teacher(
                    teacher,
                    device=args.device,
                    dtype=args.kd_teacher_dtype,
                    device_map=args.kd_teacher_device_map,
                    trust_remote_code=args.trust_remote_code,
                ),
            )

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """Return the loss of a batch; while the model trains with a teacher, of both."""
        with (
            nullcontext()
            if self.distillation is None
            else self.distillation.batch(inputs, training=self.model.training)
        ):
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log; with the loss of a training with a teacher also its two parts."""
        if self.distillation is not None and "loss" in logs:
            totals = self.accelerator.reduce(self.distillation.losses().to(self.args.device))
            kd, sft = (totals[:2] / totals[2].clamp(min=1)).tolist()
            logs.update({"send/kd_loss": kd, "send/sft_loss": sft})
        super().log(logs, start_time)

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()
        if ROW not in self._signature_columns:
            self._signature_columns.append(ROW)

    def train(
        self,
        resume_from_checkpoint: str | Path | bool | None = None,
        trial: Any = None,
        ignore_keys_for_eval: list[str] | None = None,
    ) -> Any:
        """Train; True resumes from the last complete checkpoint in ``args.output_dir``.

        Parameters
        ----------
        resume_from_checkpoint : str, Path or bool, optional
            A checkpoint folder, or True; unless given, ``args.resume_from_checkpoint``, which
            `Trainer` passes over, and False is not to resume. A folder that a killed process left
            half written is passed over with True, which `Trainer` would not do, and refused if it
            is named.
        trial, ignore_keys_for_eval
            As for `Trainer.train`.

        Returns
        -------
        TrainOutput

        Raises
        ------
        ValueError
            If there is nothing to resume from, the folder is not a complete checkpoint, or a file
            in it is a pickle of more than tensors and plain values, which is never run.
        OSError
            If a checkpoint cannot be written, as on a full disk. The one before is kept.
        """
        if resume_from_checkpoint is None:
            resume_from_checkpoint = self.args.resume_from_checkpoint
        folder = self._checkpoint_of(resume_from_checkpoint)
        self.send.resume_from = self._sums.folder = folder
        distilling = nullcontext() if self.distillation is None else self.distillation.attached()
        try:
            with distilling:
                return super().train(
                    None if folder is None else str(folder), trial, ignore_keys_for_eval
                )
        except pickle.UnpicklingError as error:
            msg = f"{folder} has a file that holds more than tensors; it was not loaded. {error}"
            raise ValueError(msg) from error
        finally:
            self.send.close()

    def _run_epoch(self, *args: Any, **named: Any) -> None:
        """Train for an epoch, unless the training had converged when it was stopped."""
        if self.send.dropout.converged:
            self.control.should_training_stop = True
        else:
            super()._run_epoch(*args, **named)

    def _checkpoint_of(self, asked: str | Path | bool | None) -> Path | None:
        """Return the folder to resume from, None to begin."""
        if not asked:
            return None
        if str(asked).lower() != "true":  # a setting of the command line is a text
            check_complete(asked)  # type: ignore[arg-type]
            return Path(str(asked))
        folder = last_checkpoint(self.args.output_dir)
        if folder is None:
            msg = f"there is no complete checkpoint in {self.args.output_dir} to resume from."
            raise ValueError(msg)
        return folder

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        folder = Path(self._get_output_dir(trial=trial))
        checkpoint = f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        with saving(checkpoint, folder):
            super()._save_checkpoint(model, trial)
            self._sums.write(folder / checkpoint)


def train(
    model: str | Path | PreTrainedModel,
    train_dataset: Rows | IterableDataset,
    *,
    tracking_dataset: Rows | None = None,
    prompt_dataset: Rows | None = None,
    eval_dataset: Rows | IterableDataset | dict[str, Dataset] | None = None,
    teacher: PreTrainedModel | str | Path | None = None,
    config: SendConfig | None = None,
    processing_class: PreTrainedTokenizerBase | None = None,
    callbacks: list[TrainerCallback] | None = None,
    peft_config: PeftConfig | None = None,
    resume_from_checkpoint: str | Path | bool | None = None,
) -> SendResult:
    """Fine-tune a causal language model with Sensitivity Dropout.

    Parameters
    ----------
    model : str, Path or PreTrainedModel
        A model, which is changed, or where it is: a folder or a name on the hub.
    train_dataset : datasets.Dataset, list of dict, list of str, str or Path
        Rows with ``text``, or ``prompt`` and ``completion``, or ``messages``, or texts alone, or a
        file of them: see `send.load_texts`; or a `datasets.IterableDataset`, with a
        `tracking_dataset`.
    tracking_dataset : as train_dataset, optional
        Rows not to train on, by which sensitivity is measured. Without them a share of the training
        rows is kept apart: ``config.tracking_fraction``.
    prompt_dataset : datasets.Dataset, list of dict, list of str, str or Path, optional
        Prompts, with or without references, not trained on, that the model answers at the start and
        at each checkpoint: as for `send.evaluate`; ``config.eval_prompts`` of them.
    eval_dataset : as train_dataset, optional
        Rows that the trainer evaluates on, when ``config.eval_strategy`` says so.
    teacher : PreTrainedModel, str or Path, optional
        A model to distil knowledge from, as for `SendTrainer`.
    config : SendConfig, optional
        All settings; ``SendConfig(drop_fraction=0)`` is plain fine-tuning with the same record.
    processing_class : PreTrainedTokenizerBase, optional
        The tokenizer, if it is not where the model is.
    callbacks, peft_config
        As for TRL's `SFTTrainer`.
    resume_from_checkpoint : str, Path or bool, optional
        A checkpoint folder, or True for the last complete one in ``config.output_dir``.

    Returns
    -------
    SendResult

    Raises
    ------
    ValueError
        If the rows have none of these columns, there is none to track, or there is nothing to
        resume from.

    Notes
    -----
    A falling mean EigenScore does not mean less hallucination; look at answers.

    References
    ----------
    SenD (arXiv:2410.15460), Algorithm 2.

    Examples
    --------
    >>> import send, tempfile
    >>> from send.world import World, small_model
    >>> folder = tempfile.mkdtemp()
    >>> world = World(0, people=12, new_people=8, unknown_people=4)
    >>> tokenizer = world.tokenizer()
    >>> config = send.SendConfig(
    ...     output_dir=folder, max_steps=6, every=1, save_strategy="no", score_prompts=2
    ... )
    >>> result = send.train(
    ...     small_model(tokenizer, width=16, blocks=3, heads=2),
    ...     world.finetuning_rows(),
    ...     config=config,
    ...     processing_class=tokenizer,
    ... )  # doctest: +ELLIPSIS
    {...
    >>> [len(row["masked"]) for row in result.history]
    [0, 0, 3, 3, 3, 3, 3]
    """
    trainer = SendTrainer(
        str(model) if isinstance(model, Path) else model,
        config,
        train_dataset=train_dataset,
        tracking_dataset=tracking_dataset,
        prompt_dataset=prompt_dataset,
        eval_dataset=eval_dataset,
        teacher=teacher,
        processing_class=processing_class,
        callbacks=callbacks,
        peft_config=peft_config,
    )
    trainer.train(resume_from_checkpoint)
    shared = trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled
    return SendResult(
        model=_plain(trainer.accelerator.unwrap_model(trainer.model)),
        processing_class=trainer.processing_class,
        history=_joined(trainer.send.history, trainer.evaluation),
        evaluation=None if trainer.evaluation is None else trainer.evaluation.latest,
        gather=partial(trainer.accelerator.get_state_dict, trainer.model_wrapped)
        if shared
        else None,
    )


def _joined(history: list[Row], evaluation: EvaluationCallback | None) -> list[Row]:
    """Return the rows of the checkpoints, each with what the evaluation found at its step."""
    if evaluation is None:
        return history
    found = {row["step"]: {name: row[name] for name in COLUMNS} for row in evaluation.history}
    return [{**row, **found.get(row["step"], dict.fromkeys(COLUMNS))} for row in history]


def _plain(model: Any) -> nn.Module:
    """Return the model in evaluation mode, with the forward method of its class again."""
    # TRL and Accelerate put their own into the instance, bound to this very object: a copy of the
    # model would go on computing with the weights of the original.
    for module in {model, model.get_base_model() if hasattr(model, "get_base_model") else model}:
        if not hasattr(module, "_hf_hook"):  # layers spread over devices need theirs
            vars(module).pop("forward", None)
            vars(module).pop("_original_forward", None)
    plain: nn.Module = model.eval()
    return plain
