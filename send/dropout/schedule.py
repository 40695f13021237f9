"""When a checkpoint of a training comes, and how what is measured there reaches the reporters."""

from __future__ import annotations

import logging
from typing import Any, Self

from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_callback import TrainerControl, TrainerState
from transformers.trainer_utils import has_length

from send.checkpoints.checkpoint import Row

__all__ = ["AtCheckpoints", "steps_between"]

logger = logging.getLogger(__name__)


class AtCheckpoints(TrainerCallback):  # type: ignore[misc]  # mypy does not follow transformers
    """A callback that measures a model at checkpoints, and adds to what is logged next.

    Parameters
    ----------
    every : "epoch" or int
        What a checkpoint is; a number of optimizer steps suits trainings of few epochs.

    Raises
    ------
    ValueError
        If it is neither.
    """

    def __init__(self, every: str | int) -> None:
        self.steps = steps_between(every)
        self._before_reporters = False
        self._unlogged: Row = {}

    def add_to(self, trainer: Trainer) -> Self:
        """Add this to a trainer, before the reporters that its ``report_to`` has brought.

        Parameters
        ----------
        trainer : Trainer
            If it has this callback already, that is moved to the front.

        Returns
        -------
        AtCheckpoints
            Itself.
        """
        self._before_reporters = True
        callbacks = trainer.callback_handler.callbacks
        if self in callbacks:
            callbacks.remove(self)
        callbacks.insert(0, self)
        return self

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **event: Any
    ) -> None:
        """Add the last measurements to what is logged, for the callbacks that come after."""
        event["logs"].update(self._unlogged)
        self._unlogged = {}

    def _warn_of_reporters(self, args: TrainingArguments, does: str) -> None:
        if args.report_to and not self._before_reporters:
            name = type(self).__name__
            logger.warning(
                "%s will not show what %s %s, since it comes before it; use "
                "%s(...).add_to(trainer) in the place of callbacks=[...].",
                ", ".join(args.report_to),
                name,
                does,
                name,
            )

    def _completed_by(self, state: TrainerState) -> bool:
        """Whether the last step completes an epoch, or a number of steps."""
        # The end of an epoch is noticed here, not in on_epoch_end: a checkpoint saved at this very
        # step resumes in the next epoch, where on_epoch_end would never have been called.
        done: float = state.global_step / self.steps if self.steps else state.epoch
        return done.is_integer()

    def _stream_completed_by(self, state: TrainerState, dataloader: Any, last: Row) -> bool:
        """Whether this end of an epoch, of a length not known before, comes after the last row."""
        known = self.steps or has_length(dataloader)
        return not known and last["step"] != state.global_step


def steps_between(every: str | int) -> int | None:
    """Return the number of steps between checkpoints, None for epochs; refuse anything else."""
    if every == "epoch":
        return None
    if not str(every).isdecimal() or int(every) < 1:
        msg = f"every is {every!r}; expected 'epoch' or a number of optimizer steps."
        raise ValueError(msg)
    return int(every)
