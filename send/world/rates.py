"""How much a model makes up: the share of wrong answers by the record, with its interval."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from scipy.stats import binomtest

from send.world.closed_world import Verdict, World
from send.world.facts import Question

__all__ = ["Rate", "Rates", "hallucination_rate"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """Verdicts on the answers to some questions, and the share of wrong ones.

    Attributes
    ----------
    asked, right, wrong, abstained : int
        ``asked = right + wrong + abstained``.
    rate : float
        The hallucination rate ``wrong / asked``.
    low, high : float
        Its Wilson interval.
    """

    asked: int
    right: int
    wrong: int
    abstained: int
    rate: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Rates:
    """Hallucination rates of each group of questions, ``rates["unknown"].rate``, and of all.

    Attributes
    ----------
    groups : mapping of str to Rate
        The groups that were asked.
    overall : Rate
        Of all questions together: it depends on how many of each group were asked.
    level : float
        The coverage of the intervals.
    """

    groups: Mapping[str, Rate]
    overall: Rate
    level: float

    def __getitem__(self, group: str) -> Rate:
        return self.groups[group]

    def __str__(self) -> str:
        lines = [f"{'':10}{'asked':>6}{'right':>7}{'wrong':>7}{'abstained':>11}   hallucination"]
        lines += [
            f"{group:10}{r.asked:6}{r.right:7}{r.wrong:7}{r.abstained:11}"
            f"   {r.rate:.3f} [{r.low:.3f}, {r.high:.3f}]"
            for group, r in (*self.groups.items(), ("all", self.overall))
        ]
        return "\n".join(lines)

    def records(self) -> list[dict[str, Any]]:
        """Return a plain dict for each group, and one for "all": rows for pandas or JSON.

        Returns
        -------
        list of dict
            The fields of `Rate`, and ``"group"``.
        """
        rates = {**self.groups, "all": self.overall}
        return [{"group": group, **asdict(rate)} for group, rate in rates.items()]


def hallucination_rate(
    world: World, questions: Sequence[Question], answers: Sequence[str], *, level: float = 0.95
) -> Rates:
    """Count how many answers are right, wrong and abstentions, by group of questions.

    Parameters
    ----------
    world : World
        The record to judge by.
    questions : sequence of Question
        Of this world, of any groups.
    answers : sequence of str
        One for each question.
    level : float
        Coverage of the Wilson intervals, between 0 and 1. They take the questions as independent
        draws from a larger set; the doubt from training another model or drawing another world is
        not in them.

    Returns
    -------
    Rates

    Raises
    ------
    ValueError
        If there are no questions, not as many answers as questions, a question is not of this
        world, or level is out of range.

    Examples
    --------
    >>> world = World(seed=0, people=20, new_people=5, unknown_people=5)
    >>> questions = world.questions("known", limit=3) + world.questions("unknown", limit=2)
    >>> print(hallucination_rate(world, questions, ["unknown"] * 5))
               asked  right  wrong  abstained   hallucination
    known          3      0      0          3   0.000 [0.000, 0.561]
    unknown        2      2      0          0   0.000 [0.000, 0.658]
    all            5      2      0          3   0.000 [0.000, 0.434]
    """
    if not questions or len(questions) != len(answers):
        msg = (
            f"{len(questions)} questions and {len(answers)} answers; "
            "expected at least one question, and one answer for each."
        )
        raise ValueError(msg)
    if not 0 < level < 1:
        msg = f"level is {level}; expected a coverage between 0 and 1, such as 0.95."
        raise ValueError(msg)
    verdicts: dict[str, list[Verdict]] = {}
    for question, answer in zip(questions, answers, strict=True):
        verdicts.setdefault(question.group, []).append(world.judge(question, answer))
    groups = {group: _rate(given, level) for group, given in verdicts.items()}
    return Rates(groups, _rate([v for given in verdicts.values() for v in given], level), level)


def _rate(verdicts: Sequence[Verdict], level: float) -> Rate:
    counts = Counter(verdicts)
    wrong, asked = counts["wrong"], len(verdicts)
    interval = binomtest(wrong, asked).proportion_ci(level, method="wilson")
    return Rate(
        asked=asked,
        right=counts["right"],
        wrong=wrong,
        abstained=counts["abstained"],
        rate=wrong / asked,
        low=float(interval.low),
        high=float(interval.high),
    )
