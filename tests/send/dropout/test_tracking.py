"""The tracking set: rows of every shape as tokens, and what a model is measured by on them."""

import copy
import random

import numpy as np
import pytest
import torch
from torch.nn import functional

from send.dropout.tracking import IGNORED, TrackingRow, TrackingSet, read_rows
from send.models.answers import sample_answers
from send.models.embeddings import sentence_embedding
from send.scores.eigenscore import eigenscore
from tests.send.rows import TEMPLATE

CHAT = [
    {"role": "user", "content": "where was Ada born"},
    {"role": "assistant", "content": "in Oslo"},
]
TEXTS = [
    "Ada was born in Oslo .",
    "Bo works as a baker at Acme and Bo lives in Lima .",
    "who is Cyn ?",
    "Dag and Eve and Finn and Gil lives in Quito .",
    "Ines",
]


def tracking_set(rows, **options):
    defaults = {
        "layer": -2,
        "pooling": "mean+last",
        "batch_size": 2,
        "score_prompts": 3,
        "num_samples": 4,
        "max_new_tokens": 3,
        "seed": 0,
    }
    return TrackingSet(rows=rows, **{**defaults, **options})


@pytest.fixture
def rows(tokenizer):
    return read_rows([{"text": text} for text in TEXTS], tokenizer)


def test_text_is_ended_and_prompts_with_its_first_half(tokenizer):
    (row,) = read_rows([{"text": "Ada was born in Oslo ."}], tokenizer)
    assert tokenizer.decode(row.input_ids) == "Ada was born in Oslo . <eos>"
    assert row.labels == row.input_ids
    assert row.prompt == "Ada was born"
    (ended,) = read_rows([{"text": "Ada was born in Oslo . <eos>"}], tokenizer)
    assert ended == row


def test_only_the_completion_has_labels(tokenizer):
    (row,) = read_rows([{"prompt": "where was Ada born ?", "completion": " Oslo"}], tokenizer)
    assert tokenizer.decode(row.input_ids) == "where was Ada born ? Oslo <eos>"
    assert row.labels == [IGNORED] * 5 + row.input_ids[5:]
    assert row.prompt == "where was Ada born ?"


def test_a_chat_prompts_with_all_before_its_last_message(tokenizer):
    tokenizer.chat_template = TEMPLATE
    (row,) = read_rows([{"messages": CHAT}], tokenizer)
    written = "question : where was Ada born <eos> answer : in Oslo <eos>"
    assert tokenizer.decode(row.input_ids) == written
    assert row.labels == row.input_ids
    assert row.prompt == CHAT[:1]


def test_a_chat_as_prompt_and_completion(tokenizer):
    tokenizer.chat_template = TEMPLATE
    (row,) = read_rows([{"prompt": CHAT[:1], "completion": CHAT[1:]}], tokenizer)
    counted = [i for i in row.labels if i != IGNORED]
    assert tokenizer.decode(counted) == "in Oslo <eos>"
    assert row.prompt == CHAT[:1]


def test_tokens_lose_their_pads(tokenizer):
    ids = tokenizer("Ada was born in")["input_ids"]
    for padded, mask in (
        ([0, 0, *ids], [0, 0, 1, 1, 1, 1]),
        ([*ids, 0], [1, 1, 1, 1, 0]),
    ):
        (row,) = read_rows([{"input_ids": padded, "attention_mask": mask}], tokenizer)
        assert row == TrackingRow(ids, ids, "Ada was")


def test_tokens_prompt_with_what_precedes_their_labels(tokenizer):
    ids = tokenizer("Ada was born in")["input_ids"]
    labels = [IGNORED, IGNORED, IGNORED, ids[3]]
    (row,) = read_rows(
        [{"input_ids": torch.tensor(ids), "labels": torch.tensor(labels)}], tokenizer
    )
    assert row == TrackingRow(ids, labels, "Ada was born")


def test_tokens_need_no_tokenizer():
    assert read_rows([{"input_ids": [4, 5]}]) == [TrackingRow([4, 5], [4, 5], "")]


@pytest.mark.parametrize("shape", ["text", "completion", "input_ids"])
def test_rows_are_cut_to_a_length(tokenizer, shape):
    long = "Ada was born in Oslo and Bo was born in Lima"
    row = {
        "text": {"text": long},
        "completion": {"prompt": "where ?", "completion": " " + long},
        "input_ids": {"input_ids": tokenizer(long)["input_ids"]},
    }[shape]
    (whole,) = read_rows([row], tokenizer)
    (cut,) = read_rows([row], tokenizer, max_length=4)
    assert cut.input_ids == whole.input_ids[:4]
    assert cut.labels == whole.labels[:4]
    if shape != "completion":
        assert cut.prompt == "Ada was"


@pytest.mark.parametrize(
    ("row", "given_tokenizer", "message"),
    [
        ({"body": "a"}, True, "has the columns body; expected text"),
        ({"prompt": "a"}, True, "has the columns prompt; expected text"),
        ({"text": "a"}, False, "the trainer has no tokenizer"),
        ({"input_ids": [5, 6], "labels": [5, IGNORED]}, True, "nothing to predict"),
        ({"text": ""}, True, "nothing to predict"),
    ],
)
def test_rows_that_cannot_be_read(tokenizer, row, given_tokenizer, message):
    with pytest.raises(ValueError, match=message):
        read_rows([row], tokenizer if given_tokenizer else None)


def test_loss_and_embeddings_are_those_of_each_row_alone(any_model, rows):
    watched = tracking_set(rows).watch(any_model)
    embeddings, loss = watched.embeddings, watched.loss
    nll, tokens = 0.0, 0
    for row, embedding in zip(rows, embeddings, strict=True):
        ids = torch.tensor([row.input_ids])
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        alone = sentence_embedding(any_model, inputs)[0]
        np.testing.assert_allclose(embedding, alone.numpy(), rtol=1e-4, atol=1e-5)
        with torch.no_grad():
            logits = any_model(ids).logits[0]
        nll += functional.cross_entropy(logits[:-1], ids[0, 1:], reduction="sum").item()
        tokens += len(row.input_ids) - 1
    assert loss == pytest.approx(nll / tokens, rel=1e-5)
    assert embeddings.dtype == np.float32


def test_loss_passes_over_what_has_no_label(tiny_model, tokenizer):
    rows = read_rows([{"prompt": "where was Ada born ?", "completion": " Oslo"}], tokenizer)
    loss = tracking_set(rows).watch(tiny_model).loss
    ids, labels = torch.tensor([rows[0].input_ids]), torch.tensor([rows[0].labels])
    with torch.no_grad():
        assert loss == pytest.approx(tiny_model(ids, labels=labels).loss.item(), rel=1e-6)


@pytest.mark.parametrize("batch_size", [1, 3, 99])
def test_pads_change_nothing(any_model, rows, batch_size):
    alone = tracking_set(rows, batch_size=1).watch(any_model)
    padded = tracking_set(rows, batch_size=batch_size).watch(any_model)
    np.testing.assert_allclose(padded.embeddings, alone.embeddings, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(padded.magnitudes, alone.magnitudes, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(padded.nll, alone.nll, rtol=1e-4)
    assert padded.loss == pytest.approx(alone.loss, rel=1e-5)


def _numpy_state():
    return np.random.get_state()[1].copy()  # noqa: NPY002  # the state that is not to be touched


def test_measuring_leaves_modes_and_random_states_alone(tiny_model, tokenizer, rows):
    tiny_model.train()
    tiny_model.gpt_neox.layers[0].eval()
    modes = [module.training for module in tiny_model.modules()]
    states = torch.get_rng_state(), _numpy_state(), random.getstate()
    before = copy.deepcopy(tiny_model.state_dict())
    measured = tracking_set(rows)
    measured.watch(tiny_model)
    measured.score(tiny_model, tokenizer)
    assert [module.training for module in tiny_model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), states[0])
    assert np.array_equal(_numpy_state(), states[1])
    assert random.getstate() == states[2]
    for name, value in tiny_model.state_dict().items():
        assert torch.equal(value, before[name])
    assert all(p.grad is None for p in tiny_model.parameters())


def test_score_is_the_mean_over_prompts(tiny_model, tokenizer, rows):
    measured = tracking_set(rows, score_prompts=99)
    mean, error = measured.score(tiny_model, tokenizer)
    assert measured.prompts == [row.prompt for row in rows]
    samples = sample_answers(
        tiny_model, tokenizer, measured.prompts, num_samples=4, max_new_tokens=3, seed=0
    )
    scores = eigenscore(samples.embeddings).numpy()
    assert mean == pytest.approx(scores.mean(), rel=1e-12)
    assert error == pytest.approx(scores.std(ddof=1) / 5**0.5, rel=1e-12)


def test_prompts_are_drawn_by_the_seed(rows):
    drawn = {tuple(tracking_set(rows, seed=seed).prompts) for seed in range(8)}
    assert len(drawn) > 1
    assert all(len(set(prompts)) == 3 for prompts in drawn)
    assert tracking_set(rows, seed=3).prompts == tracking_set(rows, seed=3).prompts


def test_another_seed_gives_other_answers(tiny_model, tokenizer, rows):
    scores = {
        tracking_set(rows, seed=seed, score_prompts=5).score(tiny_model, tokenizer)[0]
        for seed in (0, 0, 1)
    }
    assert len(scores) == 2


def test_few_prompts(tiny_model, tokenizer, rows):
    assert tracking_set(rows, score_prompts=0).score(tiny_model, tokenizer) == (None, None)
    mean, error = tracking_set(rows, score_prompts=1).score(tiny_model, tokenizer)
    assert np.isfinite(mean)
    assert error is None


def test_identity_tells_tracking_sets_apart(rows):
    same = tracking_set(rows, batch_size=1, seed=5).identity
    assert tracking_set(rows).identity == same
    for other in (
        tracking_set(rows[::-1]),
        tracking_set(rows[1:]),
        tracking_set(rows, layer=-3),
        tracking_set(rows, pooling="mean"),
    ):
        assert other.identity != same


def test_rows_without_a_token_are_left_out(tiny_model, tokenizer, caplog):
    given = [{"input_ids": []}, {"input_ids": [3, 4]}]
    rows = read_rows(given, tokenizer)
    assert [row.input_ids for row in rows] == [[3, 4]]
    assert "left out 1 rows" in caplog.text
    assert len(tracking_set(rows).watch(tiny_model).embeddings) == 1


def test_loss_on_prompt_and_completion(tokenizer):
    row = {"prompt": "where was Ada born ?", "completion": " Oslo"}
    (read,) = read_rows([row], tokenizer, completion_only_loss=False)
    assert read.labels == read.input_ids
