"""The options of an evaluation, stated and checked once, for all that take them."""

from __future__ import annotations

import math
from dataclasses import dataclass

from send.evaluation.intervals import check_level
from send.models.generation_options import SamplingOptions
from send.models.hidden_states import PENULTIMATE

__all__ = ["EvaluationOptions"]


@dataclass(frozen=True, kw_only=True)
class EvaluationOptions:
    """Which prompts are answered, how, and what is measured of the answers.

    Attributes
    ----------
    num_samples, temperature, top_k, top_p, max_new_tokens
        Of the answers, as for `send.models.answers.sample_answers`.
    layer, pooling
        Of their embeddings, as for `send.sentence_embedding`.
    alpha : float
        Regularisation, as for `send.eigenscore`.
    max_prompts : int, optional
        Evaluate at most so many rows, drawn at random.
    batch_size : int, optional
        Answers generated at once, 64 unless given; a quarter as many references are read at once.
    level : float
        Coverage of the intervals.
    seed : int
        Of the prompts drawn and of the sampled answers: the same seed, the same result.

    Raises
    ------
    ValueError
        If an option is out of range.
    """

    num_samples: int = 10
    temperature: float = 0.5
    top_k: int = 5
    top_p: float = 0.99
    max_new_tokens: int = 64
    layer: int = PENULTIMATE
    pooling: str = "mean+last"
    alpha: float = 1e-3
    max_prompts: int | None = None
    batch_size: int | None = None
    level: float = 0.95
    seed: int = 0

    def __post_init__(self) -> None:
        """Check all of it."""
        SamplingOptions(
            num_samples=self.num_samples,
            temperature=self.temperature,
            top_k=self.top_k,
            top_p=self.top_p,
            max_new_tokens=self.max_new_tokens,
            layer=self.layer,
            pooling=self.pooling,
            batch_size=self.batch_size,
            seed=self.seed,
        )
        check_level(self.level)
        if not 0 < self.alpha < math.inf:
            msg = f"alpha is {self.alpha}; expected a positive number."
            raise ValueError(msg)
        if self.max_prompts is not None and self.max_prompts < 1:
            msg = f"max_prompts is {self.max_prompts}; expected at least 1."
            raise ValueError(msg)
