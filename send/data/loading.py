"""Texts to train on: from a file, a folder or the hub to a `datasets.Dataset` of known columns.

One of these shapes comes in, and goes out with no other columns: ``text``; ``prompt`` and
``completion``; ``messages`` (a list of ``role`` and ``content``); or, made into ``text``,
``sentences`` (a list of strings whose tokens stand apart by spaces, as in WikiText).
"""

from __future__ import annotations

import hashlib
import json
import re
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from send.data.lines import numbered_rows
from send.data.shapes import Checked, Row, Shape, check_rows

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = [
    "as_dataset",
    "load_prompts",
    "load_questions",
    "load_texts",
    "natural_spacing",
    "split_tracking",
]

PAIR = ("prompt", "completion")
SHAPES = (
    Shape(PAIR),
    Shape(PAIR, "chat"),
    Shape(("messages",), "chat"),
    Shape(("text",)),
    Shape(("sentences",), "sentences"),
)
PROMPTS = (
    Shape(("prompt",)),
    Shape(("prompt",), "chat"),
    Shape(("question",)),
    Shape(("user_query",)),
    Shape(("text",)),
)
QUESTIONS = (
    *SHAPES[:3],
    *(Shape((asked, "answer")) for asked in ("question", "prompt", "user_query")),
    *(Shape((asked, "reference")) for asked in ("question", "prompt", "user_query")),
    *PROMPTS,
    SHAPES[-1],
)
BUILDERS = {".json": "json", ".jsonl": "json", ".csv": "csv", ".parquet": "parquet"}


def load_texts(
    path_or_name: str | Path,
    *,
    split: str = "train",
    limit: int | None = None,
    subset: str | None = None,
    column: str | None = None,
) -> Dataset:
    r"""Return the texts of a file, of a folder of such files, or of a data set on the hub.

    Parameters
    ----------
    path_or_name : str or Path
        ``.json`` (a list of objects, or one object a line), ``.jsonl``, ``.csv`` or ``.parquet``;
        or the address of one (``https://...``); or what `datasets.load_dataset` knows by name.
    split : str
        A single file is the split "train".
    limit : int, optional
        Read the first so many rows only.
    subset : str, optional
        Which configuration of a data set on the hub.
    column : str, optional
        A column of another name to read as ``text``.

    Returns
    -------
    datasets.Dataset
        Columns ``text``, or ``prompt`` and ``completion``, or ``messages``. Rows that cannot be
        read (a line of broken JSON, a line of CSV with other columns, bytes that are not UTF-8),
        lack one of these or hold something else in it, or are empty, are left out, with a warning
        in the log that counts them and says of the first ones where they stand and what is wrong.

    Raises
    ------
    FileNotFoundError
        If there is no such file, and no such data set can be reached.
    ValueError
        If the file is empty or of another kind, the columns are none of these, or more than half of
        the rows are broken (or all empty). A list in a ``.json`` file that is broken at one place
        is broken: there is no telling where the next row begins.

    Examples
    --------
    >>> import tempfile
    >>> file = Path(tempfile.mkdtemp()) / "two.jsonl"
    >>> _ = file.write_text('{"text": "Ada was born in Oslo."}\n{"text": "Bo is a baker."}\n')
    >>> load_texts(file)["text"][1]
    'Bo is a baker.'
    """
    if column is None:
        return _read(path_or_name, split, limit, SHAPES, subset)
    rows = _read(path_or_name, split, limit, [Shape((column,))], subset)
    return (
        rows
        if column not in rows.column_names[:1] or column == "text"
        else (rows.rename_column(column, "text"))
    )


def load_prompts(
    path_or_name: str | Path, *, split: str = "train", limit: int | None = None
) -> list[Any]:
    r"""Return the prompts of a file, of a folder of such files, or of a data set on the hub.

    Parameters
    ----------
    path_or_name, split, limit
        As for `load_texts`.

    Returns
    -------
    list of str, or of chats
        The first column there is of ``prompt``, ``question``, ``user_query`` and ``text``; a
        prompt of messages stays a list of them. Broken and empty ones are left out, with a warning.

    Raises
    ------
    FileNotFoundError, ValueError
        As `load_texts`.

    Examples
    --------
    >>> import tempfile
    >>> file = Path(tempfile.mkdtemp()) / "questions.jsonl"
    >>> _ = file.write_text('{"question": "Where was Ada born?"}\n')
    >>> load_prompts(file)
    ['Where was Ada born?']
    """
    rows = _read(path_or_name, split, limit, PROMPTS)
    return list(rows[rows.column_names[0]])


def load_questions(
    path_or_name: str | Path, *, split: str = "train", limit: int | None = None
) -> Dataset:
    """Return the prompts of a file, with their references where it has them: see `send.evaluate`.

    Parameters
    ----------
    path_or_name, split, limit
        As for `load_texts`.

    Returns
    -------
    datasets.Dataset
        Columns ``prompt`` and ``completion``, or ``messages``, or else one of ``prompt``,
        ``question``, ``user_query`` and ``text``, the first three with ``answer`` or ``reference``
        where there is one. Broken and empty rows are left out, with a
        warning.

    Raises
    ------
    FileNotFoundError, ValueError
        As `load_texts`.
    """
    return _read(path_or_name, split, limit, QUESTIONS)


def _read(
    path_or_name: str | Path,
    split: str,
    limit: int | None,
    shapes: Sequence[Shape],
    subset: str | None = None,
) -> Dataset:
    if limit is not None and limit < 1:
        msg = f"limit is {limit}; expected at least 1 row."
        raise ValueError(msg)
    path = Path(path_or_name)
    if path.suffix.lower() == ".txt" and path.is_file():
        return _lines(path, limit, "prompt" if Shape(("prompt",)) in shapes else "text")
    local = path.is_file() or (path.suffix.lower() in BUILDERS and not path.is_dir())
    dataset = (
        _from_file(path, split, shapes)
        if local and "://" not in str(path_or_name)
        else _from_name(str(path_or_name), split, subset)
    )
    dataset = dataset if limit is None else dataset.select(range(min(limit, len(dataset))))
    return _of_known_shape(dataset, str(path_or_name), shapes)


def _lines(path: Path, limit: int | None, column: str) -> Dataset:
    """Return the lines of a plain text, without those that are empty."""
    from datasets import Dataset

    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        msg = f"{path} is not UTF-8 ({error}); save it in that encoding."
        raise ValueError(msg) from error
    found = [line for line in lines if line.strip()][:limit]
    if not found:
        msg = f"{path} is empty; expected a text in each line."
        raise ValueError(msg)
    return Dataset.from_dict({column: found})


def _from_file(path: Path, split: str, shapes: Sequence[Shape]) -> Dataset:
    from datasets import Dataset, load_dataset
    from datasets.exceptions import DatasetGenerationError

    if not path.is_file():
        msg = f"there is no file {path}; expected a path to {', '.join(BUILDERS)}."
        raise FileNotFoundError(msg)
    builder = BUILDERS.get(path.suffix.lower())
    if builder is None:
        msg = f"{path} ends in {path.suffix!r}; expected one of {', '.join(BUILDERS)}."
        raise ValueError(msg)
    if not path.stat().st_size:
        msg = f"{path} is empty; expected at least one row of text."
        raise ValueError(msg)
    if builder == "csv" and split != "train":
        msg = f"there is no split {split!r}; a single file is the split 'train'."
        raise ValueError(msg)
    checked = None if builder == "parquet" else _checked(numbered_rows(path), str(path), shapes)
    if checked is not None and builder == "csv":
        return Dataset.from_list(list(_good_rows(path, checked)))
    try:
        if checked is not None and checked.faults:
            dataset = _by_way_of_a_file(_good_rows(path, checked), split)
        else:
            dataset = load_dataset(builder, data_files=str(path), split=split)
    except (DatasetGenerationError, ValueError) as error:
        deepest: BaseException = error
        while deepest.__cause__ is not None:
            deepest = deepest.__cause__
        msg = f"{path} cannot be read: {' '.join(str(deepest).split())}"
        raise ValueError(msg) from error
    if checked is not None and checked.shape.kind == "text":
        kinds = [dataset.features[column].dtype for column in checked.shape.columns]
        if set(kinds) != {"string"}:  # datasets takes texts that are all dates for dates
            return Dataset.from_list(list(_good_rows(path, checked)))
    return dataset


def _good_rows(path: Path, checked: Checked) -> Iterator[dict[str, Any]]:
    for number, (_, row) in enumerate(numbered_rows(path)):
        if number not in checked.faults and isinstance(row, dict):
            yield {column: row[column] for column in checked.shape.columns}


def _by_way_of_a_file(rows: Iterator[dict[str, Any]], split: str) -> Dataset:
    """Return rows as `datasets` reads them from JSON, in memory."""
    from datasets import load_dataset

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "rows.jsonl"
        with file.open("w", encoding="utf-8") as lines:
            lines.writelines(json.dumps(row) + "\n" for row in rows)
        return load_dataset(
            "json", data_files=str(file), split=split, cache_dir=folder, keep_in_memory=True
        )


def _from_name(name: str, split: str, subset: str | None) -> Dataset:
    from datasets import load_dataset

    builder = BUILDERS.get(Path(name).suffix.lower())
    try:
        if "://" in name and builder is not None:
            return load_dataset(builder, data_files=name, split=split)
        return load_dataset(path=name, name=subset, split=split)
    except (FileNotFoundError, ConnectionError) as error:
        msg = (
            f"{name!r} is neither a file, nor a folder with data, nor a data set that can be "
            f"reached: {' '.join(str(error).split())}"
        )
        raise FileNotFoundError(msg) from error


def _checked(rows: Iterable[tuple[str, Row]], name: str, shapes: Sequence[Shape]) -> Checked:
    """Find the shape of rows and log which ones have it not; refuse what is no list of rows."""
    columns: dict[str, None] = {}

    def noted() -> Iterator[tuple[str, Row]]:
        for place, row in rows:
            if isinstance(row, dict) and not columns:
                columns.update(dict.fromkeys(row))
            yield place, row

    checked = check_rows(noted(), shapes)
    if checked is None:
        expected = ", or ".join(dict.fromkeys(" and ".join(shape.columns) for shape in shapes))
        msg = f"{name} has the columns {', '.join(columns) or '(none)'}; expected {expected}."
        raise ValueError(msg)
    if not checked.rows:
        msg = f"{name} has no data; expected at least one row of text."
        raise ValueError(msg)
    checked.report(name)
    return checked


def _of_known_shape(dataset: Dataset, name: str, shapes: Sequence[Shape]) -> Dataset:
    """Return the rows that have the shape that most have, and the columns of it."""
    rows = ((f"row {number}", row) for number, row in enumerate(dataset))
    checked = _checked(rows, name, shapes)
    dataset = dataset.select_columns(list(checked.shape.columns))
    dataset = dataset.select(checked.good) if checked.faults else dataset
    if checked.shape.kind == "sentences":
        return dataset.map(_as_text, remove_columns="sentences")
    return dataset


def _as_text(row: dict[str, list[str]]) -> dict[str, str]:
    sentences = [natural_spacing(sentence) for sentence in row["sentences"]]
    # Again over the whole: quotations span sentences, which moreover were split after "O.C.".
    return {"text": natural_spacing(" ".join(sentences))}


def natural_spacing(tokens: str) -> str:
    r"""Return a sentence with its tokens put together as one writes them.

    Parameters
    ----------
    tokens : str
        Tokens with spaces in between, as in WikiText, where ``@-@`` is a hyphen inside a word.

    Returns
    -------
    str

    Examples
    --------
    >>> natural_spacing('Cuba \'s " long @-@ term " debt ( 1,234 @.@ 5 $ ) , it seems : high .')
    'Cuba\'s "long-term" debt (1,234.5 $), it seems: high.'
    """
    text = re.sub(r" @(\S+?)@ ", r"\1", tokens)
    text = re.sub(r'(?<!\S)" (.+?) "(?!\S)', r'"\1"', text)
    text = re.sub(r" ([,.;:!?%)\]]|'\w)", r"\1", text)
    text = re.sub(r"([(\[$£€#]) (?=[\w\"'])", r"\1", text)
    return re.sub(r"(?<=\w) / (?=\w)", "/", text)


def as_dataset(data: Dataset | Sequence[Any] | str | Path, *, text_column: str = "text") -> Dataset:
    """Return rows in any of their forms as a data set.

    Parameters
    ----------
    data : datasets.Dataset, list of dict, list of str, str or Path
        Strings in a list become the column ``text``; a path goes to `load_texts`.
    text_column : str
        What the column of texts is called.

    Returns
    -------
    datasets.Dataset
        Without the rows that are broken or empty, as `load_texts`; with all columns. Rows of
        ``input_ids``, or of none of the known columns, are returned as they came.

    Raises
    ------
    TypeError
        If it is none of these.
    ValueError
        If there is no row, or more than half of them are broken.

    Examples
    --------
    >>> as_dataset(["Ada was born in Oslo."]).column_names
    ['text']
    """
    from datasets import Dataset

    if isinstance(data, (str, Path)):
        shapes = [*SHAPES[:3], Shape((text_column,)), SHAPES[-1]]
        rows = _read(data, "train", None, shapes)
        named = text_column if "text" in rows.column_names else None
        return rows if named in (None, "text") else rows.rename_column("text", named)
    if isinstance(data, Sequence) and all(isinstance(row, str) for row in data):
        data = [{text_column: text} for text in data]
    elif not isinstance(data, Dataset) and not (
        isinstance(data, Sequence) and all(isinstance(row, dict) for row in data)
    ):
        msg = (
            f"the data are a {type(data).__name__}; expected a datasets.Dataset, a list of dicts "
            "or of strings, or a path."
        )
        raise TypeError(msg)
    if not len(data):
        msg = "the data have no row; expected a list, data set or file with at least one."
        raise ValueError(msg)
    good = _good(data, [*SHAPES[:3], Shape((text_column,))])
    if isinstance(data, Dataset):
        return data if good is None else data.select(good)
    return Dataset.from_list(list(data) if good is None else [data[i] for i in good])


def _good(rows: Dataset | Sequence[dict[str, Any]], shapes: Sequence[Shape]) -> list[int] | None:
    """Return the indices of the rows of a known shape, None if all are, or none is known."""
    if "input_ids" in rows[0]:
        return None
    checked = check_rows(((f"row {i}", row) for i, row in enumerate(rows)), shapes)
    if checked is None or not checked.faults:
        return None
    checked.report("the data")
    return checked.good


def split_tracking(
    dataset: Dataset, fraction: float = 0.1, *, seed: int = 0
) -> tuple[Dataset, Dataset]:
    """Return a data set in two disjoint parts: one to train on, one to track embeddings of.

    Parameters
    ----------
    dataset : datasets.Dataset
        At least two rows that are not the same.
    fraction : float
        Share of the rows to track, 0 < fraction < 1; at least one row goes to either part.
    seed : int
        Of the shuffle.

    Returns
    -------
    train, tracking : datasets.Dataset
        Rows that are the same, in all of their columns of text if there are any, are all in the
        same part.

    Raises
    ------
    ValueError
        If the fraction is out of range or all rows are the same.

    Examples
    --------
    >>> train, tracking = split_tracking(as_dataset([str(i) for i in range(20)]))
    >>> len(train), len(tracking)
    (18, 2)
    """
    if not 0 < fraction < 1:
        msg = f"the fraction to track is {fraction}; expected 0 < fraction < 1, such as 0.1."
        raise ValueError(msg)
    rows = len(dataset)
    if rows < 2:
        msg = f"{rows} row cannot be split; expected at least 2, or pass a tracking set."
        raise ValueError(msg)
    shuffled = np.random.default_rng(seed).permutation(rows)
    wanted = min(max(round(fraction * rows), 1), rows - 1)
    same: dict[bytes, list[int]] = {}
    contents = _contents(dataset)
    for row in shuffled.tolist():
        same.setdefault(contents[row], []).append(row)
    if len(same) < 2:
        msg = f"all {rows} rows are the same; expected two different ones, or a tracking set."
        raise ValueError(msg)
    tracked: set[int] = set()
    for equal in same.values():
        if len(tracked) + len(equal) <= wanted:
            tracked.update(equal)
    tracked = tracked or set(sorted(same.values(), key=len)[0])
    train = [row for row in shuffled.tolist() if row not in tracked]
    tracking = [row for row in shuffled.tolist() if row in tracked]
    return dataset.select(train), dataset.select(tracking)


def _contents(dataset: Dataset) -> list[bytes]:
    """Return of each row a digest of what a model sees of it."""
    known = {"input_ids", *(column for shape in SHAPES for column in shape.columns)}
    columns = [name for name in dataset.column_names if name in known]
    rows = dataset.select_columns(columns or dataset.column_names)
    texts = (json.dumps(row, sort_keys=True, default=str) for row in rows)
    return [hashlib.blake2b(text.encode(), digest_size=16).digest() for text in texts]
