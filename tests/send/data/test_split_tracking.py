"""The split is disjoint, complete, by the seed, and keeps equal rows together."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from send.data.as_dataset import as_dataset
from send.data.split_tracking import split_tracking

TEXTS = ["Ada was born in Oslo.", "Bo is a baker."]


@settings(max_examples=25)
@given(st.integers(2, 60), st.floats(0.01, 0.99), st.integers(0, 5))
def test_split_is_disjoint_complete_and_never_empty(rows, fraction, seed):
    whole = as_dataset([{"text": str(i)} for i in range(rows)])
    train, tracking = split_tracking(whole, fraction, seed=seed)
    assert sorted([*train["text"], *tracking["text"]]) == sorted(whole["text"])
    assert min(len(train), len(tracking)) >= 1
    assert abs(len(tracking) - fraction * rows) <= 1
    again = split_tracking(whole, fraction, seed=seed)[1]
    assert tracking["text"][:] == again["text"][:]


@settings(max_examples=50)
@given(st.lists(st.integers(0, 9), min_size=2, max_size=60), st.floats(0.01, 0.99))
def test_rows_that_are_the_same_are_in_one_part(numbers, fraction):
    whole = as_dataset([{"text": str(i), "id": n} for n, i in enumerate(numbers)])
    if len(set(numbers)) == 1:
        with pytest.raises(ValueError, match="rows are the same"):
            split_tracking(whole, fraction)
        return
    train, tracking = split_tracking(whole, fraction)
    assert sorted([*train["id"], *tracking["id"]]) == list(range(len(numbers)))
    assert not set(train["text"]) & set(tracking["text"])
    assert min(len(train), len(tracking)) >= 1


def test_split_is_shuffled_by_the_seed():
    whole = as_dataset([str(i) for i in range(100)])
    first, second = (split_tracking(whole, seed=seed)[1]["text"][:] for seed in (0, 1))
    assert first != second
    assert first != whole["text"][:10]


@pytest.mark.parametrize("fraction", [0, 1, -0.1, 1.5])
def test_split_refuses_a_fraction_out_of_range(fraction):
    with pytest.raises(ValueError, match="0 < fraction < 1"):
        split_tracking(as_dataset(TEXTS), fraction)


def test_split_refuses_a_single_row():
    with pytest.raises(ValueError, match="1 row cannot be split"):
        split_tracking(as_dataset(TEXTS[:1]))
