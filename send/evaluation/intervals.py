"""A mean over prompts with its doubt: ``mean ± t s / sqrt(P)``, the prompts being the sample."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import t as student

__all__ = ["Metric", "check_level", "mean_over_prompts"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """A number that stands for many prompts.

    Attributes
    ----------
    value : float
        Its estimate.
    low, high : float
        The ends of its interval; infinite where a single prompt says nothing of the others.
    prompts : int
        How many prompts it is of.
    """

    value: float
    low: float
    high: float
    prompts: int

    def __float__(self) -> float:
        return self.value

    def __str__(self) -> str:
        return f"{self.value:.4g} [{self.low:.4g}, {self.high:.4g}]"

    def through(self, function: Callable[[float], float]) -> Metric:
        """Return a function of this number that never falls, with at least the same coverage."""
        value, low, high = (function(x) for x in (self.value, self.low, self.high))
        return Metric(value=value, low=low, high=high, prompts=self.prompts)


def mean_over_prompts(values: Any, *, weights: Any = None, level: float = 0.95) -> Metric:
    """Return the mean of one value for each prompt, with its Student t interval.

    Parameters
    ----------
    values : array, shape (P,)
        At least one.
    weights : array, shape (P,), optional
        Positive: ``sum(w x) / sum(w)``, such as a mean over tokens by their numbers.
    level : float
        Coverage, between 0 and 1.

    Returns
    -------
    Metric

    Raises
    ------
    ValueError
        If there is no value, or `level` is out of range.

    Notes
    -----
    The prompts are taken as independent draws from the questions that one might ask: only for more
    of the same kind is the interval meant. Training once more with another seed is not in it.
    Student's t, not a bootstrap: it draws nothing, moves with the values, and needs no more than
    two of them; where nearly all are equal (a ROUGE-L of 0, say) few prompts mislead either. With
    weights its width is that of the linearised ratio (Cochran, Sampling Techniques, section 2.11).

    Examples
    --------
    >>> print(mean_over_prompts([1.0, 2.0, 3.0, 4.0]))
    2.5 [0.4457, 4.554]
    """
    check_level(level)
    x = np.asarray(values, dtype=np.float64)
    if x.ndim != 1 or not x.size:
        msg = f"the values have shape {x.shape}; expected one for each of at least one prompt."
        raise ValueError(msg)
    w = np.ones_like(x) if weights is None else np.asarray(weights, dtype=np.float64)
    share = w / w.mean()
    value = float((share * x).mean())
    if x.size == 1:
        return Metric(value=value, low=-math.inf, high=math.inf, prompts=1)
    half = float(student.ppf((1 + level) / 2, x.size - 1)) * float(
        (share * (x - value)).std(ddof=1)
    )
    half /= math.sqrt(x.size)
    return Metric(value=value, low=value - half, high=value + half, prompts=x.size)


def check_level(level: float) -> None:
    """Raise a ValueError unless the level is the coverage of an interval."""
    if not 0 < level < 1:
        msg = f"level is {level}; expected a coverage between 0 and 1, such as 0.95."
        raise ValueError(msg)
