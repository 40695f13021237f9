"""A closed world of invented people and facts, in which hallucination is a matter of record.

A model is pre-trained on the known people of a `World`, fine-tuned on new ones, and asked about
both and about people it was never told of. Whether an answer is right, an abstention or made up is
looked up, not estimated. Each name loads its module when it is first used: only a model needs
Torch and Transformers.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from send.world.closed_world import Verdict, World
    from send.world.facts import ATTRIBUTES, UNKNOWN, Attribute, Fact, Group, Person, Question
    from send.world.rates import Rate, Rates, hallucination_rate
    from send.world.rows import Row
    from send.world.tokens import small_model

__all__ = [
    "ATTRIBUTES",
    "UNKNOWN",
    "Attribute",
    "Fact",
    "Group",
    "Person",
    "Question",
    "Rate",
    "Rates",
    "Row",
    "Verdict",
    "World",
    "hallucination_rate",
    "small_model",
]

_HOME = {
    "Rate": "rates",
    "Rates": "rates",
    "Row": "rows",
    "Verdict": "closed_world",
    "World": "closed_world",
    "hallucination_rate": "rates",
    "small_model": "tokens",
}
"""The module of each name that is not in `facts`."""


def __getattr__(name: str) -> Any:
    if name not in __all__:
        msg = f"module 'send.world' has no attribute {name!r}"
        raise AttributeError(msg)
    return getattr(import_module(f"send.world.{_HOME.get(name, 'facts')}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
