"""Rows in any of their forms (lists, data sets, paths) as a `datasets.Dataset`, checked."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from send.data.read_dataset import read_dataset
from send.data.shapes import TEXTS, Shape, check_rows

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["as_dataset"]


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
        shapes = [*TEXTS[:3], Shape((text_column,)), TEXTS[-1]]
        rows = read_dataset(data, "train", None, shapes)
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
    good = _good(data, [*TEXTS[:3], Shape((text_column,))])
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
