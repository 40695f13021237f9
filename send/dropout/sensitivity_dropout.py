"""Sensitivity Dropout without a trainer: what it measures, when it drops, and what it remembers.

A training loop tells it of each checkpoint; it knows of no loop. The model is looked at through
hooks, so nothing of this is in its weights or its configuration.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers import PreTrainedTokenizerBase

from send.checkpoints.checkpoint import Row, SendState, read_state, write_state
from send.data.as_dataset import as_dataset
from send.dropout.history import OF_A_CHOICE, agreed, prefixed, spread
from send.dropout.mask import SensitivityMask
from send.dropout.options import SensitivityDropoutOptions, keywords_of
from send.dropout.selection import selected
from send.dropout.sensitivity import SensitivityTracker
from send.dropout.tracking import TrackingSet, Watched, with_fitting_prompts
from send.models.hidden_states import block_at, hidden_size
from send.models.tokenized_rows import read_rows
from send.models.wrapped import check_head, uncompiled, unwrapped

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["SensitivityDropout"]

DECISIVE = (
    "drop_fraction",
    "selection",
    "window",
    "hold",
    "warmup",
    "cooldown",
    "aggregate",
    "rescale",
    "score_prompts",
    "num_samples",
    "max_new_tokens",
    "seed",
)
"""Options that must not change when a training goes on; those of reading are in the tracking."""


@dataclass(frozen=True, eq=False)
class _Attached:
    """A model under the mask, and what it is measured by."""

    model: Any
    tokenizer: PreTrainedTokenizerBase | None
    tracking: TrackingSet
    mask: SensitivityMask
    checkpoints: int | None


class SensitivityDropout:
    """Drop the most sensitive embedding indices while training, and keep a record.

    At each checkpoint the rows of a tracking set, which must not be trained on, pass through the
    model, with the mask off. Once there are `window` checkpoints, counted from the start, the
    `drop_fraction` of the indices whose embeddings varied most over them is dropped; it stays so
    for `hold` checkpoints, and then the choice is made again. With the defaults and epochs:
    checkpoints 0, 1 and 2 choose the mask of epochs 3 to 5, checkpoints 3, 4 and 5 that of epochs 6
    to 8, and so on. Evaluation never sees the mask, nor does the model that is saved.

    Parameters
    ----------
    tracking_dataset : datasets.Dataset, list of dict, list of str, str or Path
        Rows as `tokenized_rows.read_rows` takes them, or texts, or a file: see `send.load_texts`.
    **options
        As the attributes of `DropoutOptions` (drop_fraction, selection, window, hold, warmup,
        cooldown, layer, pooling, aggregate, rescale, score_prompts, num_samples, max_new_tokens,
        stop_loss, stop_score) and of `SensitivityDropoutOptions` (max_length,
        completion_only_loss, batch_size, seed).

    Attributes
    ----------
    history : list of dict
        One row a checkpoint: ``checkpoint``, ``step``, ``epoch``, ``train_loss``, as they were
        told; ``tracking_loss``; ``eigenscore`` and its standard error over prompts,
        ``eigenscore_stderr``; ``masked``, the indices dropped from here on; and where they were
        chosen, ``sensitivity`` of all indices, ``masked_share`` of it, ``magnitude_ratio`` (mean
        absolute value of the dropped indices over that of the most sensitive ones), and
        ``loss_jump``, by how much the mask changes the tracking loss, with its standard error
        ``loss_jump_stderr``. What does not apply is None.
    options : SensitivityDropoutOptions
    tracker : SensitivityTracker
        The embeddings of the last checkpoints.
    mask : SensitivityMask or None
        None before `attach`; taken off the model by `detach`.

    Raises
    ------
    ValueError
        If an option is not as described.

    Notes
    -----
    A checkpoint costs one forward pass of the tracking set, and its sampled answers. A choice costs
    a pass of a tenth of it (of one batch at least), on which the jump of the loss is measured. Only
    the hidden states of one layer are kept. In a distributed training every process makes the same
    calls; all go on with the row of the first.

    References
    ----------
    SenD (arXiv:2410.15460), Algorithm 2; K = 20 %, C = 3, T = 3.

    Examples
    --------
    >>> from transformers import GPT2Config, GPT2LMHeadModel
    >>> model = GPT2LMHeadModel(GPT2Config(n_layer=3, n_head=2, n_embd=8, vocab_size=11))
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    >>> rows = [{"input_ids": [3, 1, 4, 1, 5]}, {"input_ids": [2, 7, 1, 8]}]
    >>> send = SensitivityDropout(rows, score_prompts=0)
    >>> send.attach(model)
    >>> row = send.checkpoint(step=0)
    >>> ids = torch.tensor([[9, 2, 6, 5]])
    >>> for step in range(1, 5):
    ...     model(ids, labels=ids).loss.backward()
    ...     optimizer.step()
    ...     row = send.checkpoint(step=step)
    >>> send.detach()
    >>> [len(row["masked"]) for row in send.history]
    [0, 0, 2, 2, 2]
    """

    @keywords_of(SensitivityDropoutOptions)
    def __init__(
        self, tracking_dataset: Dataset | Sequence[Any] | str | Path, **options: Any
    ) -> None:
        self.options = SensitivityDropoutOptions(**options)
        self.tracker = SensitivityTracker(self.options.window, aggregate=self.options.aggregate)
        self.tracking_dataset = as_dataset(tracking_dataset)
        self.history: list[Row] = []
        self._attached: _Attached | None = None

    # A training ---------------------------------------------------------------------------------

    def attach(
        self,
        model: nn.Module,
        tokenizer: PreTrainedTokenizerBase | None = None,
        *,
        checkpoints: int | None = None,
    ) -> None:
        """Begin a training: forget one before, read the tracking set, put the mask on the model.

        Parameters
        ----------
        model : nn.Module
            A causal language model, also inside PEFT, or as Accelerate or Torch have wrapped it. A
            model that is compiled should not have been called yet, or it is compiled again.
        tokenizer : PreTrainedTokenizerBase, optional
            Needed for rows of text and for the score.
        checkpoints : int, optional
            How many checkpoints there will be after the start; needed for a cool-down.

        Raises
        ------
        ValueError
            If this is no causal language model, its indices cannot be shared as asked, the rows
            cannot be read, or a cool-down has no end to count from.
        """
        self.detach()
        self.tracker.restore(())
        self.history = []
        model = unwrapped(model)
        block_at(model, self.options.layer)
        check_head(model)
        self.options.check_share(hidden_size(model))
        self.options.check_length(checkpoints)
        tracking = self._read(model, tokenizer)
        mask = SensitivityMask(model, self.options.layer, rescale=self.options.rescale)
        self._attached = _Attached(model, tokenizer, tracking, mask, checkpoints)

    def checkpoint(
        self,
        *,
        step: int,
        epoch: float | None = None,
        train_loss: float | torch.Tensor | None = None,
    ) -> Row:
        """Measure, and choose the mask anew if it is time to.

        To be called at the start of a training, in the role of checkpoint 0, and then after each
        epoch, or every so many optimizer steps; by every process of a distributed training.

        Parameters
        ----------
        step : int
            Number of optimizer steps done.
        epoch : float, optional
            Number of passes over the data.
        train_loss : float or Tensor, optional
            For the record.

        Returns
        -------
        dict
            The new row of `history`.

        Raises
        ------
        RuntimeError
            If there is no model: see `attach`.
        ValueError
            If the model's hidden states are not finite any more.
        """
        at = self._here()
        with uncompiled(at.model):
            watched = at.tracking.watch(at.model)
            self.tracker.update(watched.embeddings)
            score, error = at.tracking.score(at.model, at.tokenizer)
            row: Row = {
                "checkpoint": len(self.history),
                "step": step,
                "epoch": None if epoch is None else float(epoch),
                "train_loss": _number(train_loss),
                "tracking_loss": watched.loss,
                "eigenscore": score,
                "eigenscore_stderr": error,
                **self._select(at, watched),
            }
        row = agreed(row)
        at.mask.set(row["masked"])
        self.history.append(row)
        return row

    def detach(self) -> None:
        """Take the mask off the model; safe to call at any time."""
        if self.mask is not None:
            self.mask.remove()

    @property
    def mask(self) -> SensitivityMask | None:
        """The mask, None before `attach`."""
        return None if self._attached is None else self._attached.mask

    @property
    def logs(self) -> Row:
        """The last row of `history` as numbers to log, their names beginning with ``send/``.

        Raises
        ------
        RuntimeError
            If there was no checkpoint yet.
        """
        self._require_a_checkpoint("log")
        return prefixed(self.history[-1])

    @property
    def converged(self) -> bool:
        """Whether loss and score have both settled: time to stop, if that was asked for."""
        if (
            self.options.stop_loss is None
            or self.options.stop_score is None
            or not self.tracker.ready
        ):
            return False
        last = self.history[-self.tracker.window :]
        return (
            spread(last, "tracking_loss") <= self.options.stop_loss
            and spread(last, "eigenscore") <= self.options.stop_score
        )

    # What is remembered -------------------------------------------------------------------------

    def state(self, step: int | None = None) -> SendState:
        """Return what resuming needs after an optimizer step: unless given, the last checkpoint's.

        Raises
        ------
        RuntimeError
            If there was no checkpoint yet.
        """
        self._require_a_checkpoint("save")
        return SendState(
            step=self.history[-1]["step"] if step is None else step,
            embeddings=self.tracker.checkpoints,
            history=self.history,
            identity=self._identity(),
        )

    def _require_a_checkpoint(self, what: str) -> None:
        if not self.history:
            msg = f"there is nothing to {what} before the first checkpoint: checkpoint(step=0)."
            raise RuntimeError(msg)

    def restore(self, state: SendState) -> None:
        """Go on from a state: the mask is on at once. To be called after `attach`.

        Raises
        ------
        ValueError
            If the tracking set or an option was another one.
        RuntimeError
            If there is no model.
        """
        now = self._identity()
        differing = [name for name, value in now.items() if state.identity.get(name) != value]
        if differing:
            what = " and ".join(differing)
            msg = f"the checkpoint has another {what} than this training; pass what it began with."
            raise ValueError(msg)
        self.tracker.restore(state.embeddings)
        self.history = list(state.history)
        self._here().mask.set(self.history[-1]["masked"])

    def save(self, folder: str | Path, *, step: int | None = None) -> None:
        """Write ``send_state.safetensors`` into an existing folder, by one process of them all."""
        write_state(self.state(step), Path(folder))

    def load(self, folder: str | Path) -> None:
        """Go on from what `save` has written; see `restore`."""
        self.restore(read_state(Path(folder)))

    def state_dict(self) -> Row:
        """Return the same as a dictionary, for ``Accelerator.register_for_checkpointing``."""
        state = self.state()
        return {**vars(state), "embeddings": torch.from_numpy(state.embeddings)}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` returned; see `restore`."""
        self.restore(
            SendState(**{**state_dict, "embeddings": state_dict["embeddings"].cpu().numpy()})
        )

    # The parts ----------------------------------------------------------------------------------

    def _here(self) -> _Attached:
        if self._attached is None:
            msg = "there is no model yet; call attach(model, tokenizer) first."
            raise RuntimeError(msg)
        return self._attached

    def _read(self, model: Any, tokenizer: PreTrainedTokenizerBase | None) -> TrackingSet:
        options = self.options
        positions = getattr(model.config, "max_position_embeddings", None)
        lengths = [n for n in (options.max_length, positions) if n is not None]
        rows = read_rows(
            self.tracking_dataset,
            tokenizer,
            max_length=min(lengths, default=None),
            completion_only_loss=options.completion_only_loss,
        )
        if options.score_prompts and tokenizer is not None:
            rows = with_fitting_prompts(rows, model, tokenizer, options.max_new_tokens)
        return TrackingSet(
            rows=rows,
            layer=options.layer,
            pooling=options.pooling,
            batch_size=options.batch_size,
            score_prompts=options.score_prompts,
            num_samples=options.num_samples,
            max_new_tokens=options.max_new_tokens,
            seed=options.seed,
        )

    def _select(self, at: _Attached, watched: Watched) -> Row:
        """Choose the mask anew if it is time to; return what the history says about it."""
        row: Row = dict.fromkeys(OF_A_CHOICE)
        if self._cooling(at):
            at.mask.release()
        elif self._due():
            row.update(self._choice(at, watched))
        return {"masked": list(at.mask.indices), **row}

    def _cooling(self, at: _Attached) -> bool:
        if at.checkpoints is None or not self.options.cooldown:
            return False
        return len(self.history) >= at.checkpoints - self.options.cooldown

    def _due(self) -> bool:
        number = len(self.history)
        since = max(number + 1 - self.options.hold, 0)
        held = any(row["sensitivity"] is not None for row in self.history[since:])
        return self.tracker.ready and number >= self.options.warmup and not held

    def _choice(self, at: _Attached, watched: Watched) -> Row:
        v, size = self.tracker.variability(), watched.magnitudes
        how: dict[str, Any] = {"magnitudes": size, "seed": [self.options.seed, len(self.history)]}
        sensitive = selected(v, self.options.drop_fraction, selection="sensitive", **how)
        chosen = selected(v, self.options.drop_fraction, selection=self.options.selection, **how)
        at.mask.set(chosen)
        row: Row = {"sensitivity": v.tolist()}
        if at.mask.active:
            row["masked_share"] = float(v[chosen].sum() / (v.sum() or 1))
            row["magnitude_ratio"] = float(size[chosen].mean() / (size[sensitive].mean() or 1))
            with at.mask.everywhere():
                jump, error = at.tracking.loss_jump(at.model, watched)
            row.update(loss_jump=jump, loss_jump_stderr=error)
        return row

    def _identity(self) -> Row:
        """Return what must be the same for a training to go on as if it had not been stopped."""
        return {
            **self._here().tracking.identity,
            **{name: getattr(self.options, name) for name in DECISIVE},
        }


def _number(value: float | torch.Tensor | None) -> float | None:
    return value.item() if isinstance(value, torch.Tensor) else value
