"""`Question` is checked where it is made, never changes, and is replaced where a part is asked."""

from dataclasses import FrozenInstanceError

import numpy as np
import pytest

from specdens.arrays.probes import key_of
from specdens.estimation.goal import goal_of
from specdens.estimation.question import Question
from specdens.testing import with_spectrum

GOAL = goal_of(10, None, None, None, None, None)


def question(**options):
    return Question(with_spectrum(np.linspace(1, 2, 6), rng=0), GOAL, **options)


def test_it_never_changes():
    with pytest.raises(FrozenInstanceError):
        question().shift = 1.0


def test_a_method_that_the_call_does_not_have():
    with pytest.raises(ValueError, match="method is 'magic'"):
        question(method="magic")
    with pytest.raises(ValueError, match="'lanczos'"):
        question(method="lanczos", among=("auto", "exact"))


def test_a_part_is_asked_with_all_else_the_same():
    whole = question(shift=0.5, hermitian=True, rng=3)
    part = whole.of(np.eye(2))
    assert part.A.shape == (2, 2)
    assert (part.goal, part.shift, part.hermitian, part.rng) == (GOAL, 0.5, True, 3)
    assert whole.A.shape == (6, 6)


def test_with_a_key_the_probes_are_the_same_however_often_it_is_asked():
    kept = question(rng=np.random.default_rng(1)).with_key()
    assert kept.with_key().rng == kept.rng == key_of(np.random.default_rng(1))
    assert kept.by(7).rng == 7


@pytest.mark.parametrize(
    ("options", "plain"),
    [
        ({}, True),
        ({"method": "exact"}, True),
        ({"method": "lanczos"}, False),
        ({"probes": 3}, False),
        ({"bounds": (1, 2)}, False),
        ({"B": np.eye(6)}, False),
    ],
)
def test_plain_questions_may_be_answered_together(options, plain):
    assert question(**options).is_plain is plain


def test_the_problem_is_that_of_a_pencil():
    twice = question(B=2 * np.eye(6), shift=1.0).problem()
    full = question().problem()
    assert twice.n == full.n == 6
    assert np.trace(twice.shifted @ np.eye(6)) == pytest.approx(
        np.trace(full.op @ np.eye(6)) / 2 + 6
    )
