"""The options of a generation: checked when they are made, given whole or by name."""

import dataclasses

import pytest

from send.models.answers import greedy_answers, sample_answers
from send.models.generation_options import GenerationOptions, SamplingOptions


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("num_samples", 0),
        ("temperature", 0.0),
        ("top_k", -1),
        ("top_p", 1.1),
        ("max_new_tokens", 0),
        ("batch_size", 0),
        ("span", "prompt"),
        ("pooling", "max"),
        ("seed", -1),
    ],
)
def test_they_are_checked_without_a_model(option, value):
    with pytest.raises(ValueError, match=f"{option} .*is"):
        SamplingOptions(**{option: value})


def test_they_stay_as_they_were_checked():
    with pytest.raises(dataclasses.FrozenInstanceError):
        GenerationOptions().max_new_tokens = 0


def test_given_whole_or_by_name_they_are_the_same(tiny_model, tokenizer):
    options = SamplingOptions(num_samples=3, max_new_tokens=4, seed=1)
    by_name = sample_answers(tiny_model, tokenizer, ["Bo"], num_samples=3, max_new_tokens=4, seed=1)
    assert sample_answers(tiny_model, tokenizer, ["Bo"], options).answers == by_name.answers
    other = sample_answers(tiny_model, tokenizer, ["Bo"], options, num_samples=2)
    assert len(other.answers[0]) == 2
    greedy = greedy_answers(tiny_model, tokenizer, ["Bo"], max_new_tokens=4)
    assert greedy_answers(tiny_model, tokenizer, ["Bo"], options).answers == greedy.answers


def test_a_greedy_answer_has_no_temperature(tiny_model, tokenizer):
    with pytest.raises(TypeError, match="temperature"):
        greedy_answers(tiny_model, tokenizer, ["Bo"], temperature=1.0)
