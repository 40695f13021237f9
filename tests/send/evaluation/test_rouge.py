"""ROUGE-L against the textbook's table of longest common subsequences, and the usual package."""

import pytest
from hypothesis import given
from hypothesis.strategies import lists, sampled_from, text

from send.evaluation.rouge import rouge_l

# Values of rouge_score 0.1.2, RougeScorer(["rougeL"]).score(reference, answer).
PUBLISHED = [
    ("police killed the gunman", "police kill the gunman", 0.75),
    ("police killed the gunman", "the gunman kill police", 0.5),
    ("Oslo.", "oslo", 1.0),
    ("The cat_sat on-the mat!", "the cat sat on the mat", 1.0),
    ("a b c d e", "e d c b a", 0.2),
    ("the the the", "the", 0.5),
    (
        "In 1903, Marie Curie won the Nobel Prize in Physics.",
        "Marie Curie was awarded the Nobel Prize in 1903",
        0.631578947368421,
    ),
    ("It's 3.5 km", "its 3 5 km", 0.6666666666666666),
    ("", "x", 0.0),
    ("x", "", 0.0),
    ("", "", 0.0),
    ("...", "...", 0.0),
]

WORDS = lists(sampled_from("abc"), max_size=12)


@pytest.mark.parametrize(("reference", "answer", "expected"), PUBLISHED)
def test_values_of_the_usual_package(reference, answer, expected):
    assert rouge_l(reference, answer) == pytest.approx(expected, abs=1e-15)


def longest_common(a, b):
    """The table of the textbook."""
    table = [[0] * (len(b) + 1) for _ in range(len(a) + 1)]
    for i, x in enumerate(a):
        for j, y in enumerate(b):
            larger = max(table[i][j + 1], table[i + 1][j])
            table[i + 1][j + 1] = table[i][j] + 1 if x == y else larger
    return table[-1][-1]


@given(WORDS, WORDS)
def test_it_is_the_harmonic_mean_of_precision_and_recall(a, b):
    common = longest_common(a, b)
    expected = 0.0
    if common:
        recall, precision = common / len(a), common / len(b)
        expected = 2 * recall * precision / (recall + precision)
    assert rouge_l(" ".join(a), " ".join(b)) == pytest.approx(expected, abs=1e-12)


def test_long_texts_need_more_than_one_machine_word():
    a, b = [str(i) for i in range(300)], [str(i) for i in range(0, 300, 3)]
    assert rouge_l(" ".join(a), " ".join(b)) == 2 * 100 / 400
    assert rouge_l(" ".join(a), " ".join(reversed(b))) == 2 / 400


@given(text(), text())
def test_either_may_be_the_reference_and_case_and_marks_do_not_count(a, b):
    value = rouge_l(a, b)
    assert 0 <= value <= 1
    assert value == rouge_l(b, a) == rouge_l(f"  {a}!?", f"({b}) ")


def test_letters_of_every_language_are_letters():
    assert rouge_l("Zürich liegt in der Schweiz", "zürich") == 2 / 6
    assert rouge_l("naïve", "naive") == 0
    assert rouge_l("где живёт Ада", "Ада живёт") == 2 / 5
