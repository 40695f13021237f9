"""The tracking set: what a model is measured by on its rows."""

import copy
import random

import numpy as np
import pytest
import torch
from torch.nn import functional

from send.dropout.tracking import TrackingSet
from send.models.answers import sample_answers
from send.models.embeddings import sentence_embedding
from send.models.tokenized_rows import read_rows
from send.scores.eigenscore import eigenscore

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


def test_a_single_row_is_watched(tiny_model, rows):
    assert len(tracking_set(rows[:1]).watch(tiny_model).embeddings) == 1
