"""Sensitivity Dropout in any Transformers `Trainer`: a callback that watches, selects and masks.

The model is looked at through hooks, so nothing of this is in its weights, its configuration or
what `Trainer` saves of it.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accelerate import PartialState
from torch import nn
from transformers import PreTrainedTokenizerBase, TrainerCallback, TrainingArguments
from transformers.trainer_callback import TrainerControl, TrainerState
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, has_length

from send.checkpoint import (
    Rotation,
    Row,
    SendState,
    find_checkpoint,
    load_renamed_weights,
    read_state,
    saving,
    write_state,
)
from send.data import as_dataset
from send.embeddings import check_pooling
from send.hidden import PENULTIMATE
from send.masking import SensitivityMask
from send.sampling import check_generation
from send.sensitivity import (
    SensitivityTracker,
    check_count,
    check_fraction,
    most_sensitive,
)
from send.tracking import TrackingSet, read_rows, with_fitting_prompts

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["SendCallback", "steps_between"]

logger = logging.getLogger(__name__)

LOGGED = ("tracking_loss", "eigenscore", "eigenscore_stderr", "masked_share", "loss_jump")


class SendCallback(TrainerCallback):  # type: ignore[misc]  # mypy does not follow transformers
    """Drop the most sensitive embedding indices while training, and keep a record.

    At the start and at each checkpoint (the end of an epoch, or every so many optimizer steps) the
    rows of a tracking set, which must not be trained on, pass through the model, with the mask off.
    Once there are `window` checkpoints, counted from the start, the `drop_fraction` of the indices
    whose embeddings varied most over them is dropped; it stays so for `hold` checkpoints, and then
    the choice is made again. With the defaults and epochs: checkpoints 0, 1 and 2 choose the mask
    of epochs 3 to 5, checkpoints 3, 4 and 5 that of epochs 6 to 8, and so on. Evaluation never sees
    the mask, nor does the model that is saved.

    Parameters
    ----------
    tracking_dataset : datasets.Dataset, list of dict, list of str, str or Path
        Rows as `send.tracking.read_rows` takes them, or texts, or a file: see `send.load_texts`.
    drop_fraction : float
        Share of the embedding indices to drop. 0 is plain training with the same record.
    window : int
        C, the number of checkpoints over which sensitivity is measured.
    hold : int
        T, the number of checkpoints for which a choice stays.
    every : "epoch" or int
        What a checkpoint is; a number of optimizer steps suits trainings of few epochs.
    layer, pooling
        Of the embeddings, as for `send.sentence_embedding`; the mask is on the same layer.
    aggregate : {"per-input", "mean-first"}
        As for `send.sensitivity.variability`.
    rescale : bool
        As for `SensitivityMask`.
    score_prompts, num_samples, max_new_tokens : int
        At each checkpoint the EigenScore of `num_samples` sampled answers is averaged over
        `score_prompts` prompts, taken at random from the tracking set; 0 prompts: no score.
    stop_loss, stop_score : float, optional
        Stop the training when, over the last `window` checkpoints, the tracking loss stays within
        `stop_loss` and the mean EigenScore (to which EES converges) within `stop_score`. Both or
        neither; off unless given, since a falling score does not mean less hallucination.
    max_length : int, optional
        Tokens of a tracking row beyond it are cut off.
    completion_only_loss : bool
        Whether the tracking loss of a prompt and its completion is that of the completion.
    batch_size : int
        Tracking rows at once.
    seed : int
        Of the prompts and the answers. Every checkpoint draws alike, to be comparable, and the
        random state of the training is not touched.
    resume_from : str or Path, optional
        The checkpoint folder that the training resumes from. Needed only if it is neither in
        ``args.output_dir`` nor in ``args.resume_from_checkpoint``: `Trainer` does not tell.

    Attributes
    ----------
    history : list of dict
        One row a checkpoint: ``checkpoint``, ``step``, ``epoch``; ``train_loss``, the last one
        logged since the checkpoint before; ``tracking_loss``; ``eigenscore`` and its standard error
        over prompts, ``eigenscore_stderr``; ``masked``, the indices dropped from here on; and where
        they were chosen, ``sensitivity`` of all indices, ``masked_share`` of it, and ``loss_jump``,
        by how much the mask changes the tracking loss. What does not apply is None.
    tracker : SensitivityTracker
        The embeddings of the last checkpoints.
    mask : SensitivityMask or None
        None before the training; taken off the model after it.

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
    chooses the same mask; the main one writes.

    References
    ----------
    SenD (arXiv:2410.15460), Algorithm 2; K = 20 %, C = 3, T = 3.

    Examples
    --------
    >>> SendCallback([{"text": "Ada was born in Oslo."}], every=100).steps
    100
    """

    def __init__(
        self,
        tracking_dataset: Dataset | Sequence[Any] | str | Path,
        *,
        drop_fraction: float = 0.2,
        window: int = 3,
        hold: int = 3,
        every: str | int = "epoch",
        layer: int = PENULTIMATE,
        pooling: str = "mean+last",
        aggregate: str = "per-input",
        rescale: bool = False,
        score_prompts: int = 16,
        num_samples: int = 10,
        max_new_tokens: int = 32,
        stop_loss: float | None = None,
        stop_score: float | None = None,
        max_length: int | None = 1024,
        completion_only_loss: bool = True,
        batch_size: int = 16,
        seed: int = 0,
        resume_from: str | Path | None = None,
    ) -> None:
        check_fraction(drop_fraction)
        check_pooling(pooling)
        check_generation(num_samples=num_samples, max_new_tokens=max_new_tokens, seed=seed)
        self.tracker = SensitivityTracker(window, aggregate=aggregate)
        self.tracking_dataset = as_dataset(tracking_dataset)
        self.drop_fraction = drop_fraction
        self.hold = hold
        self.steps = steps_between(every)
        self.layer = layer
        self.pooling = pooling
        self.rescale = rescale
        self.score_prompts = score_prompts
        self.num_samples = num_samples
        self.max_new_tokens = max_new_tokens
        self.stop_loss = stop_loss
        self.stop_score = stop_score
        self.max_length = max_length
        self.completion_only_loss = completion_only_loss
        self.batch_size = batch_size
        self.seed = seed
        self.resume_from = resume_from
        self.mask: SensitivityMask | None = None
        self.history: list[Row] = []
        self._unlogged: Row = {}
        self._rotation: Rotation | None = None
        self._check()

    def _check(self) -> None:
        lowest = {"hold": 1, "score_prompts": 0, "batch_size": 1}
        if self.max_length is not None:
            lowest["max_length"] = 2  # the first token is not predicted
        for name, low in lowest.items():
            check_count(name, getattr(self, name), low)
        if (self.stop_loss is None) != (self.stop_score is None):
            msg = "stop_loss and stop_score work together; pass both tolerances, or neither."
            raise ValueError(msg)
        for name, value in {"stop_loss": self.stop_loss, "stop_score": self.stop_score}.items():
            if value is not None and not value >= 0:
                msg = f"{name} is {value}; expected a tolerance of at least 0, or None."
                raise ValueError(msg)
        if self.stop_score is not None and self.score_prompts == 0:
            msg = "stop_score needs a score, but score_prompts is 0; expected at least 1 prompt."
            raise ValueError(msg)

    # What Trainer calls -------------------------------------------------------------------------

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **event: Any
    ) -> None:
        """Read the tracking set; then measure checkpoint 0, or restore what a training had."""
        model, tokenizer = event["model"], event["processing_class"]
        self.close()
        self.tracker.restore(())
        self.history = []
        self._tracking = self._read(model, tokenizer)
        self.mask = SensitivityMask(model, self.layer, rescale=self.rescale)
        self._check_share(self.mask.size)
        self._rotation = Rotation(args)
        if state.global_step > 0:
            folder = find_checkpoint(self._places(args, state), state.global_step)
            self._restore(folder, model, state)
        else:
            self._checkpoint(state, model, tokenizer)
        self._warn_if_idle(state)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **event: Any
    ) -> TrainerControl:
        """Measure, if the step completes an epoch or a number of steps."""
        # The end of an epoch is noticed here, not in on_epoch_end: a checkpoint saved at this very
        # step resumes in the next epoch, where on_epoch_end would never have been called.
        done = state.global_step / self.steps if self.steps else state.epoch
        return self._measured(state, control, event) if done.is_integer() else control

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **event: Any
    ) -> TrainerControl:
        """Measure at the end of a pass through data whose length was not known before."""
        known = has_length(event["train_dataloader"])
        done = self.history[-1]["step"] == state.global_step
        return control if self.steps or known or done else self._measured(state, control, event)

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **event: Any
    ) -> None:
        """Add the last measurements to what is logged, for the callbacks that come after."""
        logs = event["logs"]
        if "loss" in logs and self.history and self.history[-1]["step"] == state.global_step:
            self.history[-1]["train_loss"] = logs["loss"]
        logs.update(self._unlogged)
        self._unlogged = {}

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
            saved = SendState(
                step=state.global_step,
                embeddings=self.tracker.checkpoints,
                history=self.history,
                identity=self._identity(),
            )
            with saving(folder.name, folder.parent):
                write_state(saved, folder)
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
        if self.mask is not None:
            self.mask.remove()
        if self._rotation is not None:
            self._rotation.give_back()

    # One checkpoint -----------------------------------------------------------------------------

    def _measured(
        self, state: TrainerState, control: TrainerControl, event: Mapping[str, Any]
    ) -> TrainerControl:
        self._checkpoint(state, event["model"], event["processing_class"])
        if self._converged():
            control.should_training_stop = True
        return control

    def _checkpoint(
        self, state: TrainerState, model: nn.Module, tokenizer: PreTrainedTokenizerBase | None
    ) -> None:
        embeddings, loss = self._tracking.watch(model)
        self.tracker.update(embeddings)
        score, error = self._tracking.score(model, tokenizer)
        row: Row = {
            "checkpoint": len(self.history),
            "step": state.global_step,
            "epoch": float(state.epoch),
            "train_loss": self._last_loss(state),
            "tracking_loss": loss,
            "eigenscore": score,
            "eigenscore_stderr": error,
            **self._select(model, loss),
        }
        self.history.append(row)
        self._unlogged = _metrics(row)
        state.log_history.append(_log_entry(row))

    def _select(self, model: nn.Module, loss: float) -> Row:
        """Choose the mask anew if it is time to; return what the history says about it."""
        mask, since = self._mask(), max(len(self.history) + 1 - self.hold, 0)
        held = any(row["sensitivity"] is not None for row in self.history[since:])
        chosen: Row = {"sensitivity": None, "masked_share": None, "loss_jump": None}
        if self.tracker.ready and not held:
            v = self.tracker.variability()
            mask.set(most_sensitive(v, self.drop_fraction))
            chosen["sensitivity"] = v.tolist()
            if mask.active:
                chosen["masked_share"] = float(v[list(mask.indices)].sum() / (v.sum() or 1))
                with mask.everywhere():
                    chosen["loss_jump"] = self._tracking.watch(model)[1] - loss
        return {"masked": list(mask.indices), **chosen}

    def _last_loss(self, state: TrainerState) -> float | None:
        since = self.history[-1]["step"] if self.history else 0
        logged = [r["loss"] for r in state.log_history if "loss" in r and r["step"] > since]
        return logged[-1] if logged else None

    def _converged(self) -> bool:
        if self.stop_loss is None or self.stop_score is None or not self.tracker.ready:
            return False
        last = self.history[-self.tracker.window :]
        return (
            _spread(last, "tracking_loss") <= self.stop_loss
            and _spread(last, "eigenscore") <= self.stop_score
        )

    # Before and after ---------------------------------------------------------------------------

    def _read(self, model: Any, tokenizer: PreTrainedTokenizerBase | None) -> TrackingSet:
        positions = getattr(model.config, "max_position_embeddings", None)
        lengths = [n for n in (self.max_length, positions) if n is not None]
        rows = read_rows(
            self.tracking_dataset,
            tokenizer,
            max_length=min(lengths, default=None),
            completion_only_loss=self.completion_only_loss,
        )
        if self.score_prompts and tokenizer is not None:
            rows = with_fitting_prompts(rows, model, tokenizer, self.max_new_tokens)
        return TrackingSet(
            rows=rows,
            layer=self.layer,
            pooling=self.pooling,
            batch_size=self.batch_size,
            score_prompts=self.score_prompts,
            num_samples=self.num_samples,
            max_new_tokens=self.max_new_tokens,
            seed=self.seed,
        )

    def _check_share(self, size: int) -> None:
        """Refuse, before the first step, a share of the indices that is none or all of them."""
        dropped = round(self.drop_fraction * size)
        if self.drop_fraction and not 0 < dropped < size:
            what = "none" if dropped == 0 else "all"
            msg = (
                f"drop_fraction is {self.drop_fraction}, which of the {size} embedding indices of "
                f"this model drops {what}; expected 0 for plain training, or from "
                f"{1 / size:.2g} to {1 - 1 / size:.4g}."
            )
            raise ValueError(msg)

    def _identity(self) -> Row:
        """Return what must be the same for a training to go on as if it had not been stopped."""
        return {
            **self._tracking.identity,
            "drop_fraction": self.drop_fraction,
            "window": self.tracker.window,
            "hold": self.hold,
            "every": self.steps or "epoch",
            "aggregate": self.tracker.aggregate,
            "rescale": self.rescale,
        }

    def _places(self, args: TrainingArguments, state: TrainerState) -> list[str | Path]:
        if self.resume_from is not None:
            return [self.resume_from]
        given = args.resume_from_checkpoint
        return [*([given] if given else []), _checkpoint_folder(args, state.global_step)]

    def _restore(self, folder: Path, model: nn.Module, state: TrainerState) -> None:
        saved = read_state(folder)
        now = self._identity()
        differing = [name for name, value in now.items() if saved.identity.get(name) != value]
        if differing:
            what = " and ".join(differing)
            msg = f"the checkpoint has another {what} than this training; pass what it began with."
            raise ValueError(msg)
        logged = [row for row in state.log_history if "send/checkpoint" in row]
        if logged[-1:] != [_log_entry(saved.history[-1])]:
            msg = (
                f"the state found for step {saved.step} is of another training than the "
                "checkpoint; pass resume_from=<the checkpoint folder> to SendCallback."
            )
            raise ValueError(msg)
        load_renamed_weights(model, folder)
        self.tracker.restore(saved.embeddings)
        self.history = saved.history
        self._mask().set(self.history[-1]["masked"])

    def _mask(self) -> SensitivityMask:
        if self.mask is None:
            msg = "there is no mask before the training has begun."
            raise RuntimeError(msg)
        return self.mask

    def _warn_if_idle(self, state: TrainerState) -> None:
        # The mask chosen at the last checkpoint would come after the last step.
        planned = state.max_steps // self.steps if self.steps else state.num_train_epochs
        if self.drop_fraction and planned < self.tracker.window:
            logger.warning(
                "nothing will be dropped: a mask needs window = %d checkpoints, the start being "
                "one, and training after them, but this training ends %d checkpoints after its "
                "start. Train longer, or pass a smaller every=<steps>.",
                self.tracker.window,
                planned,
            )


def steps_between(every: str | int) -> int | None:
    """Return the number of steps between checkpoints, None for epochs; refuse anything else."""
    if every == "epoch":
        return None
    if not str(every).isdecimal() or int(every) < 1:
        msg = f"every is {every!r}; expected 'epoch' or a number of optimizer steps."
        raise ValueError(msg)
    return int(every)


def _spread(rows: Sequence[Row], name: str) -> float:
    values = [float(row[name]) for row in rows]
    return max(values) - min(values)


def _checkpoint_folder(args: TrainingArguments, step: int) -> Path:
    return Path(args.output_dir) / f"{PREFIX_CHECKPOINT_DIR}-{step}"


def _metrics(row: Row) -> Row:
    known = {f"send/{name}": row[name] for name in LOGGED if row[name] is not None}
    return {"send/checkpoint": row["checkpoint"], **known, "send/masked": len(row["masked"])}


def _log_entry(row: Row) -> Row:
    return {**_metrics(row), "epoch": row["epoch"], "step": row["step"]}
