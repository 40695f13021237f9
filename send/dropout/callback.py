"""Sensitivity Dropout in any Transformers `Trainer`, and in all that are made of it, as TRL's are.

An adapter: what is done at a checkpoint is in `sensitivity_dropout`, and here is when one comes.
"""

from __future__ import annotations

import logging
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accelerate import PartialState
from transformers import TrainingArguments
from transformers.trainer_callback import TrainerControl, TrainerState
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from send.checkpoints.checkpoint import (
    Rotation,
    Row,
    SendState,
    find_checkpoint,
    load_renamed_weights,
    read_state,
    saving,
)
from send.dropout.history import prefixed
from send.dropout.mask import SensitivityMask
from send.dropout.options import SensitivityDropoutOptions, keywords_of
from send.dropout.schedule import AtCheckpoints
from send.dropout.sensitivity import SensitivityTracker
from send.dropout.sensitivity_dropout import SensitivityDropout

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["SendCallback"]

logger = logging.getLogger(__name__)


class SendCallback(AtCheckpoints):
    """`SensitivityDropout` in a `Trainer`: measured at the start and at each checkpoint.

    Parameters
    ----------
    tracking_dataset
        As for `SensitivityDropout`.
    every : "epoch" or int
        What a checkpoint is; a number of optimizer steps suits trainings of few epochs.
    resume_from : str or Path, optional
        The checkpoint folder that the training resumes from. Needed only if it is neither in
        ``args.output_dir`` nor in ``args.resume_from_checkpoint``: `Trainer` does not tell.

    **options
        As for `SensitivityDropout`. A cool-down needs the number of checkpoints, which is unknown
        only for epochs of a stream; with `stop_loss` and `stop_score` the training stops when both
        have settled.

    Attributes
    ----------
    dropout : SensitivityDropout
        What does it. Its ``history``, ``tracker``, ``mask`` and ``tracking_dataset`` are attributes
        here, too; ``train_loss`` in the history is the last one that was logged since the
        checkpoint before.

    Raises
    ------
    ValueError
        If an option is not as described.

    Notes
    -----
    In each saved checkpoint a file ``send_state.safetensors`` holds what resuming needs, so that a
    resumed training goes on exactly as if it had not stopped; only of a training loss that is
    logged across the stop `Trainer` forgets the first part, which `SendTrainer` remembers. During
    the training ``args.save_total_limit`` is None: the callback deletes old checkpoints, when the
    new one is complete. Each process of a distributed training makes the same measurements and
    applies the same mask; the main one writes.

    `Trainer` puts the reporters that ``report_to`` names before the callbacks that it is given, so
    that these come too late to add to what is reported: use `add_to`.

    Where a trainer answers in training mode, as `GRPOTrainer` does, it answers under the mask. A
    reference model of its own, as `DPOTrainer` makes one, has no mask; the model itself with its
    adapter switched off has.

    References
    ----------
    SenD (arXiv:2410.15460), Algorithm 2; K = 20 %, C = 3, T = 3.

    Examples
    --------
    >>> SendCallback([{"text": "Ada was born in Oslo."}], every=100).steps
    100
    """

    @keywords_of(SensitivityDropoutOptions)
    def __init__(
        self,
        tracking_dataset: Dataset | Sequence[Any] | str | Path,
        *,
        every: str | int = "epoch",
        resume_from: str | Path | None = None,
        **options: Any,
    ) -> None:
        self.dropout = SensitivityDropout(tracking_dataset, **options)
        super().__init__(every)
        self.resume_from = resume_from
        self._rotation: Rotation | None = None

    @property
    def history(self) -> list[Row]:
        """The record, one row a checkpoint: see `SensitivityDropout`."""
        return self.dropout.history

    @property
    def tracker(self) -> SensitivityTracker:
        """The embeddings of the last checkpoints."""
        return self.dropout.tracker

    @property
    def mask(self) -> SensitivityMask | None:
        """None before the training; taken off the model after it."""
        return self.dropout.mask

    @property
    def tracking_dataset(self) -> Dataset:
        """The rows that are tracked."""
        return self.dropout.tracking_dataset

    # What Trainer calls -------------------------------------------------------------------------

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **event: Any
    ) -> None:
        """Read the tracking set; then measure checkpoint 0, or restore what a training had."""
        model, tokenizer = event["model"], event["processing_class"]
        self.close()
        self.dropout.attach(model, tokenizer, checkpoints=self._planned(state))
        self._warn_of_reporters(args, "measures")
        self._rotation = None if args.save_only_model else Rotation(args)
        if state.global_step > 0:
            folder = find_checkpoint(self._places(args, state), state.global_step)
            saved = read_state(folder)
            _check_log(saved, state)
            self._check_steps(saved)
            self.dropout.restore(saved)
            load_renamed_weights(model, folder)
        else:
            self._checkpoint(state)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **event: Any
    ) -> TrainerControl:
        """Measure, if the step completes an epoch or a number of steps."""
        return self._measured(state, control) if self._completed_by(state) else control

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **event: Any
    ) -> TrainerControl:
        """Measure at the end of a pass through data whose length was not known before."""
        due = self._stream_completed_by(state, event["train_dataloader"], self.history[-1])
        return self._measured(state, control) if due else control

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **event: Any
    ) -> None:
        """Add the last measurements to what is logged, for the callbacks that come after."""
        logs = event["logs"]
        if "loss" in logs and self.history and self.history[-1]["step"] == state.global_step:
            self.history[-1]["train_loss"] = logs["loss"]
        super().on_log(args, state, control, **event)

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **event: Any
    ) -> None:
        """Write into the new checkpoint folder what resuming needs."""
        folder = _checkpoint_folder(args, state.global_step)
        PartialState().wait_for_everyone()  # each process has written its random state
        if not folder.is_dir():
            logger.warning("%s does not exist: this checkpoint cannot be resumed from", folder)
        elif args.save_only_model:
            logger.warning("%s holds the model only: it cannot be resumed from", folder)
        elif args.should_save:
            with saving(folder.name, folder.parent):
                self.dropout.save(folder, step=state.global_step)
            if self._rotation is not None:
                self._rotation.keep(folder, state.best_model_checkpoint)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **event: Any
    ) -> None:
        """Leave the model as it came, without a hook; mend the best one, if that was loaded."""
        self.close()
        # By now `Trainer` has loaded the best model, and has not deleted its checkpoint.
        if args.load_best_model_at_end and state.best_model_checkpoint is not None:
            load_renamed_weights(event["model"], Path(state.best_model_checkpoint))

    def close(self) -> None:
        """Take the mask off the model; only a training that ended by an exception needs this."""
        self.dropout.detach()
        if self._rotation is not None:
            self._rotation.give_back()
            self._rotation = None

    # One checkpoint -----------------------------------------------------------------------------

    def _measured(self, state: TrainerState, control: TrainerControl) -> TrainerControl:
        self._checkpoint(state)
        if self.dropout.converged:
            control.should_training_stop = True
        return control

    def _checkpoint(self, state: TrainerState) -> None:
        row = self.dropout.checkpoint(
            step=state.global_step, epoch=state.epoch, train_loss=self._last_loss(state)
        )
        self._unlogged = prefixed(row)
        state.log_history.append(_log_entry(row))

    def _check_steps(self, saved: SendState) -> None:
        last = saved.history[-1]
        if self.steps and last["step"] != last["checkpoint"] * self.steps:
            msg = (
                f"checkpoint {last['checkpoint']} of the training was at step {last['step']}, but "
                f"every is {self.steps}; resume with every as it was."
            )
            raise ValueError(msg)

    def _last_loss(self, state: TrainerState) -> float | None:
        since = self.history[-1]["step"] if self.history else 0
        logged = [r["loss"] for r in state.log_history if "loss" in r and r["step"] > since]
        return logged[-1] if logged else None

    def _planned(self, state: TrainerState) -> int | None:
        """Return the number of checkpoints to come, a last interval that is cut short counted."""
        steps, epochs = int(state.max_steps), int(state.num_train_epochs)
        if self.steps:
            return math.ceil(steps / self.steps)
        return None if epochs == sys.maxsize else epochs  # as Trainer has it for a stream

    def _places(self, args: TrainingArguments, state: TrainerState) -> list[str | Path]:
        if self.resume_from is not None:
            return [self.resume_from]
        given = args.resume_from_checkpoint
        return [*([given] if given else []), _checkpoint_folder(args, state.global_step)]


def _checkpoint_folder(args: TrainingArguments, step: int) -> Path:
    return Path(args.output_dir) / f"{PREFIX_CHECKPOINT_DIR}-{step}"


def _check_log(saved: SendState, state: TrainerState) -> None:
    """Refuse a state whose last checkpoint is not the one that the trainer has logged."""
    logged = [row for row in state.log_history if "send/checkpoint" in row]
    if logged[-1:] != [_log_entry(saved.history[-1])]:
        msg = (
            f"the state found for step {saved.step} is of another training than the "
            "checkpoint; pass resume_from=<the checkpoint folder> to SendCallback."
        )
        raise ValueError(msg)


def _log_entry(row: Row) -> Row:
    return {**prefixed(row), "epoch": row["epoch"], "step": row["step"]}
