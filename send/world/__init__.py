"""A closed world of invented people and facts, in which hallucination is a matter of record.

A model is pre-trained on the known people of a `World`, fine-tuned on new ones, and asked about
both and about people it was never told of. Whether an answer is right, an abstention or made up is
looked up, not estimated.
"""

from typing import TYPE_CHECKING, Any

from send.world.closed_world import Verdict, World
from send.world.facts import ATTRIBUTES, UNKNOWN, Attribute, Fact, Group, Person, Question
from send.world.rates import Rate, Rates, hallucination_rate
from send.world.rows import Row

if TYPE_CHECKING:
    from send.world.tokens import small_model as small_model

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


def __getattr__(name: str) -> Any:
    if name == "small_model":  # needs Transformers, which a world alone does not
        from send.world.tokens import small_model

        return small_model
    msg = f"module 'send.world' has no attribute {name!r}"
    raise AttributeError(msg)
