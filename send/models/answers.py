"""Answers of a model to prompts, sampled or greedy, each with its embedding and its likelihood."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from send.models.generation import Answers, answer, generation_config
from send.models.generation_options import GenerationOptions, SamplingOptions, require

__all__ = [
    "Answers",
    "Prompt",
    "Samples",
    "greedy_answers",
    "prompt_text",
    "sample_answers",
    "token_ids",
]

Prompt: TypeAlias = str | list[dict[str, Any]]
"""A text, or a chat: messages with ``role`` and ``content``."""


@dataclass(frozen=True, eq=False)
class Samples:
    """K sampled answers to each of P prompts.

    Attributes
    ----------
    answers : list of list of str, P lists of K
        Without special tokens, but for unknown and pad ones that were generated before the end;
        without white space at the ends.
    embeddings : torch.Tensor, shape (P, d, K)
        float32, on the CPU: what `send.eigenscore` takes.
    mean_nll : torch.Tensor, shape (P, K)
        Mean negative log-likelihood of an answer's tokens under the model at temperature 1, nats.
    mean_entropy : torch.Tensor, shape (P, K)
        Mean entropy of the distribution, at temperature 1, from which each of them came, nats.
    lengths : torch.Tensor of int, shape (P, K)
        Number of tokens, the end token not counted.
    ended : torch.Tensor of bool, shape (P, K)
        Whether the model ended the answer, rather than the limit on new tokens.
    """

    answers: list[list[str]]
    embeddings: torch.Tensor
    mean_nll: torch.Tensor
    mean_entropy: torch.Tensor
    lengths: torch.Tensor
    ended: torch.Tensor


def sample_answers(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Prompt],
    options: SamplingOptions | None = None,
    **changes: Any,
) -> Samples:
    """Sample K answers to each prompt, and embed them.

    The random state of the caller, the mode of the model, its generation settings and its hooks
    are afterwards what they were before. Generation settings stored with the model (a repetition
    penalty, say) are not applied: only those given here are.

    Parameters
    ----------
    model : PreTrainedModel
        A decoder-only language model, also inside a PEFT wrapper.
    tokenizer : PreTrainedTokenizerBase
        Its tokenizer. It needs no pad token, and its padding side does not matter.
    prompts : sequence of str or of chats
        A chat is a list of messages, rendered by the chat template of the tokenizer.
    options : SamplingOptions, optional
        How answers are drawn, how long they are, and what is read of them; its defaults unless
        given.
    **changes
        Fields of the options by name, such as ``num_samples=4``.

    Returns
    -------
    Samples
        An empty answer (ended at once) is embedded by the state of the last token of its prompt,
        unless ``count_eos``; likelihood and entropy of an empty answer are those of its end token.

    Raises
    ------
    TypeError
        If a prompt is neither a text nor a chat.
    ValueError
        If an option is out of range, a prompt is empty or too long for the model, or a chat is
        given to a tokenizer without a chat template.

    Notes
    -----
    The answer to a prompt depends on the rest of its batch by the random numbers only. Costs one
    generation of P x K answers, and one further step for each batch in which the last token counts.

    Examples
    --------
    >>> from tokenizers import Tokenizer, models, pre_tokenizers
    >>> from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast
    >>> words = Tokenizer(models.WordLevel({"<eos>": 0, "where": 1, "here": 2}, unk_token="<eos>"))
    >>> words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    >>> tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<eos>")
    >>> config = GPT2Config(n_layer=3, n_head=2, n_embd=8, vocab_size=3, eos_token_id=0)
    >>> samples = sample_answers(
    ...     GPT2LMHeadModel(config), tokenizer, ["where"], num_samples=4, max_new_tokens=3
    ... )
    >>> tuple(samples.embeddings.shape), len(samples.answers[0])
    ((1, 8, 4), 4)
    """
    options = replace(options or SamplingOptions(), **changes)
    config = generation_config(
        model,
        tokenizer,
        max_new_tokens=options.max_new_tokens,
        temperature=float(options.temperature),
        top_k=options.top_k,
        top_p=float(options.top_p),
    )
    num_samples = options.num_samples
    rows = [ids for ids in _asked(tokenizer, prompts) for _ in range(num_samples)]
    with _seeded(options.seed):
        flat = answer(model, tokenizer, rows, config, options)
    shape = (len(rows) // num_samples, num_samples)
    embeddings = flat.embeddings.reshape(*shape, flat.embeddings.shape[1])
    return Samples(
        answers=[flat.answers[i : i + num_samples] for i in range(0, len(rows), num_samples)],
        embeddings=embeddings.transpose(1, 2).contiguous(),
        mean_nll=flat.mean_nll.reshape(shape),
        mean_entropy=flat.mean_entropy.reshape(shape),
        lengths=flat.lengths.reshape(shape),
        ended=flat.ended.reshape(shape),
    )


def greedy_answers(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Prompt],
    options: GenerationOptions | None = None,
    **changes: Any,
) -> Answers:
    """Return the greedy answer to each prompt: each token the most likely one.

    Nothing is random, and the answer to a prompt does not depend on the other prompts.

    Parameters
    ----------
    model, tokenizer, prompts
        As for `sample_answers`.
    options : GenerationOptions, optional
        How long answers are, and what is read of them; its defaults unless given. How answers are
        drawn, of `SamplingOptions`, does not matter.
    **changes
        Fields of the options by name, such as ``max_new_tokens=4``.

    Returns
    -------
    Answers
        The exponential of ``mean_nll``, the perplexity, is a good sign of a wrong answer by itself.

    Raises
    ------
    TypeError, ValueError
        As for `sample_answers`.
    """
    options = replace(options or GenerationOptions(), **changes)
    config = generation_config(model, tokenizer, max_new_tokens=options.max_new_tokens)
    return answer(model, tokenizer, _asked(tokenizer, prompts), config, options)


def prompt_text(tokenizer: PreTrainedTokenizerBase, prompt: Prompt) -> str:
    """Return the text that the model is given: the prompt itself, or the chat as rendered.

    Parameters
    ----------
    tokenizer : PreTrainedTokenizerBase
        Its chat template renders a chat, and opens the answer.
    prompt : str or chat
        A text, or a list of messages.

    Returns
    -------
    str

    Raises
    ------
    TypeError
        If the prompt is neither.
    ValueError
        If it is a chat, and the tokenizer has no chat template.
    """
    if isinstance(prompt, str):
        return prompt
    if not (isinstance(prompt, list) and prompt and all(isinstance(m, dict) for m in prompt)):
        msg = (
            f"a prompt is of type {type(prompt).__name__}; expected a text, or a chat: a list of "
            'messages such as {"role": "user", "content": "..."}. One chat alone goes into a list.'
        )
        raise TypeError(msg)
    if tokenizer.chat_template is None:
        msg = (
            f"the prompt is a chat, but {type(tokenizer).__name__} has no chat template; "
            "set tokenizer.chat_template, or pass the prompt as text."
        )
        raise ValueError(msg)
    text: str = tokenizer.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True)
    return text


def token_ids(tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Prompt]) -> list[list[int]]:
    """Return the tokens of each prompt, as a model is to go on from them.

    Parameters
    ----------
    tokenizer : PreTrainedTokenizerBase
        An end token that it puts after every text is left out: there an answer would be over.
    prompts : sequence of str or of chats
        Special tokens are added to a text; a chat template writes them itself.

    Returns
    -------
    list of list of int
    """
    return [_prompt_ids(tokenizer, prompt) for prompt in prompts]


def _prompt_ids(tokenizer: PreTrainedTokenizerBase, prompt: Prompt) -> list[int]:
    text = prompt_text(tokenizer, prompt)
    if not isinstance(prompt, str):
        return list(tokenizer(text, add_special_tokens=False)["input_ids"])
    ids = list(tokenizer(text)["input_ids"])
    end = tokenizer.eos_token_id
    bare = tokenizer(text, add_special_tokens=False)["input_ids"]
    # An end token that is in the text stays, and so does one that begins an empty text.
    added = len(ids) > 1 and _ends(ids, end) > _ends(bare, end)
    return ids[:-1] if added else ids


def _ends(ids: Sequence[int], end: int | None) -> int:
    """Return how many end tokens stand at the end."""
    return next((n for n, i in enumerate(reversed(ids)) if i != end), len(ids))


def _asked(tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Prompt]) -> list[list[int]]:
    if isinstance(prompts, str):
        msg = "prompts is a single text; expected a sequence of prompts, such as [text]."
        raise TypeError(msg)
    rows = token_ids(tokenizer, prompts)
    for number, ids in enumerate(rows):
        require(len(ids) > 0, f"prompt {number} has no tokens; expected one at least.")
    return rows


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Draw from a stream of random numbers of our own for a while."""
    accelerator = torch.accelerator.current_accelerator()
    kind = "cuda" if accelerator is None else accelerator.type
    # All devices, since a seed is set on all.
    devices = range(torch.accelerator.device_count())
    with torch.random.fork_rng(devices=devices, device_type=kind):
        torch.manual_seed(seed)
        yield
