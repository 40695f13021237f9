"""Fine-tuning with Sensitivity Dropout on TRL's supervised trainer."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn
from transformers import (
    BitsAndBytesConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TrainerCallback,
)
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from trl import SFTTrainer

from send.checkpoints.checkpoint import check_complete, last_checkpoint, saving
from send.data.as_dataset import as_dataset
from send.distillation.distil import ROW, distil
from send.distillation.distillation import Distillation
from send.distillation.teacher import Teacher
from send.dropout.callback import SendCallback
from send.dropout.options import DropoutOptions, chosen
from send.evaluation.callback import EvaluationCallback
from send.training.config import SendConfig
from send.training.running_sums import RunningSums
from send.training.training_rows import (
    Rows,
    check_columns,
    rows_of,
    sets_of,
    split_off,
    with_labels,
)

if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset
    from peft import PeftConfig

__all__ = ["SendTrainer"]

ANSWERS_A_ROW = 8
"""Answers generated at once for each row of an evaluation batch, which needs far more memory."""


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
        every=args.every,
        **chosen(DropoutOptions, args),
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


def _check_companions(args: SendConfig, teacher: Any, eval_dataset: Any) -> None:
    """Refuse settings of something that was not given."""
    if args.kd_cache is not None and teacher is None:
        msg = f"kd_cache is {args.kd_cache}, but there is no teacher; pass teacher=, too."
        raise ValueError(msg)
    if args.eval_strategy != "no" and eval_dataset is None:
        msg = (
            f"eval_strategy is {args.eval_strategy.value!r}, but there is no eval_dataset; "
            "pass one, or eval_strategy='no'."
        )
        raise ValueError(msg)


def _teacher(model: PreTrainedModel | str | Path, args: SendConfig) -> Teacher:
    return Teacher(
        model,
        device=args.device,
        dtype=args.kd_teacher_dtype,
        device_map=args.kd_teacher_device_map,
        trust_remote_code=args.trust_remote_code,
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
        _check_companions(args, teacher, eval_dataset)
        train_dataset = rows_of(train_dataset, args)
        check_columns(train_dataset, args)
        if tracking_dataset is None:
            train_dataset, tracking_dataset = split_off(train_dataset, args)
        else:
            tracking_dataset = as_dataset(tracking_dataset, text_column=args.dataset_text_field)
        self.send = _callback(tracking_dataset, args)
        self.evaluation = None if prompt_dataset is None else _evaluation(prompt_dataset, args)
        super().__init__(
            model,
            args,
            data_collator=data_collator,
            train_dataset=train_dataset,
            eval_dataset=sets_of(eval_dataset, args),
            processing_class=processing_class,
            callbacks=callbacks,
            optimizers=optimizers,
            quantization_config=quantization_config,
            peft_config=peft_config,
        )
        if not args.packing:
            self.train_dataset = with_labels(self.train_dataset, train_dataset)
        self._sums = RunningSums(self)
        self.add_callback(self._sums)
        if self.evaluation is not None:
            self.evaluation.add_to(self)
        self.send.add_to(self)
        self.distillation: Distillation | None = None
        if teacher is not None and args.lambda_kd > 0:
            self.distillation = distil(self, _teacher(teacher, args))

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
