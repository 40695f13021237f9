"""Sensitivity of embedding indices: the definition literally, its symmetries, the ring buffer."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from send.dropout.sensitivity import SensitivityTracker, most_sensitive, net_change, variability


def literal_variability(window, before=None):
    """Definition 3.3 with loops, the mean over the inputs of each input's V."""
    checkpoints, inputs, d = np.shape(window)
    v = np.zeros(d)
    for i, j in itertools.product(range(d), range(inputs)):
        values = [window[t][j][i] for t in range(checkpoints)]
        mean = sum(values) / checkpoints
        variance = sum((value - mean) ** 2 for value in values) / checkpoints
        steps = values if before is None else [before[j][i], *values]
        path = sum(abs(b - a) for a, b in itertools.pairwise(steps))
        v[i] += variance * path / inputs
    return v


def windows():
    shape = st.tuples(st.integers(2, 5), st.integers(1, 4), st.integers(1, 6))
    # Multiples of 1/8 that are not huge: sums are exact, so that symmetries can be.
    values = st.integers(-80, 80).map(lambda n: n / 8)
    return shape.flatmap(lambda s: arrays(np.float64, s, elements=values))


def random_window(seed=0, shape=(3, 5, 8)):
    return np.random.default_rng(seed).standard_normal(shape)


@given(windows(), st.booleans())
def test_variability_is_the_definition(window, known_before):
    before = window[0] * 2 - 1 if known_before else None
    expected = literal_variability(window, before)
    np.testing.assert_allclose(variability(window, before=before), expected, rtol=1e-12, atol=1e-12)


@given(windows(), st.sampled_from(["per-input", "mean-first"]))
def test_variability_is_not_negative_and_zero_without_movement(window, aggregate):
    assert (variability(window, aggregate=aggregate) >= 0).all()
    still = np.repeat(window[:1], 3, axis=0)
    assert not variability(still, aggregate=aggregate).any()


@given(windows(), st.integers(-64, 64))
def test_variability_does_not_feel_a_shift_and_scales_with_the_cube(window, shift):
    v = variability(window)
    np.testing.assert_allclose(variability(window + shift), v, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(variability(window * -3), 27 * v, rtol=1e-12)


@given(windows())
def test_variability_does_not_feel_the_direction_of_time_nor_the_order_of_inputs(window):
    v = variability(window)
    np.testing.assert_allclose(variability(window[::-1]), v, rtol=1e-12)
    np.testing.assert_allclose(variability(window[:, ::-1]), v, rtol=1e-12)
    np.testing.assert_array_equal(variability(window[:, :, ::-1]), v[::-1])


@given(windows())
def test_aggregates_agree_on_a_single_input(window):
    one = window[:, :1]
    np.testing.assert_allclose(
        variability(one, aggregate="mean-first"), variability(one), rtol=1e-12
    )


def test_opposite_changes_cancel_only_if_averaged_first():
    window = np.array([[[0.0], [0.0]], [[1.0], [-1.0]], [[0.0], [0.0]]])
    assert variability(window, aggregate="mean-first").tolist() == [0]
    assert variability(window)[0] > 0


def test_the_step_into_the_window_lengthens_the_path():
    window = random_window()
    before = random_window(1)[0]
    longer = window.var(axis=0) * np.abs(window[0] - before)
    expected = variability(window) + longer.mean(axis=0)
    np.testing.assert_allclose(variability(window, before=before), expected, rtol=1e-12)


def test_net_change_is_the_absolute_difference():
    a, b = random_window(shape=(2, 5, 8))
    np.testing.assert_array_equal(net_change(a, b), np.abs(b - a))
    np.testing.assert_array_equal(net_change(b, a), np.abs(b - a))


@pytest.mark.parametrize("aggregate", ["per-input", "mean-first"])
def test_oscillating_indices_are_recovered_exactly(aggregate):
    rng = np.random.default_rng(0)
    inputs, d, oscillating = 12, 40, [3, 4, 17, 25, 31, 39, 0, 22]
    start = rng.standard_normal((inputs, d))
    tracker = SensitivityTracker(3, aggregate=aggregate)
    for t in range(5):
        drift = 0.02 * t * rng.standard_normal((inputs, d))
        swing = np.zeros(d)
        swing[oscillating] = (-1) ** t * rng.uniform(0.5, 2, len(oscillating))
        tracker.update(start + drift + swing)
    assert tracker.select(0.2).tolist() == sorted(oscillating)


@given(
    arrays(np.float64, st.integers(1, 40), elements=st.integers(0, 6).map(float)),
    st.floats(0, 0.99),
)
def test_most_sensitive_takes_the_largest_and_of_equals_the_lower_index(v, fraction):
    chosen = most_sensitive(v, fraction)
    assert len(chosen) == round(fraction * len(v))
    ranked = sorted(range(len(v)), key=lambda i: (-v[i], i))
    assert chosen.tolist() == sorted(ranked[: len(chosen)])


def test_most_sensitive_takes_infinity_and_refuses_nan():
    assert most_sensitive(np.array([1.0, np.inf, 2.0]), 0.34).tolist() == [1]
    with pytest.raises(ValueError, match="numbers"):
        most_sensitive(np.array([1.0, np.nan]), 0.5)


@pytest.mark.parametrize("fraction", [-0.1, 1.0, 2, np.nan])
def test_most_sensitive_refuses_a_fraction_out_of_range(fraction):
    with pytest.raises(ValueError, match="0 <= fraction < 1"):
        most_sensitive(np.ones(4), fraction)


def test_tracker_uses_the_last_window_and_the_checkpoint_before_it():
    all_ = random_window(shape=(7, 5, 8)).astype(np.float32)
    tracker = SensitivityTracker(3)
    for t, embeddings in enumerate(all_):
        tracker.update(embeddings)
        assert tracker.ready is (t >= 2)
        if tracker.ready:
            before = all_[t - 3] if t >= 3 else None
            expected = variability(all_[t - 2 : t + 1], before=before)
            np.testing.assert_array_equal(tracker.variability(), expected)
        if t:
            np.testing.assert_array_equal(tracker.net_change(), net_change(all_[t - 1], embeddings))


def test_tracker_goes_on_from_what_another_one_kept():
    all_ = random_window(shape=(6, 5, 8))
    first, second = SensitivityTracker(3), SensitivityTracker(3)
    for embeddings in all_[:4]:
        first.update(embeddings)
    kept = first.checkpoints
    assert kept.dtype == np.float32
    assert kept.shape == (4, 5, 8)
    second.restore(kept)
    for embeddings in all_[4:]:
        first.update(embeddings)
        second.update(embeddings)
    np.testing.assert_array_equal(first.checkpoints, second.checkpoints)
    np.testing.assert_array_equal(first.variability(), second.variability())


def test_tracker_keeps_its_own_copy():
    tracker = SensitivityTracker(2)
    embeddings = np.zeros((2, 3), np.float32)
    tracker.update(embeddings)
    embeddings += 1
    assert not tracker.checkpoints.any()


def test_tracker_says_what_is_missing():
    tracker = SensitivityTracker(3)
    with pytest.raises(ValueError, match="there are 0"):
        tracker.net_change()
    tracker.update(np.zeros((2, 3)))
    tracker.update(np.zeros((2, 3)))
    with pytest.raises(ValueError, match="window of 3 checkpoints is needed; there are 2"):
        tracker.variability()


@pytest.mark.parametrize(
    ("embeddings", "message"),
    [
        (np.zeros((2, 4)), r"shape \(2, 4\); expected \(2, 3\)"),
        (np.zeros((3, 3)), r"shape \(3, 3\); expected \(2, 3\)"),
        (np.zeros(3), r"shape \(3,\)"),
        (np.full((2, 3), np.nan), "NaN or infinity"),
    ],
    ids=["other d", "other inputs", "vector", "nan"],
)
def test_tracker_refuses_what_does_not_fit(embeddings, message):
    tracker = SensitivityTracker(3)
    tracker.update(np.zeros((2, 3)))
    with pytest.raises(ValueError, match=message):
        tracker.update(embeddings)
    assert len(tracker.checkpoints) == 1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: SensitivityTracker(1), "at least 2"),
        (lambda: SensitivityTracker(3, aggregate="median"), "'median'; expected one of"),
        (lambda: SensitivityTracker(2).update(np.zeros((0, 3))), "not empty"),
        (lambda: variability(random_window(), aggregate="sum"), "'sum'"),
        (lambda: variability(random_window()[:1]), "1 checkpoint; expected at least 2"),
        (lambda: variability(random_window()[0]), r"expected \(C, inputs, d\)"),
        (lambda: variability(random_window(), before=np.zeros((5, 7))), r"expected \(5, 8\)"),
        (lambda: variability(random_window() * np.inf), "NaN or infinity"),
        (lambda: net_change(np.zeros((2, 3)), np.zeros((2, 4))), "same inputs"),
        (lambda: most_sensitive(np.zeros((2, 3)), 0.5), "expected a vector"),
    ],
)
def test_errors_say_what_was_expected(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_embeddings_beyond_float32_are_refused_and_torch_ones_taken():
    tracker = SensitivityTracker()
    with pytest.raises(ValueError, match=r"an embedding is 1e\+300; expected numbers that fit"):
        tracker.update(np.full((2, 3), 1e300))
    tracker.update(torch.ones(2, 3, dtype=torch.bfloat16))
    assert tracker.checkpoints.tolist() == [[[1.0] * 3] * 2]
