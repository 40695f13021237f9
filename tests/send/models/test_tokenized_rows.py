"""Rows of every shape as tokens: what they are cut to, which have labels, and what prompts."""

import pytest
import torch

from send.models.tokenized_rows import IGNORED, TrackingRow, read_rows

TEMPLATE = (
    "{% for m in messages %}{{ 'question :' if m.role == 'user' else 'answer :' }} {{ m.content }} "
    "<eos> {% endfor %}{% if add_generation_prompt %}answer :{% endif %}"
)
CHAT = [
    {"role": "user", "content": "where was Ada born"},
    {"role": "assistant", "content": "in Oslo"},
]


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


def test_rows_without_a_token_are_left_out(tokenizer, caplog):
    given = [{"input_ids": []}, {"input_ids": [3, 4]}]
    rows = read_rows(given, tokenizer)
    assert [row.input_ids for row in rows] == [[3, 4]]
    assert "left out 1 rows" in caplog.text


def test_loss_on_prompt_and_completion(tokenizer):
    row = {"prompt": "where was Ada born ?", "completion": " Oslo"}
    (read,) = read_rows([row], tokenizer, completion_only_loss=False)
    assert read.labels == read.input_ids
