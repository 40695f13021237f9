"""Texts to train on, and prompts to ask: from a file, a folder or the hub.

Texts come in one of these shapes, and go out with no other columns: ``text``; ``prompt`` and
``completion``; ``messages`` (a list of ``role`` and ``content``); or, made into ``text``,
``sentences`` (a list of strings whose tokens stand apart by spaces, as in WikiText).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from send.data.read_dataset import read_dataset
from send.data.shapes import PROMPTS, QUESTIONS, TEXTS, Shape

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["load_prompts", "load_questions", "load_texts"]


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
        return read_dataset(path_or_name, split, limit, TEXTS, subset)
    rows = read_dataset(path_or_name, split, limit, [Shape((column,))], subset)
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
    rows = read_dataset(path_or_name, split, limit, PROMPTS)
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
    return read_dataset(path_or_name, split, limit, QUESTIONS)
