"""The options of an evaluation, stated and checked once, for all that take them."""

from __future__ import annotations

import math
from dataclasses import dataclass

from send.evaluation.intervals import check_level
from send.models.answers import check_drawing, check_generation
from send.models.embeddings import check_pooling
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
        check_generation(
            num_samples=self.num_samples, max_new_tokens=self.max_new_tokens, seed=self.seed
        )
        check_drawing(self.temperature, self.top_k, self.top_p)
        check_pooling(self.pooling)
        check_level(self.level)
        if not 0 < self.alpha < math.inf:
            msg = f"alpha is {self.alpha}; expected a positive number."
            raise ValueError(msg)
        for name in ("max_prompts", "batch_size"):
            count = getattr(self, name)
            if count is not None and count < 1:
                msg = f"{name} is {count}; expected at least 1."
                raise ValueError(msg)
