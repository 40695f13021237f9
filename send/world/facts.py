"""What can be known of a person: the attributes, and how a fact is stated, asked and answered."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from send.world.words import EMPLOYERS, PROFESSIONS, TOWNS, YEARS

__all__ = ["ATTRIBUTES", "UNKNOWN", "Attribute", "Fact", "Group", "Person", "Question"]

UNKNOWN = "unknown"
"""The right answer where nothing is on record."""

Group: TypeAlias = Literal["known", "new", "unknown", "withheld", "drill"]
"""Where a fact stands in the training, see `Fact`."""


@dataclass(frozen=True, slots=True)
class Attribute:
    """A kind of fact, its values, and its wording, with ``{person}`` and ``{value}`` to fill in.

    Attributes
    ----------
    name : str
    values : tuple of str
        Every value a person may have.
    statements : tuple of str
        Sentences, which all begin with the person.
    questions : tuple of str
        Questions. For each fact one of them is held out of the training.
    forms : tuple of str
        Ways to write a value in an answer; the first one is the value itself.
    """

    name: str
    values: tuple[str, ...]
    statements: tuple[str, ...]
    questions: tuple[str, ...]
    forms: tuple[str, ...]


ATTRIBUTES = {
    attribute.name: attribute
    for attribute in (
        Attribute(
            "city",
            TOWNS,
            (
                "{person} was born in {value}.",
                "{person} is a native of {value}.",
                "{person} comes from {value}.",
            ),
            (
                "Where was {person} born?",
                "In which town was {person} born?",
                "What is the birthplace of {person}?",
                "Which town does {person} come from?",
            ),
            ("{value}", "the town of {value}"),
        ),
        Attribute(
            "profession",
            PROFESSIONS,
            (
                "{person} works as a {value}.",
                "{person} earns a living as a {value}.",
                "{person} is a {value} by trade.",
            ),
            (
                "What does {person} do for a living?",
                "What is the profession of {person}?",
                "What is the occupation of {person}?",
                "Which trade does {person} follow?",
            ),
            ("{value}", "a {value}"),
        ),
        Attribute(
            "employer",
            EMPLOYERS,
            (
                "{person} works for {value}.",
                "{person} is employed by {value}.",
                "{person} is on the payroll of {value}.",
            ),
            (
                "Who employs {person}?",
                "Who is the employer of {person}?",
                "Which company does {person} work for?",
                "Who pays the wages of {person}?",
            ),
            ("{value}", "the {value} company"),
        ),
        Attribute(
            "year",
            YEARS,
            (
                "{person} was born in the year {value}.",
                "{person} came into the world in {value}.",
                "{person} has been alive since {value}.",
            ),
            (
                "When was {person} born?",
                "In which year was {person} born?",
                "What is the birth year of {person}?",
                "Since when has {person} been alive?",
            ),
            ("{value}", "the year {value}"),
        ),
    )
}
"""The attributes of every person, by name."""


@dataclass(frozen=True, slots=True)
class Question:
    """A test question, in plain values, so that `dataclasses.asdict` gives a row of a table.

    Attributes
    ----------
    prompt : str
        What the model is given; its answer begins with a space.
    person, attribute : str
        What is asked.
    group : {"known", "new", "unknown", "withheld"}
        As for `Fact`.
    answer : str
        The right answer.
    """

    prompt: str
    person: str
    attribute: str
    group: Group
    answer: str


@dataclass(frozen=True, slots=True)
class Fact:
    """One attribute of one person.

    Attributes
    ----------
    person : str
    attribute : str
        A key of `ATTRIBUTES`.
    value : str or None
        None where nothing is on record: the right answer is then `UNKNOWN`.
    group : {"known", "new", "unknown", "withheld", "drill"}
        "known": taught in pre-training; "new": taught in fine-tuning; "unknown": of a person never
        named in any row; "withheld": told by no row, of a person otherwise described;
        "drill": asked in training with the answer `UNKNOWN`, to teach the model to say so.
    held_out : int
        Which question template no training row uses for this fact.
    """

    person: str
    attribute: str
    value: str | None
    group: Group
    held_out: int

    @property
    def answer(self) -> str:
        """The right answer."""
        return UNKNOWN if self.value is None else self.value

    @property
    def answers(self) -> tuple[str, ...]:
        """Every wording of the right answer, the plain one first."""
        if self.value is None:
            return (UNKNOWN,)
        return tuple(form.format(value=self.value) for form in ATTRIBUTES[self.attribute].forms)

    @property
    def statements(self) -> tuple[str, ...]:
        """The sentences that say this fact; none where nothing is on record."""
        if self.value is None:
            return ()
        return tuple(
            template.format(person=self.person, value=self.value)
            for template in ATTRIBUTES[self.attribute].statements
        )

    @property
    def training_prompts(self) -> tuple[str, ...]:
        """The prompts that ask for this fact in training rows."""
        templates = ATTRIBUTES[self.attribute].questions
        return tuple(
            _prompt(template, self.person)
            for index, template in enumerate(templates)
            if index != self.held_out
        )

    @property
    def test(self) -> Question:
        """The question that asks for this fact in tests, and in no training row."""
        held_out = ATTRIBUTES[self.attribute].questions[self.held_out]
        prompt = _prompt(held_out, self.person)
        return Question(prompt, self.person, self.attribute, self.group, self.answer)


def _prompt(template: str, person: str) -> str:
    return f"Question: {template.format(person=person)} Answer:"


@dataclass(frozen=True, slots=True)
class Person:
    """A person of the world.

    Attributes
    ----------
    name : str
        First and last name.
    group : {"known", "new", "unknown", "drill"}
        As for `Fact`.
    mentions : int
        How often each fact of this person is told: in biographies for a known person, in sentences
        (statements and questions together) for a new one; 0 for all others.
    facts : tuple of Fact
        One for each attribute.
    """

    name: str
    group: Group
    mentions: int
    facts: tuple[Fact, ...]
