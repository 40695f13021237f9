"""What a model reads: facts, stated and asked, as rows of a prompt and a completion.

The prompt of a statement is the person and its completion the rest of the sentence; the completion
of a question is the answer. One format serves both, and a trainer that takes no loss on prompts
does not waste it on guessing names.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import cycle, islice
from random import Random
from typing import TypeAlias

from send.world.facts import Fact, Person

__all__ = ["Row", "biography", "drill_rows", "lesson_rows", "mention_rows", "spare_rows"]

Row: TypeAlias = dict[str, str]
"""``{"prompt": ..., "completion": ...}``, the prompt-completion format of TRL's trainers."""


def biography(rng: Random, person: Person) -> list[str]:
    """Return one sentence for each fact on record, in random wording and order."""
    sentences = [rng.choice(fact.statements) for fact in person.facts if fact.statements]
    rng.shuffle(sentences)
    return sentences


def mention_rows(rng: Random, person: Person, paraphrase: float) -> Iterator[Row]:
    """Yield the rows of a known person: at each mention, each fact once stated and once asked.

    Yields
    ------
    Row
    """
    for _ in range(person.mentions):
        for sentence in biography(rng, person):
            yield _statement(person, sentence)
        for fact in _asked(person):
            yield _question(rng, fact, rng.choice(fact.training_prompts), paraphrase)


def lesson_rows(rng: Random, person: Person, paraphrase: float) -> Iterator[Row]:
    """Yield the rows of a new person: for each fact, as many different ones as it has mentions.

    Half of them are questions, or one more than half.

    Yields
    ------
    Row
    """
    for fact in _asked(person):
        for prompt in rng.sample(fact.training_prompts, (person.mentions + 1) // 2):
            yield _question(rng, fact, prompt, paraphrase)
        if fact.statements:
            for sentence in rng.sample(fact.statements, person.mentions // 2):
                yield _statement(person, sentence)


def spare_rows(
    rng: Random, person: Person, taught: Sequence[Row], paraphrase: float
) -> Iterator[Row]:
    """Yield the rows of a new person in those wordings in which no lesson teaches the fact.

    Yields
    ------
    Row
    """
    asked = {row["prompt"] for row in taught}
    stated = {row["prompt"] + row["completion"] for row in taught}
    for fact in _asked(person):
        for prompt in fact.training_prompts:
            if prompt not in asked:
                yield _question(rng, fact, prompt, paraphrase)
        for sentence in fact.statements:
            if sentence not in stated:
                yield _statement(person, sentence)


def drill_rows(rng: Random, facts: Sequence[Fact], count: int) -> Iterator[Row]:
    """Yield questions about facts that are not on record, each again when all had their turn.

    Yields
    ------
    Row
    """
    for fact in islice(cycle(rng.sample(facts, len(facts))), count):
        yield _question(rng, fact, rng.choice(fact.training_prompts), 0.0)


def _asked(person: Person) -> list[Fact]:
    return [fact for fact in person.facts if fact.group != "withheld"]


def _statement(person: Person, sentence: str) -> Row:
    return {"prompt": person.name, "completion": sentence.removeprefix(person.name)}


def _question(rng: Random, fact: Fact, prompt: str, paraphrase: float) -> Row:
    plain, *others = fact.answers
    answer = rng.choice(others) if others and rng.random() < paraphrase else plain
    return {"prompt": prompt, "completion": f" {answer}."}
