"""Knowledge distillation: a student learns the next-token distributions of a teacher, too.

Two hooks on the student add the divergence from the teacher to the loss of each token, before the
trainer sums and divides: whatever it does to the one, it does to the other.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from send.distillation.divergence import bucketed_kl, forward_kl
from send.distillation.teacher import Teacher, logits_of, response_mask
from send.dropout.sensitivity import check_count

__all__ = ["CACHED", "PORTION", "Distillation", "check_distillation"]

FORMS = ("sum", "convex")

CACHED = ("kd_indices", "kd_log_probs")
"""What a batch brings of a teacher that is not asked: see `distil.CachedCollator`."""

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
