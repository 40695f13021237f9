"""The indices to drop, and the controls that are compared with them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from send.dropout.selection import SELECTIONS, check_selection, magnitude_matched, selected
from send.dropout.sensitivity import most_sensitive

SIZES = st.lists(st.floats(0, 1e6), min_size=2, max_size=40).map(np.array)
FRACTIONS = st.floats(0, 0.5)
SEEDS = st.integers(0, 99)


@given(SIZES, FRACTIONS, SEEDS, st.sampled_from(SELECTIONS))
def test_every_selection_gives_as_many_different_indices(v, fraction, seed, selection):
    options = {"selection": selection, "magnitudes": v[::-1].copy(), "seed": [seed, 3]}
    chosen = selected(v, fraction, **options)
    assert len(chosen) == (0 if selection == "none" else round(fraction * len(v)))
    assert chosen.dtype == np.int64
    assert (np.diff(chosen) > 0).all()
    assert set(chosen.tolist()) <= set(range(len(v)))
    assert np.array_equal(chosen, selected(v, fraction, **options))


@given(SIZES, FRACTIONS, SEEDS)
def test_matched_are_others(sizes, fraction, seed):
    chosen = most_sensitive(np.arange(len(sizes), dtype=float), fraction)
    assert not set(magnitude_matched(sizes, chosen, seed=seed).tolist()) & set(chosen.tolist())


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=20), SEEDS, st.randoms())
def test_twins_are_found(sizes, seed, random):
    """Where each index has a twin of its size, the match is exact."""
    order = list(range(2 * len(sizes)))
    random.shuffle(order)
    both = np.array(sizes + sizes)[order]
    chosen = np.sort(np.argsort(order)[: len(sizes)])
    matched = magnitude_matched(both, chosen, seed=seed)
    assert np.array_equal(np.sort(both[matched]), np.sort(both[chosen]))


@given(SIZES, FRACTIONS, SEEDS, st.sampled_from([0.25, 2.0, 1024.0]))
def test_a_change_of_scale_changes_no_match(sizes, fraction, seed, scale):
    sizes = np.round(sizes)  # so that products are exact
    chosen = most_sensitive(sizes, fraction)
    matched = magnitude_matched(sizes, chosen, seed=seed)
    assert np.array_equal(matched, magnitude_matched(scale * sizes, chosen, seed=seed))


@given(SIZES, FRACTIONS, SEEDS)
def test_a_match_is_as_one_takes_it_by_hand(sizes, fraction, seed):
    """Each in its turn takes the nearest that is left, of two the smaller one."""
    chosen = most_sensitive(sizes[::-1].copy(), fraction)
    left = [i for i in range(len(sizes)) if i not in chosen]
    taken = []
    for index in np.random.default_rng(seed).permutation(chosen):
        best = min(left, key=lambda i: (abs(sizes[i] - sizes[index]), sizes[i]))
        taken.append(sizes[best])
        left.remove(best)
    matched = magnitude_matched(sizes, chosen, seed=seed)
    assert np.array_equal(np.sort(sizes[matched]), np.sort(taken))


def test_matching_beats_chance_on_heavy_tails():
    rng = np.random.default_rng(0)
    sizes = np.exp(rng.normal(size=1000))
    chosen = np.argsort(-sizes)[100:300]  # large ones, but not the largest
    ratio = sizes[magnitude_matched(sizes, chosen, seed=0)].mean() / sizes[chosen].mean()
    at_random = sizes[rng.choice(1000, 200, replace=False)].mean() / sizes[chosen].mean()
    assert abs(ratio - 1) < 0.25 < abs(at_random - 1)


def test_random_choices_are_uniform_and_of_their_seed():
    v = np.arange(10.0)
    options = {"selection": "random", "magnitudes": v}
    drawn = [selected(v, 0.3, **options, seed=[7, i]).tolist() for i in range(2000)]
    counts = np.bincount(np.concatenate(drawn), minlength=10)
    # Binomial (2000, 0.3) each: 600 +- 20.5; 5.6 standard deviations are 1e-6 for ten of them.
    assert abs(counts - 600).max() < 5.6 * 20.5
    assert drawn[0] != drawn[1]


@pytest.mark.parametrize(
    ("selection", "fraction", "message"),
    [
        ("largest", 0.2, "selection is 'largest'; expected one of"),
        ("magnitude-matched", 0.6, "drop_fraction is 0.6, which leaves too few"),
    ],
)
def test_what_cannot_be_selected_is_refused(selection, fraction, message):
    with pytest.raises(ValueError, match=message):
        check_selection(selection, fraction)


def test_too_few_others_are_refused():
    with pytest.raises(ValueError, match="2 indices are to be matched by 1 others"):
        magnitude_matched(np.arange(3.0), np.array([0, 1]), seed=0)
