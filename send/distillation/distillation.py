"""Knowledge distillation: a student learns the next-token distributions of a teacher, too.

Two hooks on the student add the divergence from the teacher to the loss of each token, before the
trainer sums and divides: whatever it does to the one, it does to the other.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from send.distillation.divergence import bucketed_kl, forward_kl, top_k
from send.distillation.teacher import Teacher, logits_of, response_mask
from send.distillation.teacher_cache import TeacherCache
from send.dropout.sensitivity import check_count
from send.models.embeddings import device_of

if TYPE_CHECKING:
    from datasets import Dataset
    from trl import SFTTrainer

__all__ = ["ROW", "CachedCollator", "Distillation", "check_distillation", "distil"]

logger = logging.getLogger(__name__)

FORMS = ("sum", "convex")

ROW = "kd_row"
"""The column of the training set by which a batch is looked up in a cache."""

CACHED = ("kd_indices", "kd_log_probs")
"""What is looked up."""

PORTION = 2**25
"""Logits at once: 134 MB in float32."""


def check_distillation(weight: float, form: str, temperature: float, k: int) -> None:
    """Raise a ValueError unless these are a loss.

    Parameters
    ----------
    weight : float
        lambda, at least 0; for the convex form at most 1.
    form : {"sum", "convex"}
        ``L_SFT + lambda L_KD``, or ``(1 - lambda) L_SFT + lambda L_KD``.
    temperature : float
        Above 0.
    k : int
        Tokens in a cache, at least 1.

    Raises
    ------
    ValueError
        If one of them is not so.
    """
    if form not in FORMS:
        msg = f"kd_form is {form!r}; expected one of {FORMS}."
        raise ValueError(msg)
    if not 0 <= weight < float("inf"):
        msg = f"lambda_kd is {weight}; expected at least 0, such as 0.1; 0 is plain training."
        raise ValueError(msg)
    if form == "convex" and weight > 1:
        msg = f"lambda_kd is {weight}; expected 0 to 1 with kd_form='convex', or kd_form='sum'."
        raise ValueError(msg)
    if not 0 < temperature < float("inf"):
        msg = f"kd_temperature is {temperature}; expected a number above 0, most often 1."
        raise ValueError(msg)
    check_count("kd_top_k", k, 1)


@dataclass(frozen=True)
class _Batch:
    """Where a batch has response tokens, and what the teacher says about them.

    Its last hidden states there, or else tokens with their log-probabilities from a cache.
    """

    mask: torch.Tensor
    said: tuple[torch.Tensor, ...]


class Distillation:
    """The loss of a teacher, added to that of the labels while a student trains.

    Parameters
    ----------
    student : nn.Module
        The model of a TRL trainer, which has fused its output layer; PEFT too.
    teacher : Teacher
        Not loaded if each batch brings what a cache holds of it.
    weight : float
        lambda.
    form : {"sum", "convex"}
        The loss: ``L_SFT + lambda L_KD``, or ``(1 - lambda) L_SFT + lambda L_KD``.
    temperature : float
        As for `send.distillation.divergence.forward_kl`.

    Attributes
    ----------
    totals : Tensor, shape (3,)
        Sums since the last line of the log: of L_KD, of L_SFT, and of tokens.

    Raises
    ------
    ValueError
        If an option is not as described, or student and teacher share weights.

    Notes
    -----
    L_KD is the mean of `forward_kl` over response tokens. The cross-entropy of
    teacher and student, which the literature writes, is larger by the entropy of the teacher, a
    constant: the gradient is the same, and 0 here means that they agree.

    A step costs a forward pass of the teacher, or a look into the cache; and, on response tokens
    only, products with the output layers, again in the backward pass, so that of either model no
    more than 2^25 logits are in memory at once. If vocabularies are of different sizes, both
    distributions are those over the tokens in common. In evaluation nothing is added.

    References
    ----------
    Nguyen et al. (arXiv:2502.11306): the losses; Hinton et al. (arXiv:1503.02531): temperature.
    """

    def __init__(
        self,
        student: Any,
        teacher: Teacher,
        *,
        weight: float = 0.1,
        form: str = "sum",
        temperature: float = 1.0,
    ) -> None:
        check_distillation(weight, form, temperature, 1)
        teacher.check_apart(student)
        self.teacher = teacher
        self.temperature = temperature
        self.weights = (1.0 if form == "sum" else 1.0 - weight, weight)
        inner = student.get_base_model() if hasattr(student, "get_base_model") else student
        self.student: PreTrainedModel = inner
        self.vocabulary = min(teacher.vocabulary, inner.config.get_text_config().vocab_size)
        self._batch: _Batch | None = None
        self._kl = torch.zeros(0)
        self.totals = torch.zeros(3)
        self._model = student

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Have the hooks on the student, inside this context, and count anew."""
        self.losses()
        # Within its forward pass: there autocast is on, and there FSDP has gathered the weights.
        handles = [
            self.student.base_model.register_forward_hook(self._compare),
            self._model.register_forward_hook(self._add),
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    @contextmanager
    def batch(self, inputs: dict[str, Any], *, training: bool = True) -> Iterator[None]:
        """Add the loss of the teacher to that of a batch, inside this context.

        Parameters
        ----------
        inputs : dict
            What the student gets, with labels; what comes from a cache is taken out of it.
        training : bool
            Whether to add it at all.
        """
        cached = tuple(inputs.pop(name) for name in CACHED if name in inputs)
        if training:
            mask = response_mask(inputs["labels"])
            self._batch = _Batch(mask, cached or (self.teacher.states(inputs, mask),))
        try:
            yield
        finally:
            self._batch = None
            self._kl = torch.zeros(0)

    def losses(self) -> torch.Tensor:
        """Return `totals`, and begin anew."""
        totals, self.totals = self.totals, torch.zeros_like(self.totals)
        return totals

    def _compare(self, _backbone: nn.Module, _inputs: Any, output: Any) -> None:
        """Compute the divergence at each response token of the batch."""
        if self._batch is None:
            return
        states, said = output.last_hidden_state[:, :-1], self._batch.said
        if states.shape[:2] != self._batch.mask.shape:
            msg = (
                f"the student has states for {tuple(states.shape[:2])} tokens, the labels are for "
                f"{tuple(self._batch.mask.shape)}: virtual tokens (prompt tuning) and sequences "
                "that are divided among devices are not supported."
            )
            raise ValueError(msg)
        states = states[self._batch.mask.to(states.device)]
        if len(said[0]) != len(states):
            msg = (
                f"the batch has {len(states)} response tokens, of which the cache has "
                f"{len(said[0])}; expected a data collator that leaves the rows as they are."
            )
            raise ValueError(msg)
        size = max(1, PORTION // self.vocabulary)
        portions = zip(*(torch.split(part, size) for part in (states, *said)), strict=True)
        # Logits are computed again in the backward pass, instead of being kept.
        kl = [
            checkpoint(self._divergence, *portion, use_reentrant=False, preserve_rng_state=False)
            for portion in portions
        ]
        self._kl = torch.cat(kl)

    def _divergence(self, states: torch.Tensor, *said: torch.Tensor) -> torch.Tensor:
        logits = logits_of(self.student, states)[:, : self.vocabulary]
        if len(said) == len(CACHED):
            indices, log_probs = said
            return bucketed_kl(indices, log_probs, logits, self.temperature)
        teacher = self.teacher.logits(said[0])[:, : self.vocabulary].to(logits.device)
        return forward_kl(teacher, logits, self.temperature)

    def _add(self, _model: nn.Module, _inputs: Any, output: Any) -> Any:
        """Put the loss of each token in the place of the log-probability of its label."""
        if self._batch is None:
            return None
        log_probs = output.log_probs
        mask = self._batch.mask.to(log_probs.device)
        kl = log_probs.new_zeros(mask.shape).masked_scatter(mask, self._kl.to(log_probs))
        sft, kd = self.weights
        output.log_probs = sft * log_probs - kd * kl
        with torch.no_grad():
            totals = torch.stack([kl.sum(), -log_probs.sum(), mask.sum()])
            self.totals = self.totals.to(totals.device) + totals
        return output


# In a trainer -----------------------------------------------------------------------------------


def distil(trainer: SFTTrainer, teacher: Teacher) -> Distillation:
    """Return the distillation that the settings of a trainer ask for, its cache filled.

    Parameters
    ----------
    trainer : SFTTrainer
        With a `SendConfig`, ready to train; with a cache its training set gets a column and its
        data collator is wrapped.
    teacher : Teacher
        Loaded now, unless a cache is complete.

    Returns
    -------
    Distillation

    Raises
    ------
    ValueError
        If tokenizers differ, a setting is not compatible, or the cache is of something else.
    """
    args = trainer.args
    _check_compatible(trainer)
    teacher.check_tokenizer(trainer._tokenizer)
    distillation = Distillation(
        trainer.model,
        teacher,
        weight=args.lambda_kd,
        form=args.kd_form,
        temperature=args.kd_temperature,
    )
    if args.kd_cache is None:
        _ = teacher.model  # loaded before the training begins, not in its first step
        return distillation
    cache = _filled(trainer, distillation)
    teacher.release()
    rows = range(len(trainer.train_dataset))
    trainer.train_dataset = trainer.train_dataset.add_column(ROW, list(rows))
    trainer.data_collator = CachedCollator(trainer.data_collator, cache)
    return distillation


def _check_compatible(trainer: SFTTrainer) -> None:
    args, parallel = trainer.args, trainer.accelerator.parallelism_config
    if args.loss_type != "nll" or args.label_smoothing_factor:
        msg = (
            f"loss_type is {args.loss_type!r} and label_smoothing_factor "
            f"{args.label_smoothing_factor}; with a teacher expected 'nll' and 0."
        )
        raise ValueError(msg)
    if parallel is not None and (parallel.cp_enabled or parallel.sp_enabled):
        msg = (
            "sequences are divided among devices (context or sequence parallelism); with a teacher "
            "expected data parallelism, such as DDP or FSDP."
        )
        raise ValueError(msg)
    if args.kd_cache is None:
        return
    if trainer.padding_free:
        msg = (
            "a cache does not know batches without padding (padding_free, packing 'bfd'); pass "
            "kd_cache=None for a teacher that runs along, or packing=False, padding_free=False."
        )
        raise ValueError(msg)
    if not hasattr(trainer.train_dataset, "__len__") or args.accelerator_config.dispatch_batches:
        msg = (
            "a stream, or batches that one process makes for all (dispatch_batches), cannot be "
            "looked up in a cache; pass kd_cache=None, or a datasets.Dataset."
        )
        raise ValueError(msg)


def _filled(trainer: SFTTrainer, distillation: Distillation) -> TeacherCache:
    args, accelerator, rows = trainer.args, trainer.accelerator, trainer.train_dataset
    words = json.dumps(trainer._tokenizer.get_vocab(), sort_keys=True)
    identity = {
        "teacher": distillation.teacher.identity(),
        "tokenizer": hashlib.sha256(words.encode()).hexdigest(),
        "training rows": _digest(rows),
        "vocabulary": distillation.vocabulary,
        "kd_top_k": args.kd_top_k,
        "kd_temperature": args.kd_temperature,
    }
    cache = TeacherCache(args.kd_cache, identity, len(rows))
    missing = cache.missing()
    accelerator.wait_for_everyone()  # all have seen the same ones
    _fill(
        cache,
        missing[accelerator.process_index :: accelerator.num_processes],
        distillation,
        rows,
        trainer.data_collator,
        k=args.kd_top_k,
        batch_size=args.per_device_eval_batch_size,
    )
    accelerator.wait_for_everyone()
    if cache.missing():
        msg = f"{cache.folder} is not complete; expected a folder that all processes can read."
        raise ValueError(msg)
    return cache


def _fill(
    cache: TeacherCache,
    numbers: Iterable[int],
    distillation: Distillation,
    rows: Dataset,
    collate: Callable[[list[Any]], Mapping[str, torch.Tensor]],
    *,
    k: int,
    batch_size: int,
) -> None:
    """Compute files of a cache."""
    teacher, device = distillation.teacher, device_of(distillation.student)
    size = max(1, PORTION // teacher.vocabulary)
    for number in numbers:
        logger.info("%s: file %d of %d", cache.folder, number + 1, cache.files)
        lengths: list[int] = []
        found = []
        file = cache.rows_of(number)
        for first in range(file.start, file.stop, batch_size):
            some = range(first, min(first + batch_size, file.stop))
            inputs = {n: v.to(device) for n, v in collate([rows[i] for i in some]).items()}
            mask = response_mask(inputs["labels"])
            lengths += mask.sum(1).tolist()
            for states in torch.split(teacher.states(inputs, mask), size):
                logits = teacher.logits(states)[:, : distillation.vocabulary]
                indices, log_probs = top_k(logits, k, distillation.temperature)
                found.append((indices.cpu(), log_probs.half().cpu()))
        indices, log_probs = (torch.cat(part) for part in zip(*found, strict=True))
        cache.write(number, lengths, indices, log_probs)


def _digest(rows: Dataset) -> str:
    """Return a digest of tokens and labels, whatever transformations they came from."""
    seen = hashlib.sha256()
    for table in rows.select_columns(["input_ids", "labels"]).with_format("arrow").iter(1000):
        for column in table.columns:
            lists = column.combine_chunks()
            for numbers in (lists.value_lengths(), lists.flatten()):
                seen.update(numbers.to_numpy(zero_copy_only=False).astype(np.int64).tobytes())
    return seen.hexdigest()


@dataclass
class CachedCollator:
    """A data collator that adds to a batch what a cache holds of its rows.

    Attributes
    ----------
    collate : callable
        The data collator of the trainer.
    cache : TeacherCache
        Complete.
    """

    collate: Callable[[list[dict[str, Any]]], dict[str, Any]]
    cache: TeacherCache

    def __call__(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        """Return the batch of some examples; those without a row number are left alone."""
        plain = [{k: v for k, v in example.items() if k != ROW} for example in examples]
        batch = self.collate(plain)
        if ROW in examples[0]:
            found = self.cache.targets([example[ROW] for example in examples])
            batch.update(zip(CACHED, found, strict=True))
        return batch
