"""How much a language model makes things up, and fine-tuning meant to make it do so less.

Importing this package imports nothing heavy: each name loads its module when it is first used.
"""

from importlib import import_module
from typing import Any

__all__ = [
    # Scores of embeddings that you have
    "eigenscore",
    "ees",
    # Scores of a model
    "sentence_embedding",
    "HallucinationScorer",
    "ScoreTable",
    # Sensitivity Dropout
    "train",
    "SendConfig",
    "SendTrainer",
    "SendCallback",
    "SendResult",
    "SensitivityTracker",
    "SensitivityMask",
    # Data
    "load_texts",
    "load_prompts",
    "world",
]  # fmt: skip

_HOME = {
    "eigenscore": "scores",
    "ees": "scores",
    "sentence_embedding": "embeddings",
    "HallucinationScorer": "scorer",
    "ScoreTable": "scorer",
    "train": "trainer",
    "SendConfig": "trainer",
    "SendTrainer": "trainer",
    "SendResult": "trainer",
    "SendCallback": "callback",
    "SensitivityTracker": "sensitivity",
    "SensitivityMask": "masking",
    "load_texts": "data",
    "load_prompts": "data",
}


def __getattr__(name: str) -> Any:
    if name == "world":
        return import_module("send.world")
    if name in _HOME:
        return getattr(import_module(f"send.{_HOME[name]}"), name)
    msg = f"module 'send' has no attribute {name!r}"
    raise AttributeError(msg)


def __dir__() -> list[str]:
    return sorted(__all__)
