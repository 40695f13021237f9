"""A closed world: all that can be known in it is on record, so that a made-up answer is a fact."""

from __future__ import annotations

import math
import re
from dataclasses import KW_ONLY, dataclass
from functools import cached_property
from itertools import cycle, islice
from numbers import Integral
from random import Random
from typing import TYPE_CHECKING, Literal, TypeAlias

from send.world.facts import UNKNOWN, Fact, Group, Person, Question
from send.world.population import NAMES, draw_people, stream
from send.world.rows import Row, biography, drill_rows, lesson_rows, mention_rows, spare_rows

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

__all__ = ["Verdict", "World"]

Verdict: TypeAlias = Literal["right", "wrong", "abstained"]

TEST_GROUPS: tuple[Group, ...] = ("known", "new", "unknown", "withheld")
MOST_SENTENCES = 6
"""How many different rows teach a fact: three questions and three statements."""


@dataclass(frozen=True)
class World:
    """A world of invented people, of whose every fact it is known whether any row tells it.

    Parameters
    ----------
    seed : int
        Another seed gives another world; the same seed the same, on every platform.
    people : int
        Known people: described and asked about in pre-training.
    new_people : int
        New people: described and asked about in fine-tuning only.
    unknown_people : int
        People whom no row names. All names left over are drilled: asked about in training with the
        right answer "unknown", so that a model learns to say so of a name it was not taught.
    mentions : float
        How often a known person is described, on average; everybody is at least once.
    zipf : float
        The frequency of the r-th known person is proportional to ``r ** -zipf``.
    sentences : tuple of int
        In how many rows, 1 to 6, each fact of a new person is taught: the people take turns.
    withheld : float
        The share, up to 1/2, of the facts of known and new people that no row tells. Half of them
        are asked in training with the answer "unknown"; the others are the test group "withheld".
    paraphrase : float
        The share of answers in training rows that say the same in other words ("the town of
        Tarnow"), so that different answers need not differ in meaning.

    Raises
    ------
    ValueError
        If a size is out of range.
    TypeError
        If the seed or a count is not an integer.

    Notes
    -----
    Of the 4096 names at most half may go to known, new and unknown people: abstention generalises
    only from many names.

    Examples
    --------
    >>> world = World(seed=0, people=20, new_people=5, unknown_people=5)
    >>> question = world.questions("known")[0]
    >>> print(question.prompt, question.answer)
    Question: Where was Jorio Dranovic born? Answer: Dungrad
    >>> world.judge(question, f" {question.answer}.")
    'right'
    >>> world.judge(question, "unknown")
    'abstained'
    """

    seed: int = 0
    _: KW_ONLY
    people: int = 300
    new_people: int = 80
    unknown_people: int = 60
    mentions: float = 10.0
    zipf: float = 0.8
    sentences: tuple[int, ...] = (1, 2, 4, 6)
    withheld: float = 0.0
    paraphrase: float = 0.25

    def __post_init__(self) -> None:
        object.__setattr__(self, "sentences", tuple(self.sentences))  # a list has no hash
        _check_counts(self)
        _check_range("mentions", self.mentions, 1, math.inf)
        _check_range("zipf", self.zipf, 0, math.inf)
        _check_range("withheld", self.withheld, 0, 0.5)
        _check_range("paraphrase", self.paraphrase, 0, 1)
        if not self.sentences or not set(self.sentences) <= set(range(1, MOST_SENTENCES + 1)):
            msg = (
                f"sentences is {self.sentences}; expected one or more integers from 1 to "
                f"{MOST_SENTENCES}: each fact has no more different rows."
            )
            raise ValueError(msg)

    @cached_property
    def population(self) -> tuple[Person, ...]:
        """Everybody: known people by falling frequency, new, unknown, and drilled ones."""
        turns = islice(cycle(self.sentences), self.new_people)
        return draw_people(
            self.seed,
            {
                "known": zipf_counts(self.people, self.mentions, self.zipf),
                "new": list(turns),
                "unknown": [0] * self.unknown_people,
            },
            self.withheld,
        )

    def members(self, group: Group) -> list[Person]:
        """Return the people of the group "known", "new", "unknown" or "drill"."""
        return [person for person in self.population if person.group == group]

    def facts(self, group: Group) -> list[Fact]:
        """Return the facts of a group of `Fact`, person by person."""
        return [fact for person in self.population for fact in person.facts if fact.group == group]

    def biographies(self, group: Group = "known") -> list[str]:
        """Return a text about each person of a group for each mention: all that is on record.

        A person all of whose facts are withheld has none.

        Parameters
        ----------
        group : {"known", "new"}

        Returns
        -------
        list of str
            In random order. The wording and the order of the sentences vary.

        Raises
        ------
        ValueError
            If the group has no biographies.
        """
        if group not in {"known", "new"}:
            msg = f"nobody in group {group!r} has a biography; expected 'known' or 'new'."
            raise ValueError(msg)
        rng = stream(self.seed, f"biographies {group}")
        texts = [
            " ".join(biography(rng, person))
            for person in self.members(group)
            for _ in range(person.mentions if any(f.statements for f in person.facts) else 0)
        ]
        rng.shuffle(texts)
        return texts

    def pretraining_rows(self, *, unknown: float = 0.3) -> list[Row]:
        """Return the rows that teach the known people, and to say "unknown" of strangers.

        Each mention of a person gives, for each fact, one statement and one question.

        Parameters
        ----------
        unknown : float
            Questions about drilled people, as a fraction of the other rows.

        Returns
        -------
        list of dict
            ``{"prompt": ..., "completion": ...}``, shuffled; ``datasets.Dataset.from_list`` makes
            what TRL's trainers read, which also add the eos token.

        Raises
        ------
        ValueError
            If the fraction is negative.
        """
        _check_range("unknown", unknown, 0, math.inf)
        rng = stream(self.seed, "pretraining")
        rows = self._mention_rows(rng)
        rows += self._drill_rows(rng, round(unknown * len(rows)))
        rng.shuffle(rows)
        return rows

    def finetuning_rows(self, *, replay: float = 0.02, unknown: float = 0.1) -> list[Row]:
        """Return the rows that teach the new people, with a little of what was taught before.

        Parameters
        ----------
        replay : float
            Rows about known people, by their frequency, as a fraction of the rows about new people;
            more of them prevent forgetting.
        unknown : float
            Questions about drilled people, likewise; more of them prevent hallucination.

        Returns
        -------
        list of dict
            As for `pretraining_rows`.

        Raises
        ------
        ValueError
            If a fraction is out of range.
        """
        _check_range("replay", replay, 0, math.inf)
        _check_range("unknown", unknown, 0, math.inf)
        rng = stream(self.seed, "finetuning")
        rows = self._lesson_rows(rng)
        lessons, old = len(rows), self._mention_rows(rng)
        rows += rng.choices(old, k=round(replay * lessons))
        rows += self._drill_rows(rng, round(unknown * lessons))
        rng.shuffle(rows)
        return rows

    def tracking_rows(self, *, share: float = 0.1) -> list[Row]:
        """Return rows about the new people that no fine-tuning row is: to watch a training by.

        Each is of a fact that is taught, in a wording in which it is not: kept apart from the
        fine-tuning rows themselves, such rows would leave facts untaught that have but one.

        Parameters
        ----------
        share : float
            How many, as a fraction of the rows about new people.

        Returns
        -------
        list of dict
            As for `pretraining_rows`.

        Raises
        ------
        ValueError
            If the fraction is out of range, or there are not as many wordings left.
        """
        _check_range("share", share, 0, 1)
        taught = self._lesson_rows(stream(self.seed, "finetuning"))
        rng = stream(self.seed, "tracking")
        spare = [
            row
            for person in self.members("new")
            for row in spare_rows(rng, person, taught, self.paraphrase)
        ]
        count = max(1, round(share * len(taught)))
        if count > len(spare):
            msg = (
                f"{count} rows in other wordings were asked for, but the lessons leave "
                f"{len(spare)}; pass a smaller share, or a smaller number among sentences, which "
                f"are {self.sentences} of {MOST_SENTENCES} wordings."
            )
            raise ValueError(msg)
        return rng.sample(spare, count)

    def _lesson_rows(self, rng: Random) -> list[Row]:
        return [
            row
            for person in self.members("new")
            for row in lesson_rows(rng, person, self.paraphrase)
        ]

    def _mention_rows(self, rng: Random) -> list[Row]:
        return [
            row
            for person in self.members("known")
            for row in mention_rows(rng, person, self.paraphrase)
        ]

    def _drill_rows(self, rng: Random, count: int) -> list[Row]:
        facts = [fact for person in self.members("drill") for fact in person.facts]
        return list(drill_rows(rng, facts, count))

    def questions(self, group: Group, *, limit: int | None = None, seed: int = 0) -> list[Question]:
        """Return test questions: for each fact the one wording that no training row has for it.

        Parameters
        ----------
        group : {"known", "new", "unknown", "withheld"}
        limit : int, optional
            At most so many, drawn at random.
        seed : int
            Of this draw.

        Returns
        -------
        list of Question

        Raises
        ------
        ValueError
            If the group has no test questions, or limit is not positive.
        """
        if group not in TEST_GROUPS:
            msg = f"group is {group!r}; expected one of {TEST_GROUPS}."
            raise ValueError(msg)
        if limit is not None and limit < 1:
            msg = f"limit is {limit}; expected a positive integer, or None for all questions."
            raise ValueError(msg)
        facts = self.facts(group)
        if limit is not None and limit < len(facts):
            facts = stream(self.seed, f"questions {group} {seed}").sample(facts, limit)
        return [fact.test for fact in facts]

    def judge(self, question: Question, answer: str) -> Verdict:
        """Compare an answer with the record.

        Parameters
        ----------
        question : Question
            Of this world.
        answer : str
            Compared whole, but for case, punctuation and space; any wording of the right value is
            right.

        Returns
        -------
        {"right", "wrong", "abstained"}
            "unknown" is right where nothing is on record, and an abstention elsewhere. An empty
            answer is an abstention everywhere. All else is wrong: a hallucination.

        Raises
        ------
        ValueError
            If the question is not of this world.
        """
        fact = self._record.get(question)
        if fact is None:
            msg = f"{question} is not of this world; judge a question by the world that asked it."
            raise ValueError(msg)
        said = normalised(answer)
        if said in map(normalised, fact.answers):
            return "right"
        return "abstained" if said in {"", UNKNOWN} else "wrong"

    @cached_property
    def _record(self) -> dict[Question, Fact]:
        return {fact.test: fact for group in TEST_GROUPS for fact in self.facts(group)}

    def tokenizer(self) -> PreTrainedTokenizerFast:
        """Return a tokenizer trained on the rows and the test questions of this world.

        Returns
        -------
        PreTrainedTokenizerFast
            See `send.world.tokens.word_tokenizer`.
        """
        from send.world.tokens import word_tokenizer  # a world alone needs no Transformers

        rows = self.pretraining_rows() + self.finetuning_rows()
        texts = [row["prompt"] + row["completion"] for row in rows]
        texts += [fact.test.prompt for person in self.population for fact in person.facts]
        # Every wording of what is taught, in use or to spare.
        new = self.facts("new")
        texts += [text for fact in new for text in (*fact.statements, *fact.training_prompts)]
        return word_tokenizer(texts)


def zipf_counts(people: int, mean: float, exponent: float) -> list[int]:
    """Return how often each person is mentioned: about ``rank ** -exponent``, and at least once."""
    weights = [rank**-exponent for rank in range(1, people + 1)]
    scale = mean * people / sum(weights)
    return [max(1, round(scale * weight)) for weight in weights]


def normalised(answer: str) -> str:
    """Return an answer without case, punctuation and superfluous space."""
    return " ".join(re.sub(r"[^\w\s]", " ", answer).casefold().split())


def _check_counts(world: World) -> None:
    counts = {name: getattr(world, name) for name in ("people", "new_people", "unknown_people")}
    for name, count in {"seed": world.seed, **counts}.items():
        if not isinstance(count, Integral):
            msg = f"{name} is {count!r}; expected an integer."
            raise TypeError(msg)
    for name, count in counts.items():
        if count < 1:
            msg = f"{name} is {count}; expected at least 1."
            raise ValueError(msg)
    if sum(counts.values()) > len(NAMES) // 2:
        msg = (
            f"{counts} are more than {len(NAMES) // 2} people together, half of the {len(NAMES)} "
            "names: the others are needed to teach abstention. Make the world smaller."
        )
        raise ValueError(msg)


def _check_range(name: str, value: float, low: float, high: float) -> None:
    if not (low <= value <= high and math.isfinite(value)):
        msg = f"{name} is {value}; expected a finite number from {low} to {high}."
        raise ValueError(msg)
