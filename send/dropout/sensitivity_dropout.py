"""Sensitivity Dropout without a trainer: what it measures, when it drops, and what it remembers.

A training loop tells it of each checkpoint; it knows of no loop. The model is looked at through
hooks, so nothing of this is in its weights or its configuration.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from accelerate.utils import is_compiled_module
from torch import distributed, nn
from transformers import PreTrainedTokenizerBase

from send.checkpoints.checkpoint import Row, SendState, read_state, write_state
from send.data.as_dataset import as_dataset
from send.dropout.mask import SensitivityMask
from send.dropout.selection import check_selection, selected
from send.dropout.sensitivity import SensitivityTracker, check_count, check_fraction
from send.dropout.tracking import TrackingSet, Watched, with_fitting_prompts
from send.models.embeddings import check_pooling
from send.models.generation_options import check_generation
from send.models.hidden_states import PENULTIMATE, block_at, hidden_size
from send.models.tokenized_rows import read_rows

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["SensitivityDropout", "agreed", "prefixed"]

logger = logging.getLogger(__name__)

OF_A_CHOICE = ("sensitivity", "masked_share", "magnitude_ratio", "loss_jump", "loss_jump_stderr")
"""What the history says only where a mask was chosen."""

LOGGED = ("tracking_loss", "eigenscore", "eigenscore_stderr", *OF_A_CHOICE[1:])


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
    drop_fraction : float
        Share of the embedding indices to drop. 0 is plain training with the same record.
    selection : {"sensitive", "random", "magnitude-matched", "none"}
        Which indices: the most sensitive ones; or, as controls, as many at random, others as large
        as the most sensitive ones (mean absolute value over the tracking set), or none, which is
        plain training with the same record.
    window : int
        C, the number of checkpoints over which sensitivity is measured.
    hold : int
        T, the number of checkpoints for which a choice stays.
    warmup : int
        The first checkpoint, counted from 0, at which a mask may be chosen; there is none before
        checkpoint ``window - 1`` anyway.
    cooldown : int
        The last so many intervals between checkpoints have no mask; the last one may be cut short.
        Needs the number of checkpoints to be known. 0 is the published method.
    layer, pooling
        Of the embeddings, as for `send.sentence_embedding`; the mask is on the same layer.
    aggregate : {"per-input", "mean-first"}
        As for `send.dropout.sensitivity.variability`.
    rescale : bool
        As for `SensitivityMask`.
    score_prompts, num_samples, max_new_tokens : int
        At each checkpoint the EigenScore of `num_samples` sampled answers is averaged over
        `score_prompts` prompts, taken at random from the tracking set; 0 prompts: no score.
    stop_loss, stop_score : float, optional
        Training has `converged` when, over the last `window` checkpoints, the tracking loss stays
        within `stop_loss` and the mean EigenScore (to which EES converges) within `stop_score`.
        Both or neither; off unless given, since a falling score does not mean less hallucination.
    max_length : int, optional
        Tokens of a tracking row beyond it are cut off.
    completion_only_loss : bool
        Whether the tracking loss of a prompt and its completion is that of the completion.
    batch_size : int
        Tracking rows at once.
    seed : int
        Of the prompts, of the answers and of random selections. Every checkpoint draws the same
        prompts and answers, to be comparable, and the random state of the training is not touched.

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

    def __init__(
        self,
        tracking_dataset: Dataset | Sequence[Any] | str | Path,
        *,
        drop_fraction: float = 0.2,
        selection: str = "sensitive",
        window: int = 3,
        hold: int = 3,
        warmup: int = 0,
        cooldown: int = 0,
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
    ) -> None:
        check_fraction(drop_fraction)
        check_selection(selection, drop_fraction)
        check_pooling(pooling)
        check_generation(num_samples=num_samples, max_new_tokens=max_new_tokens, seed=seed)
        self.tracker = SensitivityTracker(window, aggregate=aggregate)
        self.tracking_dataset = as_dataset(tracking_dataset)
        self.drop_fraction = drop_fraction
        self.selection = selection
        self.hold = hold
        self.warmup = warmup
        self.cooldown = cooldown
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
        self.history: list[Row] = []
        self._attached: _Attached | None = None
        self._check()

    def _check(self) -> None:
        lowest = {"hold": 1, "warmup": 0, "cooldown": 0, "score_prompts": 0, "batch_size": 1}
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
        model = _unwrapped(model)
        block_at(model, self.layer)
        _check_head(model)
        self._check_share(hidden_size(model))
        self._check_length(checkpoints)
        tracking = self._read(model, tokenizer)
        mask = SensitivityMask(model, self.layer, rescale=self.rescale)
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
        with _uncompiled(at.model):
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
        if self.stop_loss is None or self.stop_score is None or not self.tracker.ready:
            return False
        last = self.history[-self.tracker.window :]
        return (
            _spread(last, "tracking_loss") <= self.stop_loss
            and _spread(last, "eigenscore") <= self.stop_score
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

    @property
    def _plain(self) -> bool:
        return self.selection == "none" or self.drop_fraction == 0

    def _select(self, at: _Attached, watched: Watched) -> Row:
        """Choose the mask anew if it is time to; return what the history says about it."""
        row: Row = dict.fromkeys(OF_A_CHOICE)
        if self._cooling(at):
            at.mask.release()
        elif self._due():
            row.update(self._choice(at, watched))
        return {"masked": list(at.mask.indices), **row}

    def _cooling(self, at: _Attached) -> bool:
        if at.checkpoints is None or not self.cooldown:
            return False
        return len(self.history) >= at.checkpoints - self.cooldown

    def _due(self) -> bool:
        number = len(self.history)
        since = max(number + 1 - self.hold, 0)
        held = any(row["sensitivity"] is not None for row in self.history[since:])
        return self.tracker.ready and number >= self.warmup and not held

    def _choice(self, at: _Attached, watched: Watched) -> Row:
        v, size = self.tracker.variability(), watched.magnitudes
        how: dict[str, Any] = {"magnitudes": size, "seed": [self.seed, len(self.history)]}
        sensitive = selected(v, self.drop_fraction, selection="sensitive", **how)
        chosen = selected(v, self.drop_fraction, selection=self.selection, **how)
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
            "drop_fraction": self.drop_fraction,
            "selection": self.selection,
            "window": self.tracker.window,
            "hold": self.hold,
            "warmup": self.warmup,
            "cooldown": self.cooldown,
            "aggregate": self.tracker.aggregate,
            "rescale": self.rescale,
            "score_prompts": self.score_prompts,
            "num_samples": self.num_samples,
            "max_new_tokens": self.max_new_tokens,
            "seed": self.seed,
        }

    def _check_share(self, size: int) -> None:
        """Refuse, before the first step, a share of the indices that is none or all of them."""
        dropped = round(self.drop_fraction * size)
        if not self._plain and not 0 < dropped < size:
            what = "none" if dropped == 0 else "all"
            msg = (
                f"drop_fraction is {self.drop_fraction}, which of the {size} embedding indices of "
                f"this model drops {what}; expected 0 for plain training, or from "
                f"{1 / size:.2g} to {1 - 1 / size:.4g}."
            )
            raise ValueError(msg)

    def _check_length(self, checkpoints: int | None) -> None:
        """Refuse a cool-down without an end; warn of a training in which nothing is dropped."""
        if checkpoints is None:
            if self.cooldown:
                msg = (
                    f"cooldown is {self.cooldown}, but it is not known how many checkpoints there "
                    "will be; pass attach(..., checkpoints=<their number>), or to a trainer "
                    "every=<steps> with max_steps, or cooldown=0."
                )
                raise ValueError(msg)
            return
        # The mask chosen at the last checkpoint would come after the last step.
        first = max(self.tracker.window - 1, self.warmup)
        if not self._plain and checkpoints - self.cooldown <= first:
            logger.warning(
                "nothing will be dropped: a mask needs window = %d checkpoints, the start being "
                "one, and training after them (warmup = %d, cooldown = %d), but this training ends "
                "%d checkpoints after its start. Train longer, or pass a smaller every=<steps>.",
                self.tracker.window,
                self.warmup,
                self.cooldown,
                checkpoints,
            )


def prefixed(row: Row) -> Row:
    """Return what is logged of a row of the history: numbers, their names beginning with ``send/``.

    ``send/masked`` is the number of dropped indices and ``send/sensitivity_mean`` the mean over all
    indices. What is None is left out.
    """
    logs = {f"send/{name}": row[name] for name in LOGGED if row[name] is not None}
    if row["sensitivity"] is not None:
        logs["send/sensitivity_mean"] = sum(row["sensitivity"]) / len(row["sensitivity"])
    return {"send/checkpoint": row["checkpoint"], **logs, "send/masked": len(row["masked"])}


def _unwrapped(model: nn.Module) -> nn.Module:
    """Return the model that is replicated or compiled, its blocks being those that train.

    One that is sharded stays in its wrapper, without which it does not compute.
    """
    while True:
        inner: Any = None
        if isinstance(model, (nn.parallel.DistributedDataParallel, nn.DataParallel)):
            inner = model.module
        elif is_compiled_module(model):
            inner = model._orig_mod
        if inner is None:
            return model
        model = inner


def _check_head(model: nn.Module) -> None:
    can_generate: Any = getattr(model, "can_generate", None)
    if can_generate is not None and not can_generate():
        msg = (
            f"{type(model).__name__} has no head that predicts tokens; expected a causal language "
            "model, as AutoModelForCausalLM loads it."
        )
        raise ValueError(msg)


def _number(value: float | torch.Tensor | None) -> float | None:
    return value.item() if isinstance(value, torch.Tensor) else value


def _spread(rows: Sequence[Row], name: str) -> float:
    values = [float(row[name]) for row in rows]
    return max(values) - min(values)


def _uncompiled(model: nn.Module) -> AbstractContextManager[Any]:
    """Return a context in which compiled parts of a model run as they are written.

    Measurements come in other shapes than training, and each would be compiled for itself.
    """
    compiled = any(
        module._compiled_call_impl is not None or hasattr(module, "_orig_mod")
        for module in model.modules()
    )
    return torch.compiler.set_stance("force_eager") if compiled else nullcontext()


def agreed(row: Row) -> Row:
    """Return the row of the first process, which may differ from that of another in last bits.

    Every process has to call this. What is decided by a row is then decided alike.
    """
    if not (distributed.is_available() and distributed.is_initialized()):
        return row
    rows = [row]
    distributed.broadcast_object_list(rows, src=0)
    return rows[0]
