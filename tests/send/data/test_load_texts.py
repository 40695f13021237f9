"""Texts and prompts from files of every kind, and errors that say what is wrong."""

import json
import os
import re
from pathlib import Path

import datasets
import pytest

from send.data.load_texts import load_prompts, load_texts

REAL = Path(os.environ.get("SPECDENS_DATA", Path(__file__).parents[4] / "shared" / "data"))

TEXTS = ["Ada was born in Oslo.", "Bo is a baker."]
CHAT = [
    {"role": "user", "content": "Where was Ada born?"},
    {"role": "assistant", "content": "In Oslo."},
]
WIKI = [
    {
        "title": "The Big Goodbye",
        "sentences": [
            '" The Big Goodbye " is the 12th episode of Star Trek : The Next Generation .',
            "It first aired on January 11 , 1988 ( in the U.S. ) .",
        ],
    },
    {
        "title": "Speed",
        "sentences": ["The car 's top speed is \" 1 @,@ 234 @.@ 5 km / h acc.", ', they say . "'],
    },
]
WIKI_TEXTS = [
    '"The Big Goodbye" is the 12th episode of Star Trek: The Next Generation. '
    "It first aired on January 11, 1988 (in the U.S.).",
    'The car\'s top speed is "1,234.5 km/h acc., they say."',
]


def write(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def lines(rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


@pytest.mark.parametrize("name", ["t.json", "lines.json", "t.jsonl", "t.csv", "t.parquet"])
def test_text_from_every_kind_of_file(tmp_path, name):
    path = tmp_path / name
    rows = datasets.Dataset.from_dict({"id": [7, 8], "text": TEXTS})
    if name == "t.json":
        write(path, json.dumps(list(rows), indent=2))
    elif name == "t.csv":
        rows.to_csv(path)
    elif name == "t.parquet":
        rows.to_parquet(path)
    else:
        write(path, lines(rows))
    loaded = load_texts(path)
    assert loaded.to_dict() == {"text": TEXTS}


def test_prompt_and_completion(tmp_path):
    rows = [{"completion": "Oslo", "prompt": "Where?", "source": "x"}]
    loaded = load_texts(write(tmp_path / "t.jsonl", lines(rows)))
    assert list(loaded) == [{"prompt": "Where?", "completion": "Oslo"}]


def test_messages(tmp_path):
    loaded = load_texts(write(tmp_path / "t.jsonl", lines([{"messages": CHAT, "n": 1}])))
    assert list(loaded) == [{"messages": CHAT}]


def test_wiki_sentences_become_text(tmp_path):
    loaded = load_texts(str(write(tmp_path / "wiki.json", json.dumps(WIKI, indent=4))))
    assert loaded.to_dict() == {"text": WIKI_TEXTS}


def test_real_articles():
    path = REAL / "wiki" / "wiki_valid.json"
    if not path.is_file():
        pytest.skip(f"{path} is not there")
    loaded = load_texts(path, limit=300)
    assert len(loaded) == 300
    assert loaded.column_names == ["text"]
    joined = " ".join(loaded["text"])
    assert not any(stray in joined for stray in (" ,", " . ", "( ", " )", "@-@"))


def test_words_and_numbers_in_csv_are_texts(tmp_path):
    path = write(tmp_path / "t.csv", "text\nNA\nnull\nNone\nnan\n12\n")
    assert load_texts(path)["text"][:] == ["NA", "null", "None", "nan", "12"]
    assert load_prompts(write(tmp_path / "n.csv", "prompt\n12\n013\n")) == ["12", "013"]


@pytest.mark.parametrize("more", ["", "{\n"], ids=["as it is", "with a broken row"])
def test_dates_in_json_are_texts(tmp_path, more):
    rows = [{"prompt": "When?", "completion": f"190{i}-01-01"} for i in range(3)]
    assert list(load_texts(write(tmp_path / "t.jsonl", lines(rows) + more))) == rows


def test_a_chat_that_calls_a_tool(tmp_path):
    call = {"role": "assistant", "content": None, "tool_calls": [{"name": "f"}]}
    rows = [{"messages": [*CHAT[:1], call]}]
    assert list(load_texts(write(tmp_path / "t.jsonl", lines(rows)))) == rows


def test_a_suffix_may_be_in_capitals(tmp_path):
    assert load_texts(write(tmp_path / "T.JSON", '[{"text": "a"}]'))["text"][:] == ["a"]


def test_limit(tmp_path):
    path = write(tmp_path / "t.jsonl", lines({"text": str(i)} for i in range(5)))
    assert load_texts(path, limit=2)["text"][:] == ["0", "1"]
    assert len(load_texts(path, limit=99)) == 5
    with pytest.raises(ValueError, match="limit is 0"):
        load_texts(path, limit=0)


def test_a_folder_and_its_splits(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    write(folder / "train.jsonl", lines([{"text": "a"}]))
    write(folder / "test.jsonl", lines([{"text": "b"}]))
    assert load_texts(folder)["text"][:] == ["a"]
    assert load_texts(folder, split="test")["text"][:] == ["b"]


@pytest.fixture
def asked(monkeypatch):
    """What `datasets.load_dataset` was asked for, in the place of loading it."""
    found = {}

    def load_dataset(path, **options):
        found.update(path=path, **options)
        return datasets.Dataset.from_dict({"text": TEXTS})

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    return found


def test_a_name_goes_to_the_hub(asked):
    assert load_texts("someone/texts", split="validation")["text"][:] == TEXTS
    assert asked == {"path": "someone/texts", "name": None, "split": "validation"}


def test_a_configuration_is_asked_for_by_name(asked):
    load_texts("someone/texts", subset="easy")
    assert asked == {"path": "someone/texts", "name": "easy", "split": "train"}


def test_an_address_is_read_as_the_file_that_it_is(asked):
    load_texts("https://somewhere.org/texts.JSONL")
    url = "https://somewhere.org/texts.JSONL"
    assert asked == {"path": "json", "data_files": url, "split": "train"}


def test_an_address_that_works(tmp_path):
    path = write(tmp_path / "t.jsonl", lines([{"text": text} for text in TEXTS]))
    assert load_texts(f"file://{path}")["text"][:] == TEXTS


def test_a_column_of_another_name(tmp_path):
    path = write(tmp_path / "t.jsonl", lines([{"question": text, "text": "-"} for text in TEXTS]))
    loaded = load_texts(path, column="question")
    assert loaded["text"][:] == TEXTS
    assert loaded.column_names == ["text"]
    with pytest.raises(ValueError, match="has the columns question, text; expected answer"):
        load_texts(path, column="answer")


def test_a_name_that_cannot_be_reached(monkeypatch):
    def load_dataset(path, **_):
        msg = f"Couldn't reach {path!r} on the Hub"
        raise ConnectionError(msg)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    for name in ("someone/texts", "https://somewhere.org/texts.json"):
        with pytest.raises(FileNotFoundError, match=f"'{name}' is neither a file, nor a folder"):
            load_texts(name)


def test_empty_rows_are_left_out_and_said_so(tmp_path, caplog):
    path = write(tmp_path / "t.jsonl", lines([{"text": ""}, {"text": "a"}, {"text": None}]))
    assert load_texts(path)["text"][:] == ["a"]
    assert "left out 2 of 3 rows: t.jsonl:1: text is empty; t.jsonl:3: text" in caplog.text


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.jsonl", '{"text": "a"\n{"text": "b"\n{"text": "c"}\n', "t.jsonl:1: broken JSON"),
        ("t.json", '[{"text": "a"},\n {"text": "b"\n', "broken JSON in line 3"),
        ("t.json", '[{"text": "a"},\n {"text": "b"}]\n ]', "broken JSON in line 3: Extra data"),
        ("t.json", '[{"text": "a"}\n {"text": "b"}]', "broken JSON in line 2: Expecting ','"),
        ("t.json", '[{"text": "a"},\n]', "broken JSON in line 2: Expecting value"),
        ("t.json", '[{"text": "a"},\n' + "[" * 10**5, "in the row of line 2 "),
        ("t.json", " \n ", "no data"),
        ("t.json", '{\n"text": "a"\n}', "3 of 3 rows: t.json:1: broken JSON"),
        ("t.jsonl", "", "is empty"),
        ("t.csv", "", "is empty"),
        ("t.json", "[]", "no data"),
        ("t.csv", "text\n", "no data"),
        (
            "t.csv",
            "text,label\na,1\nb,2,3,4\nc\n",
            "t.csv:3: 4 cells instead of 2; t.csv:4: 1 cell",
        ),
        ("t.csv", 'text\na\n"b\nc\n', "a quote in line 3 is not closed"),
        ("t.csv", b"text\n\xe9\n", "1 of 1 rows: t.csv:2: text is not UTF-8"),
        ("t.jsonl", b'{"text": "\xe9"}\n', "t.jsonl:1: text is not UTF-8"),
        ("t.parquet", "not parquet", "arquet"),
        ("t.xml", "hello", "ends in '.xml'; expected one of .json, .jsonl, .csv, .parquet"),
        (
            "t.jsonl",
            '{"body": "a", "id": 1}\n',
            "has the columns body, id; expected prompt and completion, or messages, or text, or",
        ),
        ("t.jsonl", '{"prompt": "a"}\n', "has the columns prompt; expected prompt and completion"),
        ("t.jsonl", "3\n[]\n", "t.jsonl:1: 3 is not an object"),
        ("t.json", '[{"text": 3}]', "t.json:1: text is 3; expected text"),
        ("t.json", '[{"sentences": "A b ."}]', "sentences is 'A b .'; expected a list of texts"),
        ("t.json", '[{"sentences": [null, "a"]}]', "sentences is .*; expected a list of texts"),
        ("t.json", '[{"messages": ["a", "b"]}]', "messages is .*; expected messages, each with"),
        ("t.json", '[{"messages": [{"from": "x", "value": "y"}]}]', "expected messages, each with"),
        ("t.json", '[{"messages": [{"role": "user", "content": 3}]}]', "expected messages, each"),
        ("t.csv", "messages\nhello\n", "messages is 'hello'; expected messages"),
        (
            "t.json",
            '[{"prompt": "a", "completion": 2}]',
            "t.json:1: completion is 2; expected text",
        ),
        ("t.jsonl", '{"text": ""}\n{"text": "  "}\n', "2 of 2 rows: t.jsonl:1: text is empty"),
    ],
)
def test_errors_are_one_line_that_says_what_is_wrong(tmp_path, name, content, message):
    path = write(tmp_path / name, content)
    with pytest.raises(ValueError, match=message) as caught:
        load_texts(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


BROKEN = {
    "t.jsonl": [
        (b'{"text": "Ada"', "broken JSON"),
        (b'{"text": "caf\xe9"}', "not UTF-8"),
        (b'{"text": "\\ud800"}', "not UTF-8"),
        (b'{"body": "Ada"}', "there is no text"),
        (b'{"text": null}', "text is empty"),
        (b'{"text": ["Ada"]}', "text is .*; expected text"),
        (b'{"text": 3}', "text is 3"),
        (b'{"text": "\\n "}', "text is empty"),
        (b"[" * 10**5, "JSON"),
        (b"12", "12 is not an object"),
        (b"1" * 5000, "JSON that cannot be read, Exceeds the limit"),
        (b"{}", "there is no text"),
    ],
    "t.csv": [
        (b"Ada,1,2", "3 cells instead of 2"),
        (b"Ada", "1 cells instead of 2"),
        (b"caf\xe9,1", "not UTF-8"),
        (b",1", "text is empty"),
        (b'"Ada"x,1', "expected"),
    ],
    "t.json": [
        (b'{"text": 3},', "text is 3"),
        (b"3,", "3 is not an object"),
        (b'{"text": "caf\xe9"},', "not UTF-8"),
    ],
}


@pytest.mark.parametrize(
    ("name", "line", "reason"),
    [(name, *row) for name, rows in BROKEN.items() for row in rows],
    ids=lambda value: str(value)[:20],
)
def test_a_broken_row_is_left_out_and_said_so(tmp_path, caplog, name, line, reason):
    good = {
        "t.jsonl": [b'{"text": "%d", "id": %d}' % (i, i) for i in range(5)],
        "t.csv": [b"%d,1" % i for i in range(5)],
        "t.json": [b'{"text": "%d"},' % i for i in range(4)] + [b'{"text": "4"}'],
    }[name]
    first, last = {"t.csv": (b"text,id\n", b""), "t.json": (b"[\n", b"]")}.get(name, (b"", b""))
    path = write(tmp_path / name, first + b"\n".join([*good[:2], line, *good[2:]]) + last)
    assert load_texts(path).to_dict() == {"text": list("01234")}
    number = 3 + first.count(b"\n")
    warning = f"{path}: left out 1 of 6 rows: {name}:{number}: "
    assert re.search(f"{re.escape(warning)}.*{reason}", caplog.text)
    assert list(tmp_path.glob("*.jsonl")) == ([path] if name == "t.jsonl" else [])


def test_only_the_first_broken_rows_are_named(tmp_path, caplog):
    path = write(tmp_path / "t.jsonl", lines([{"text": "a"}] * 9) + "{\n" * 9)
    assert len(load_texts(path)) == 9
    assert "left out 9 of 18 rows: t.jsonl:10: " in caplog.text
    assert "t.jsonl:14: " in caplog.text
    assert "and 4 more" in caplog.text
    assert "t.jsonl:15: " not in caplog.text
    with pytest.raises(ValueError, match="10 of 19 rows"):
        load_texts(write(tmp_path / "t.jsonl", lines([{"text": "a"}] * 9) + "{\n" * 10))


def test_text_and_chats_are_not_mixed(tmp_path, caplog):
    chats = [{"prompt": CHAT[:1], "completion": CHAT[1:]}] * 3
    texts = [{"prompt": "Where?", "completion": "Oslo"}]
    path = write(tmp_path / "t.jsonl", lines([*texts, *chats]))
    assert list(load_texts(path)) == chats
    assert "t.jsonl:1: prompt is 'Where?'; expected messages" in caplog.text
    path = write(tmp_path / "u.jsonl", lines([*texts, *texts, *texts, *chats[:1]]))
    assert list(load_texts(path)) == texts * 3


def test_texts_over_several_lines_of_csv(tmp_path, caplog):
    path = write(tmp_path / "t.csv", 'text,id\r\n"a\r\nb",1\r\n\r\n"c ""d""",2\r\nx\r\n"e,f",3\r\n')
    assert load_texts(path)["text"][:] == ["a\r\nb", 'c "d"', "e,f"]
    assert "t.csv:6: 1 cells" in caplog.text
    long = "x" * 200_000  # beyond the usual limit of the csv module
    assert load_texts(write(tmp_path / "u.csv", f"text\n{long}\n"))["text"][0] == long


def test_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no file .*missing\.jsonl"):
        load_texts(tmp_path / "missing.jsonl")


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        (
            "p.jsonl",
            '{"prompt": "a", "completion": "x"}\n{"prompt": "b", "completion": "y"}\n',
            "ab",
        ),
        ("q.json", '[{"question": "a", "answer": "x"}, {"question": "b", "answer": "y"}]', "ab"),
        ("u.csv", "user_query,id\na,1\nb,2\n", "ab"),
        ("t.csv", "text\na\nb\n", "ab"),
    ],
)
def test_prompts_come_from_the_first_column_that_holds_them(tmp_path, name, content, expected):
    (tmp_path / name).write_text(content)
    assert load_prompts(tmp_path / name) == list(expected)
    assert load_prompts(tmp_path / name, limit=1) == ["a"]


def test_a_file_without_prompts(tmp_path):
    (tmp_path / "c.csv").write_text("city\nOslo\n")
    with pytest.raises(ValueError, match="columns city; expected prompt, or question"):
        load_prompts(tmp_path / "c.csv")
