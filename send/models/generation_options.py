"""What is asked of a generation, checked: how long answers are, how they are drawn and read."""

from __future__ import annotations

import math
from dataclasses import dataclass

from send.models.embeddings import check_pooling
from send.models.hidden_states import PENULTIMATE

__all__ = [
    "DEFAULT_BATCH",
    "GenerationOptions",
    "SamplingOptions",
    "check_generation",
    "require",
]

SPANS = ("answer", "all")
DEFAULT_BATCH = 64


@dataclass(frozen=True, kw_only=True)
class GenerationOptions:
    """How long answers are, and what is read of them.

    Attributes
    ----------
    max_new_tokens : int
        At most so many tokens in an answer.
    layer : int
        Index into Transformers' ``hidden_states``; -2 is the output of the last block but one.
    pooling : {"mean+last", "mean", "last"}
        As for `send.models.embeddings.pool`.
    span : {"answer", "all"}
        The tokens that are pooled: the answer's, or the prompt's and the answer's.
    count_eos : bool
        Whether the end token is one of the answer's tokens: in embedding, likelihood, entropy.
    batch_size : int, optional
        Number of answers generated at once, of one or of several prompts; 64 unless given.
    progress : bool
        Show a bar, one step a batch.

    Raises
    ------
    ValueError
        If one of them is out of range; whether the model has the layer is not known here.
    """

    max_new_tokens: int = 64
    layer: int = PENULTIMATE
    pooling: str = "mean+last"
    span: str = "answer"
    count_eos: bool = False
    batch_size: int | None = None
    progress: bool = False

    def __post_init__(self) -> None:
        _check_length(self.max_new_tokens)
        check_pooling(self.pooling)
        require(self.span in SPANS, f"span is {self.span!r}; expected one of {SPANS}.")
        require(self.at_once >= 1, f"batch_size is {self.batch_size}; expected 1 at least.")

    @property
    def at_once(self) -> int:
        """How many answers are generated at once."""
        return DEFAULT_BATCH if self.batch_size is None else self.batch_size


@dataclass(frozen=True, kw_only=True)
class SamplingOptions(GenerationOptions):
    """Besides that, how answers are drawn.

    Attributes
    ----------
    num_samples : int
        K, the answers to each prompt.
    temperature, top_k, top_p : float, int, float
        How the answers are drawn. ``top_k=0`` and ``top_p=1`` draw from all tokens.
    seed : int
        The same seed gives the same answers, as long as prompts, options and ``batch_size`` are
        the same: the answers of a batch are drawn from one stream of random numbers.

    Raises
    ------
    ValueError
        If one of these, or of the others, is out of range.
    """

    num_samples: int = 10
    temperature: float = 0.5
    top_k: int = 5
    top_p: float = 0.99
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_generation(
            num_samples=self.num_samples, max_new_tokens=self.max_new_tokens, seed=self.seed
        )
        require(
            math.isfinite(self.temperature) and self.temperature > 0,
            f"temperature is {self.temperature}; expected a positive number. For the most likely "
            "answer, use greedy_answers.",
        )
        require(
            self.top_k >= 0,
            f"top_k is {self.top_k}; expected a number of tokens, or 0 for all of them.",
        )
        require(0 < self.top_p <= 1, f"top_p is {self.top_p}; expected a probability in (0, 1].")


def check_generation(*, num_samples: int, max_new_tokens: int, seed: int) -> None:
    """Raise a ValueError unless so many answers of this length can be drawn with this seed."""
    require(num_samples >= 1, f"num_samples is {num_samples}; expected 1 at least.")
    _check_length(max_new_tokens)
    require(0 <= seed < 2**64, f"seed is {seed}; expected an integer from 0 to 2**64 - 1.")


def _check_length(max_new_tokens: int) -> None:
    require(max_new_tokens >= 1, f"max_new_tokens is {max_new_tokens}; expected 1 at least.")


def require(condition: bool, msg: str) -> None:
    """Raise a ValueError with this message unless the condition holds."""
    if not condition:
        raise ValueError(msg)
