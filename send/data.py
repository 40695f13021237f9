"""Texts to train on: from a file, a folder or the hub to a `datasets.Dataset` of known columns.

One of these shapes comes in, and goes out with no other columns: ``text``; ``prompt`` and
``completion``; ``messages`` (a list of ``role`` and ``content``); or, made into ``text``,
``sentences`` (a list of strings whose tokens stand apart by spaces, as in WikiText).
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

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

logger = logging.getLogger(__name__)

SHAPES = (("prompt", "completion"), ("messages",), ("text",), ("sentences",))
PROMPTS = (("prompt",), ("question",), ("user_query",), ("text",))
QUESTIONS = (("prompt", "completion"), ("messages",), *PROMPTS, ("sentences",))
BUILDERS = {".json": "json", ".jsonl": "json", ".csv": "csv", ".parquet": "parquet"}


CHAT = "messages, each with a role and a content"
EXPECTED = {
    "sentences": "a list of texts",
    "messages": CHAT,
    "prompt": f"text, or {CHAT}",
    "completion": f"text, or {CHAT}",
}


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
        Columns ``text``, or ``prompt`` and ``completion``, or ``messages``. Rows that are empty in
        one of them are left out, with a warning in the log.

    Raises
    ------
    FileNotFoundError
        If there is no such file, and no such data set can be reached.
    ValueError
        If the file is empty, broken or of another kind, or the columns are none of these.

    Examples
    --------
    >>> import tempfile
    >>> file = Path(tempfile.mkdtemp()) / "two.jsonl"
    >>> _ = file.write_text('{"text": "Ada was born in Oslo."}\n{"text": "Bo is a baker."}\n')
    >>> load_texts(file)["text"][1]
    'Bo is a baker.'
    """
    rows = _read(path_or_name, split, limit, subset)
    if column is not None:
        if column not in rows.column_names:
            msg = (
                f"{path_or_name} has the columns {', '.join(rows.column_names)}; expected {column}."
            )
            raise ValueError(msg)
        rows = rows.select_columns([column]).rename_column(column, "text")
    return _known_columns(rows, str(path_or_name), SHAPES)


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
        prompt of messages stays a list of them. Empty ones are left out, with a warning in the log.

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
    rows = _known_columns(_read(path_or_name, split, limit), str(path_or_name), PROMPTS)
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
        ``question``, ``user_query`` and ``text``.

    Raises
    ------
    FileNotFoundError, ValueError
        As `load_texts`.
    """
    return _known_columns(_read(path_or_name, split, limit), str(path_or_name), QUESTIONS)


def _read(
    path_or_name: str | Path, split: str, limit: int | None, subset: str | None = None
) -> Dataset:
    if limit is not None and limit < 1:
        msg = f"limit is {limit}; expected at least 1 row."
        raise ValueError(msg)
    path = Path(path_or_name)
    local = path.is_file() or (path.suffix.lower() in BUILDERS and not path.is_dir())
    dataset = (
        _from_file(path, split)
        if local and "://" not in str(path_or_name)
        else _from_name(str(path_or_name), split, subset)
    )
    return dataset if limit is None else dataset.select(range(min(limit, len(dataset))))


def _from_file(path: Path, split: str) -> Dataset:
    from datasets import load_dataset
    from datasets.exceptions import DatasetGenerationError

    if not path.is_file():
        msg = f"there is no file {path}; expected a path to {', '.join(BUILDERS)}."
        raise FileNotFoundError(msg)
    suffix = path.suffix.lower()
    if suffix not in BUILDERS:
        msg = f"{path} ends in {path.suffix!r}; expected one of {', '.join(BUILDERS)}."
        raise ValueError(msg)
    if not path.stat().st_size:
        msg = f"{path} is empty; expected at least one row of text."
        raise ValueError(msg)
    try:
        if suffix != ".parquet":
            _require_utf8(path)
        if suffix == ".csv":
            return _from_csv(path, split)
        return load_dataset(BUILDERS[suffix], data_files=str(path), split=split)
    except (DatasetGenerationError, ValueError) as error:
        msg = f"{path} cannot be read: {_reason(path, error)}"
        raise ValueError(msg) from error


def _from_csv(path: Path, split: str) -> Dataset:
    """Read every cell as the text that it is; datasets would take NA and 12 for something else."""
    from datasets import Dataset
    from pandas import read_csv

    if split != "train":
        msg = f"there is no split {split!r}; a single file is the split 'train'."
        raise ValueError(msg)
    frame = read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    return Dataset.from_pandas(frame, preserve_index=False)


def _require_utf8(path: Path) -> None:
    # datasets writes JSON lines down as they are, and fails when a row is read.
    with path.open(encoding="utf-8") as file:
        for _ in file:
            pass


def _reason(path: Path, error: Exception) -> str:
    """Return in one line what is wrong with a file, with the line number where it can be found."""
    if BUILDERS[path.suffix.lower()] == "json":
        fault = _json_fault(path.read_text(encoding="utf-8", errors="replace"))
        if fault is not None:
            return fault
    deepest: BaseException = error
    while deepest.__cause__ is not None:
        deepest = deepest.__cause__
    return " ".join(str(deepest).split())


def _json_fault(text: str) -> str | None:
    documents = [text] if text.lstrip().startswith("[") else text.split("\n")
    for lines_before, document in enumerate(documents):
        try:
            if document.strip():
                json.loads(document)
        except json.JSONDecodeError as fault:
            return f"broken JSON in line {lines_before + fault.lineno}: {fault.msg}."
    return None


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


def _known_columns(dataset: Dataset, name: str, shapes: Sequence[tuple[str, ...]]) -> Dataset:
    """Return the rows with the columns of the first shape that they have, and no empty ones."""
    shape = next((s for s in shapes if set(s) <= set(dataset.column_names)), None)
    if shape is None:
        expected = ", or ".join(" and ".join(columns) for columns in shapes)
        msg = (
            f"{name} has the columns {', '.join(dataset.column_names) or '(none)'}; "
            f"expected {expected}."
        )
        raise ValueError(msg)
    dataset = dataset.select_columns(list(shape))
    for number, row in enumerate(dataset):
        for column, value in row.items():
            if value is not None and not _is_content(value, column):
                msg = (
                    f"column {column} of {name} holds {value!r:.60} in row {number}; "
                    f"expected {EXPECTED.get(column, 'text')}."
                )
                raise ValueError(msg)
    if shape == ("sentences",):
        dataset = dataset.map(_as_text, remove_columns="sentences")
    full = [i for i, row in enumerate(dataset) if all(row.values())]
    if not full:
        msg = f"{name} has no row of text in {' and '.join(dataset.column_names)}."
        raise ValueError(msg)
    if len(full) < len(dataset):
        logger.warning("%s: left out %d empty rows", name, len(dataset) - len(full))
        dataset = dataset.select(full)
    return dataset


def _is_content(value: Any, column: str) -> bool:
    """Tell whether a value is what its column should hold: a text, texts, or messages."""
    if column == "sentences":
        return isinstance(value, list) and all(isinstance(sentence, str) for sentence in value)
    if column != "messages" and isinstance(value, str):
        return True
    return (
        column in {"messages", "prompt", "completion"}
        and isinstance(value, list)
        and all(isinstance(m, dict) and {"role", "content"} <= m.keys() for m in value)
    )


def _as_text(row: dict[str, list[str] | None]) -> dict[str, str]:
    sentences = [natural_spacing(sentence) for sentence in row["sentences"] or []]
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


def as_dataset(data: Dataset | Sequence[Any] | str | Path) -> Dataset:
    """Return rows in any of their forms as a data set.

    Parameters
    ----------
    data : datasets.Dataset, list of dict, list of str, str or Path
        Strings in a list become the column ``text``; a path goes to `load_texts`.

    Returns
    -------
    datasets.Dataset

    Raises
    ------
    TypeError
        If it is none of these.
    ValueError
        If there is no row.

    Examples
    --------
    >>> as_dataset(["Ada was born in Oslo."]).column_names
    ['text']
    """
    from datasets import Dataset

    if isinstance(data, (str, Path)):
        return load_texts(data)
    if isinstance(data, Dataset):
        dataset = data
    elif isinstance(data, Sequence) and all(isinstance(row, str) for row in data):
        dataset = Dataset.from_dict({"text": list(data)})
    elif isinstance(data, Sequence) and all(isinstance(row, dict) for row in data):
        dataset = Dataset.from_list(list(data))
    else:
        msg = (
            f"the data are a {type(data).__name__}; expected a datasets.Dataset, a list of dicts "
            "or of strings, or a path."
        )
        raise TypeError(msg)
    if not len(dataset):
        msg = "the data have no row; expected a list, data set or file with at least one."
        raise ValueError(msg)
    return dataset


def split_tracking(
    dataset: Dataset, fraction: float = 0.1, *, seed: int = 0
) -> tuple[Dataset, Dataset]:
    """Return a data set in two disjoint parts: one to train on, one to track embeddings of.

    Parameters
    ----------
    dataset : datasets.Dataset
        At least two rows.
    fraction : float
        Share of the rows to track, 0 < fraction < 1; at least one row goes to either part.
    seed : int
        Of the shuffle.

    Returns
    -------
    train, tracking : datasets.Dataset

    Raises
    ------
    ValueError
        If the fraction is out of range or there is only one row.

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
    tracked = min(max(round(fraction * rows), 1), rows - 1)
    return dataset.select(shuffled[tracked:]), dataset.select(shuffled[:tracked])
