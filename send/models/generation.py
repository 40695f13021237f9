"""One batch of answers after the other, read while it is generated: hidden states and likelihoods.

Everything is kept by the position of its token, not by the number of forward passes, of which
generation may make more than it keeps. Only the state of the very last token is then missing, which
is never fed back: where it counts, the batch makes one more step with the cache it has.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import (
    GenerationConfig,
    LogitsProcessorList,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from send.models.embeddings import (
    accepted_inputs,
    device_of,
    evaluating,
    learned_positions,
    pool,
    positions,
)
from send.models.generation_options import GenerationOptions, require
from send.models.hidden_states import HiddenTap

__all__ = ["Answers", "answer", "generation_config"]


@dataclass(frozen=True, eq=False)
class Answers:
    """One answer to each of P prompts.

    Attributes
    ----------
    answers : list of str, length P
        Without special tokens, but for unknown and pad ones that were generated before the end;
        without white space at the ends.
    embeddings : torch.Tensor, shape (P, d)
        float32, on the CPU.
    mean_nll : torch.Tensor, shape (P,)
        Mean negative log-likelihood of an answer's tokens under the model at temperature 1, nats.
    mean_entropy : torch.Tensor, shape (P,)
        Mean entropy of the distribution, at temperature 1, from which each of them came, nats.
    lengths : torch.Tensor of int, shape (P,)
        Number of tokens, the end token not counted.
    ended : torch.Tensor of bool, shape (P,)
        Whether the model ended the answer, rather than the limit on new tokens.
    """

    answers: list[str]
    embeddings: torch.Tensor
    mean_nll: torch.Tensor
    mean_entropy: torch.Tensor
    lengths: torch.Tensor
    ended: torch.Tensor


def generation_config(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    max_new_tokens: int,
    temperature: float | None = None,
    top_k: int | None = None,
    top_p: float | None = None,
) -> GenerationConfig:
    """Return all settings of a generation: greedy without a temperature, else sampled."""
    if not (hasattr(model, "can_generate") and model.can_generate()):
        msg = (
            f"{type(model).__name__} cannot generate; expected a causal language model, "
            "such as AutoModelForCausalLM.from_pretrained gives."
        )
        raise TypeError(msg)
    ends = _end_ids(model, tokenizer)
    return GenerationConfig(
        max_new_tokens=max_new_tokens,
        do_sample=temperature is not None,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        eos_token_id=ends or None,
        # Masked in prompts and cut from answers, so that it may be any token that the model has.
        pad_token_id=ends[0] if ends else 0,
        use_cache=True,
        return_dict_in_generate=True,
    )


def _end_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return the tokens that end an answer: the model's and the tokenizer's.

    A chat model ends a turn by one token and a text by another; the tokenizer names one of them.
    """
    stored = model.generation_config.eos_token_id
    ends = stored if isinstance(stored, list) else [stored]
    return sorted({end for end in (*ends, tokenizer.eos_token_id) if end is not None})


def answer(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[list[int]],
    config: GenerationConfig,
    options: GenerationOptions,
) -> Answers:
    """Return one answer to each row of token ids."""
    from tqdm.auto import tqdm

    _check_fit(model, rows, config.max_new_tokens)
    size = options.at_once
    batches = [rows[i : i + size] for i in range(0, len(rows), size)]
    parts = [_no_answers(model)]
    with torch.no_grad(), evaluating(model), _configured(model, config):
        for batch in tqdm(batches, desc="answers", unit="batch", disable=not options.progress):
            parts.append(_answer_batch(model, tokenizer, batch, config, options))
    return Answers(
        answers=[text for part in parts for text in part.answers],
        embeddings=torch.cat([part.embeddings for part in parts]),
        mean_nll=torch.cat([part.mean_nll for part in parts]),
        mean_entropy=torch.cat([part.mean_entropy for part in parts]),
        lengths=torch.cat([part.lengths for part in parts]),
        ended=torch.cat([part.ended for part in parts]),
    )


def _check_fit(model: PreTrainedModel, rows: Sequence[list[int]], max_new_tokens: int) -> None:
    """Refuse prompts that would run out of learned positions; rotary models have no such end."""
    longest, limit = max(map(len, rows), default=0), learned_positions(model)
    require(
        longest + max_new_tokens <= limit,
        f"the longest prompt has {longest} tokens, which with max_new_tokens = {max_new_tokens} "
        f"exceeds the {limit:.0f} positions of {type(model).__name__}; shorten either.",
    )


def _no_answers(model: PreTrainedModel) -> Answers:
    return Answers(
        answers=[],
        embeddings=torch.empty(0, model.config.hidden_size),
        mean_nll=torch.empty(0),
        mean_entropy=torch.empty(0),
        lengths=torch.empty(0, dtype=torch.long),
        ended=torch.empty(0, dtype=torch.bool),
    )


@contextmanager
def _configured(model: nn.Module, config: GenerationConfig) -> Iterator[None]:
    """Replace the generation settings stored with the model for a while.

    `generate` fills every setting that ours leaves unset from the model's: stop strings, say.
    """
    owners: list[Any] = [m for m in model.modules() if "generation_config" in vars(m)]
    stored = [owner.generation_config for owner in owners]
    for owner in owners:
        owner.generation_config = config
    try:
        yield
    finally:
        for owner, its in zip(owners, stored, strict=True):
            owner.generation_config = its


def _answer_batch(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[list[int]],
    config: GenerationConfig,
    options: GenerationOptions,
) -> Answers:
    ids, mask = _left_padded(rows, config.pad_token_id, device_of(model))
    with HiddenTap(model, options.layer) as tap:
        record = _Record(tap)
        out = model.generate(
            input_ids=ids,
            attention_mask=mask,
            generation_config=config,
            logits_processor=LogitsProcessorList([record]),
        )
        new = out.sequences[:, ids.shape[1] :]
        text, with_end = _answer_tokens(new, config.eos_token_id or [])
        counted = with_end if options.count_eos else text
        if bool(counted[:, -1].any()) and record.width < out.sequences.shape[1]:
            _feed_last(model, out, mask)
            record.take_states(1)
    marked = torch.cat([_prompt_tokens(mask, counted, options.span), counted], dim=1)
    embeddings = pool(record.states, marked[:, : record.width], pooling=options.pooling)
    lengths = text.sum(dim=1).cpu()
    nll, entropy = record.likelihood(out.sequences)
    return Answers(
        answers=_decoded(tokenizer, new, lengths),
        embeddings=embeddings.float().cpu(),
        mean_nll=_mean(nll, counted, with_end).cpu(),
        mean_entropy=_mean(entropy, counted, with_end).cpu(),
        lengths=lengths,
        ended=(with_end != text).any(dim=1).cpu(),
    )


def _left_padded(
    rows: Sequence[list[int]], pad: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return token ids and mask, each of shape (batch, tokens): the last column is text in all."""
    width = max(map(len, rows))
    ids = torch.tensor([[pad] * (width - len(row)) + row for row in rows], device=device)
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], device=device)
    return ids, mask


class _Record:
    """What each step of a generation leaves: the states of its tokens, the likelihood of the next.

    Called as a logits processor: once a step, with all tokens so far and the logits of the model
    before temperature and top-k. Only one step's logits are kept.
    """

    def __init__(self, tap: HiddenTap) -> None:
        self._tap = tap
        self._states: list[torch.Tensor] = []
        self._likelihood: list[torch.Tensor] = []
        self._expected: tuple[int, torch.Tensor] | None = None  # position, its log-probabilities
        self.width = 0

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        self._take_likelihood(input_ids)
        self.take_states(input_ids.shape[1] - self.width)
        self._expected = (input_ids.shape[1], scores.float().log_softmax(dim=-1))
        return scores

    def take_states(self, count: int) -> None:
        """Keep the states of the last `count` tokens of the last forward pass."""
        self._states.append(self._tap.states[:, -count:])
        self.width += count

    def _take_likelihood(self, ids: torch.Tensor) -> None:
        """Keep the likelihood of the expected token, now that it is known, and the entropy there.

        Of no column, if generation dropped the token again.
        """
        if self._expected is not None:
            position, log_probs = self._expected
            nll = -log_probs.gather(1, ids[:, position : position + 1])
            # Zero for a token that cannot be: 0 times infinity would be NaN.
            finite = log_probs.clamp(min=torch.finfo(log_probs.dtype).min)
            entropy = -(log_probs.exp() * finite).sum(dim=1, keepdim=True).expand_as(nll)
            self._likelihood.append(torch.stack([nll, entropy]))

    @property
    def states(self) -> torch.Tensor:
        """Hidden states of the tokens that were fed, shape (batch, width, d)."""
        return torch.cat(self._states, dim=1)

    def likelihood(self, sequences: torch.Tensor) -> torch.Tensor:
        """Return negative log-likelihoods and entropies at the new tokens, (2, batch, new)."""
        self._take_likelihood(sequences)
        return torch.cat(self._likelihood, dim=2)


def _answer_tokens(new: torch.Tensor, ends: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return which tokens come before the first end token, and which up to it: (batch, new)."""
    is_end = torch.isin(new, torch.tensor(ends, dtype=new.dtype, device=new.device))
    ends_so_far = is_end.cumsum(dim=1)
    return ends_so_far == 0, ends_so_far - is_end.long() == 0


def _prompt_tokens(mask: torch.Tensor, counted: torch.Tensor, span: str) -> torch.Tensor:
    """Return which tokens of the prompt are pooled: an empty answer has its last one only."""
    if span == "all":
        return mask.bool()
    marked = torch.zeros_like(mask, dtype=torch.bool)
    marked[:, -1] = ~counted.any(dim=1)
    return marked


def _feed_last(model: nn.Module, out: Any, prompt_mask: torch.Tensor) -> None:
    """Feed the last token of each sequence, so that its hidden state is computed."""
    new = out.sequences.shape[1] - prompt_mask.shape[1]
    mask = torch.cat([prompt_mask, prompt_mask.new_ones(len(prompt_mask), new)], dim=1)
    step = accepted_inputs(
        model,
        {
            "input_ids": out.sequences,
            "attention_mask": mask,
            "position_ids": positions(mask),
            "past_key_values": out.past_key_values,
            "use_cache": True,
            "logits_to_keep": 1,
        },
    )
    # A model without a cache reads the whole sequences again.
    if step.get("past_key_values") is not None:
        step |= {name: step[name][:, -1:] for name in ("input_ids", "position_ids") if name in step}
    model(**step)


def _mean(values: torch.Tensor, counted: torch.Tensor, with_end: torch.Tensor) -> torch.Tensor:
    """Return the mean over the tokens that count; an empty answer has its end token only."""
    counted = torch.where(counted.any(dim=1, keepdim=True), counted, with_end)
    return torch.where(counted, values, 0).sum(dim=1) / counted.sum(dim=1)


def _decoded(
    tokenizer: PreTrainedTokenizerBase, new: torch.Tensor, lengths: torch.Tensor
) -> list[str]:
    # An unknown or a pad token is no end: without it a made-up answer would look like an empty one.
    told = {tokenizer.unk_token_id, tokenizer.pad_token_id}
    left_out = set(tokenizer.all_special_ids) - told
    ids = [
        [i for i in row[:length] if i not in left_out]
        for row, length in zip(new.tolist(), lengths.tolist(), strict=True)
    ]
    return [tokenizer.decode(row).strip() for row in ids]
