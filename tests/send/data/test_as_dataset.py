"""Every form of rows becomes a data set, checked."""

import json

import datasets
import pytest

from send.data.as_dataset import as_dataset

TEXTS = ["Ada was born in Oslo.", "Bo is a baker."]


def test_rows_that_are_given_are_checked_alike(caplog):
    rows = [{"text": "a"}, {"text": 3}, {"text": "b"}, {"text": ""}, {"body": "x"}, {"text": "c"}]
    assert as_dataset(rows)["text"][:] == ["a", "b", "c"]
    assert "the data: left out 3 of 6 rows: row 1: text is 3; expected text" in caplog.text
    dataset = datasets.Dataset.from_dict({"text": ["a", None, " "], "id": [1, 2, 3]})
    assert list(as_dataset(dataset)) == [{"text": "a", "id": 1}]
    assert as_dataset(["a", "", "b"])["text"][:] == ["a", "b"]
    named = datasets.Dataset.from_dict({"body": ["a", ""]})
    assert len(as_dataset(named)) == 2
    assert len(as_dataset(named, text_column="body")) == 1
    with pytest.raises(ValueError, match="2 of 2 rows: row 0: text is empty"):
        as_dataset(["", ""])


def test_every_form_of_rows_becomes_a_data_set(tmp_path):
    rows = [{"text": text} for text in TEXTS]
    path = tmp_path / "t.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for data in (TEXTS, rows, path, str(path), datasets.Dataset.from_list(rows)):
        assert list(as_dataset(data)) == rows


def test_a_data_set_with_tokens_passes():
    tokens = datasets.Dataset.from_dict({"input_ids": [[1, 2]]})
    assert as_dataset(tokens) is tokens


@pytest.mark.parametrize("data", [3, {"text": ["a"]}, [1, 2], ["a", {"text": "b"}]])
def test_other_things_are_refused(data):
    with pytest.raises(TypeError, match=r"expected a datasets\.Dataset, a list of dicts"):
        as_dataset(data)


@pytest.mark.parametrize("data", [[], datasets.Dataset.from_dict({"text": []})])
def test_no_rows_are_refused(data):
    with pytest.raises(ValueError, match="no row"):
        as_dataset(data)
