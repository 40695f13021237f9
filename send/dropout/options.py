"""The options of Sensitivity Dropout, stated and checked once, for all that take them."""

from __future__ import annotations

import inspect
import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, TypeVar

from send.dropout.selection import check_selection
from send.dropout.sensitivity import AGGREGATES, check_count, check_fraction
from send.models.embeddings import check_pooling
from send.models.generation_options import check_generation
from send.models.hidden_states import PENULTIMATE

__all__ = [
    "DropoutOptions",
    "SensitivityDropoutOptions",
    "chosen",
    "keywords_of",
    "option",
]

logger = logging.getLogger(__name__)

Taker = TypeVar("Taker", bound=Callable[..., Any])


def option(default: Any, text: str) -> Any:
    """Return a field with a default, and what a command line says of it."""
    return field(default=default, metadata={"help": text})


@dataclass(kw_only=True)
class DropoutOptions:
    """What is dropped and when, and what is measured at a checkpoint.

    Attributes
    ----------
    drop_fraction : float
        Share of the embedding indices to drop, at least 0 and below 1. 0 is plain training with
        the same record.
    selection : {"sensitive", "random", "magnitude-matched", "none"}
        Which indices: the most sensitive ones; or, as controls, as many at random, others as large
        as the most sensitive ones (mean absolute value over the tracking set), or none, which is
        plain training with the same record.
    window : int
        C, the number of checkpoints over which sensitivity is measured, at least 2.
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
        Training has converged when, over the last `window` checkpoints, the tracking loss stays
        within `stop_loss` and the mean EigenScore (to which EES converges) within `stop_score`.
        Both or neither; off unless given, since a falling score does not mean less hallucination.

    Raises
    ------
    ValueError, TypeError
        If an option is not as described.

    References
    ----------
    SenD (arXiv:2410.15460), Algorithm 2; K = 20 %, C = 3, T = 3.
    """

    drop_fraction: float = option(0.2, "Share of embedding indices to drop; 0: plain training.")
    selection: str = option(
        "sensitive", "Indices to drop: 'sensitive', 'random', 'magnitude-matched' or 'none'."
    )
    window: int = option(3, "Checkpoints over which sensitivity is measured (C).")
    hold: int = option(3, "Checkpoints for which a choice of indices stays (T).")
    warmup: int = option(0, "The first checkpoint at which a mask may be chosen.")
    cooldown: int = option(0, "Intervals between checkpoints, the last ones, without a mask.")
    layer: int = option(PENULTIMATE, "Index into hidden_states of the layer watched and masked.")
    pooling: str = option("mean+last", "Of token states: 'mean+last', 'mean' or 'last'.")
    aggregate: str = option("per-input", "Over tracked inputs: 'per-input' or 'mean-first'.")
    rescale: bool = option(False, "Scale the indices that are kept by d / (d - dropped).")
    score_prompts: int = option(16, "Prompts scored at each checkpoint; 0: none.")
    num_samples: int = option(10, "Answers sampled to each of these prompts (K).")
    max_new_tokens: int = option(32, "Longest of these answers, in tokens.")
    stop_loss: float | None = option(None, "Stop when the loss stays within this, and:")
    stop_score: float | None = option(None, "when the mean EigenScore stays within this.")

    def __post_init__(self) -> None:
        """Check all of it."""
        check_fraction(self.drop_fraction)
        check_selection(self.selection, self.drop_fraction)
        check_pooling(self.pooling)
        check_generation(num_samples=self.num_samples, max_new_tokens=self.max_new_tokens, seed=0)
        if self.aggregate not in AGGREGATES:
            msg = f"aggregate is {self.aggregate!r}; expected one of {AGGREGATES}."
            raise ValueError(msg)
        lowest = {"window": 2, "hold": 1, "warmup": 0, "cooldown": 0, "score_prompts": 0}
        for name, low in lowest.items():
            check_count(name, getattr(self, name), low)
        self._check_stop()

    def _check_stop(self) -> None:
        if (self.stop_loss is None) != (self.stop_score is None):
            msg = "stop_loss and stop_score work together; pass both tolerances, or neither."
            raise ValueError(msg)
        for name, value in {"stop_loss": self.stop_loss, "stop_score": self.stop_score}.items():
            if value is not None and not 0 <= value < math.inf:
                msg = f"{name} is {value}; expected a tolerance of at least 0, or None."
                raise ValueError(msg)
        if self.stop_score is not None and self.score_prompts == 0:
            msg = "stop_score needs a score, but score_prompts is 0; expected at least 1 prompt."
            raise ValueError(msg)

    @property
    def plain(self) -> bool:
        """Whether nothing is dropped."""
        return self.selection == "none" or self.drop_fraction == 0

    def check_share(self, size: int) -> None:
        """Refuse, before the first step, a share of the indices that is none or all of them."""
        dropped = round(self.drop_fraction * size)
        if not self.plain and not 0 < dropped < size:
            what = "none" if dropped == 0 else "all"
            msg = (
                f"drop_fraction is {self.drop_fraction}, which of the {size} embedding indices of "
                f"this model drops {what}; expected 0 for plain training, or from "
                f"{1 / size:.2g} to {1 - 1 / size:.4g}."
            )
            raise ValueError(msg)

    def check_length(self, checkpoints: int | None) -> None:
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
        first = max(self.window - 1, self.warmup)
        if not self.plain and checkpoints - self.cooldown <= first:
            logger.warning(
                "nothing will be dropped: a mask needs window = %d checkpoints, the start being "
                "one, and training after them (warmup = %d, cooldown = %d), but this training ends "
                "%d checkpoints after its start. Train longer, or pass a smaller every=<steps>.",
                self.window,
                self.warmup,
                self.cooldown,
                checkpoints,
            )


@dataclass(kw_only=True)
class SensitivityDropoutOptions(DropoutOptions):
    """`DropoutOptions`, and how the tracking set is read where no trainer says it.

    Attributes
    ----------
    max_length : int, optional
        Tokens of a tracking row beyond it are cut off.
    completion_only_loss : bool
        Whether the tracking loss of a prompt and its completion is that of the completion.
    batch_size : int
        Tracking rows at once.
    seed : int
        Of the prompts, of the answers and of random selections. Every checkpoint draws the same
        prompts and answers, to be comparable, and the random state of the training is not touched.

    Raises
    ------
    ValueError, TypeError
        If an option is not as described.
    """

    max_length: int | None = 1024
    completion_only_loss: bool = True
    batch_size: int = 16
    seed: int = 0

    def __post_init__(self) -> None:
        """Check all of it."""
        super().__post_init__()
        check_generation(num_samples=1, max_new_tokens=1, seed=self.seed)
        check_count("batch_size", self.batch_size, 1)
        if self.max_length is not None:
            check_count("max_length", self.max_length, 2)  # the first token is not predicted


def chosen(options: type, source: Any) -> dict[str, Any]:
    """Return the options of a dataclass by name, from the attributes of anything that has them."""
    return {part.name: getattr(source, part.name) for part in fields(options)}


def keywords_of(options: type, **defaults: Any) -> Callable[[Taker], Taker]:
    """Let a function that passes ``**options`` on to a dataclass show its keywords.

    Parameters
    ----------
    options : type
        The dataclass.
    **defaults
        Where they are not those of the dataclass.
    """

    def shown(taker: Taker) -> Taker:
        signature = inspect.signature(taker)
        own: Mapping[str, inspect.Parameter] = signature.parameters
        parameters = [p for p in own.values() if p.kind is not p.VAR_KEYWORD]
        parameters += [
            inspect.Parameter(
                part.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=defaults.get(part.name, part.default),
                annotation=part.type,
            )
            for part in fields(options)
        ]
        vars(taker)["__signature__"] = signature.replace(parameters=parameters)
        return taker

    return shown
