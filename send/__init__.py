"""How much a language model's answers differ, and fine-tuning meant to make it invent less.

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
    # Evaluation on prompts, during training and after it
    "evaluate",
    "Evaluation",
    "EvaluationCallback",
    # Sensitivity Dropout
    "train",
    "SendConfig",
    "SendTrainer",
    "SendCallback",
    "SendResult",
    "SensitivityDropout",
    "SensitivityTracker",
    "SensitivityMask",
    # Data
    "load_texts",
    "load_prompts",
    "world",
]  # fmt: skip

_HOME = {
    "eigenscore": "scores.eigenscore",
    "ees": "scores.ees",
    "sentence_embedding": "models.embeddings",
    "HallucinationScorer": "detection.scorer",
    "ScoreTable": "detection.scorer",
    "evaluate": "evaluation.evaluate",
    "Evaluation": "evaluation.evaluate",
    "EvaluationCallback": "evaluation.callback",
    "train": "training.train",
    "SendConfig": "training.config",
    "SendTrainer": "training.trainer",
    "SendResult": "training.result",
    "SendCallback": "dropout.callback",
    "SensitivityDropout": "dropout.sensitivity_dropout",
    "SensitivityTracker": "dropout.sensitivity",
    "SensitivityMask": "dropout.mask",
    "load_texts": "data.load_texts",
    "load_prompts": "data.load_texts",
}


def __getattr__(name: str) -> Any:
    if name != "world" and name not in _HOME:
        msg = f"module 'send' has no attribute {name!r}"
        raise AttributeError(msg)
    try:
        home = import_module(f"send.{_HOME.get(name, name)}")
    except ModuleNotFoundError as error:
        if str(error.name).startswith(("send", "specdens")):
            raise
        msg = f"send.{name} needs {error.name}: pip install 'specdens[send]'"
        raise ModuleNotFoundError(msg, name=error.name) from error
    return home if name == "world" else getattr(home, name)


def __dir__() -> list[str]:
    return sorted(__all__)
