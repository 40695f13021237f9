"""The options of Sensitivity Dropout are the same wherever they are taken, and checked there."""

import inspect
from dataclasses import fields
from functools import partial

import pytest

from send import EvaluationCallback, SendCallback, SendConfig, SensitivityDropout, evaluate
from send.dropout.options import DropoutOptions, SensitivityDropoutOptions, chosen
from send.evaluation.options import EvaluationOptions

ROWS = [{"text": "Ada was born in Oslo."}]

TAKERS = {
    "SensitivityDropout": partial(SensitivityDropout, ROWS),
    "SendCallback": partial(SendCallback, ROWS),
    "SendConfig": partial(SendConfig, output_dir="out"),
}

WRONG = {
    "drop_fraction": [-0.1, 1, 1.5, float("nan")],
    "selection": ["largest"],
    "window": [0, 1],
    "hold": [0],
    "warmup": [-1],
    "cooldown": [-1],
    "pooling": ["max"],
    "aggregate": ["median"],
    "score_prompts": [-1],
    "num_samples": [0],
    "max_new_tokens": [0],
    "stop_loss": [0.1],  # alone
    "stop_score": [0.1],
}


@pytest.mark.parametrize("taker", TAKERS)
@pytest.mark.parametrize(("name", "value"), [(n, v) for n, values in WRONG.items() for v in values])
def test_what_is_out_of_range_is_refused_at_once(taker, name, value):
    with pytest.raises(ValueError, match=name.replace("drop_fraction", "fraction")):
        TAKERS[taker](**{name: value})


@pytest.mark.parametrize("taker", TAKERS)
@pytest.mark.parametrize("stop", [(-1, 0.1), (0.1, float("inf")), (float("nan"), 0.1)])
def test_tolerances(taker, stop):
    with pytest.raises(ValueError, match="tolerance of at least 0"):
        TAKERS[taker](stop_loss=stop[0], stop_score=stop[1])


@pytest.mark.parametrize("taker", ["SensitivityDropout", "SendCallback"])
@pytest.mark.parametrize("wrong", [{"batch_size": 0}, {"max_length": 1}, {"seed": -1}])
def test_how_rows_are_read(taker, wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        TAKERS[taker](**wrong)


@pytest.mark.parametrize("taker", TAKERS)
def test_names_and_defaults_agree(taker):
    assert chosen(DropoutOptions, SendConfig(output_dir="out")) == vars(DropoutOptions())
    cls = TAKERS[taker].func
    shown = inspect.signature(cls).parameters
    for part in fields(DropoutOptions):
        assert shown[part.name].default == part.default
        assert shown[part.name].kind is inspect.Parameter.KEYWORD_ONLY


@pytest.mark.parametrize("taker", TAKERS)
def test_a_name_that_does_not_exist(taker):
    with pytest.raises(TypeError, match="'windw'"):
        TAKERS[taker](windw=3)


def test_a_config_still_takes_its_folder_first():
    assert SendConfig("out", window=4).output_dir == "out"


def test_what_a_config_says_reaches_the_callback():
    callback = SendCallback(ROWS, window=4, hold=2, selection="random", seed=5)
    assert (callback.dropout.options.hold, callback.dropout.options.seed) == (2, 5)
    assert callback.tracker.window == 4


@pytest.mark.parametrize("options", [DropoutOptions, SensitivityDropoutOptions, EvaluationOptions])
def test_every_option_is_described_once(options):
    text = inspect.getdoc(options)
    own = [part.name for part in fields(options) if part.name in options.__annotations__]
    assert own
    head = [line for line in text.splitlines() if line and not line.startswith(" ")]
    for name in own:
        described = [line for line in head if name in line.split(" : ")[0].replace(",", "").split()]
        assert len(described) == 1, name


@pytest.mark.parametrize(
    "wrong",
    [
        {"num_samples": 0},
        {"temperature": 0},
        {"top_k": -1},
        {"top_p": 0},
        {"max_new_tokens": 0},
        {"pooling": "max"},
        {"alpha": 0},
        {"max_prompts": 0},
        {"batch_size": 0},
        {"level": 1},
        {"seed": -1},
    ],
)
def test_evaluations_are_checked_alike(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        EvaluationCallback(["Where is Ada?"], **wrong)
    with pytest.raises(ValueError, match=next(iter(wrong))):
        evaluate("no model is loaded before", ["Where is Ada?"], **wrong)


def test_evaluations_show_their_options():
    of_call = inspect.signature(evaluate).parameters
    of_callback = inspect.signature(EvaluationCallback).parameters
    for part in fields(EvaluationOptions):
        assert of_call[part.name].default == part.default
        default = 64 if part.name == "max_prompts" else part.default
        assert of_callback[part.name].default == default
