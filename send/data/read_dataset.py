"""Rows of one shape from a file, a folder or the hub, as a `datasets.Dataset`."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from send.data.lines import numbered_rows
from send.data.natural_spacing import natural_spacing
from send.data.shapes import Checked, Row, Shape, check_rows

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["read_dataset"]

BUILDERS = {".json": "json", ".jsonl": "json", ".csv": "csv", ".parquet": "parquet"}


def read_dataset(
    path_or_name: str | Path,
    split: str,
    limit: int | None,
    shapes: Sequence[Shape],
    subset: str | None = None,
) -> Dataset:
    """Return the rows of a file, of a folder, or of the hub, with the columns of one shape.

    Parameters
    ----------
    path_or_name, split, limit, subset
        As for `send.load_texts`.
    shapes : sequence of Shape
        The ones to choose from, as for `check_rows`; sentences are made into text.

    Returns
    -------
    datasets.Dataset
        Without the rows that are broken or empty.

    Raises
    ------
    FileNotFoundError, ValueError
        As `send.load_texts`.
    """
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
    texts = [line for line in lines if line.strip()][:limit]
    if not texts:
        msg = f"{path} is empty; expected a text in each line."
        raise ValueError(msg)
    return Dataset.from_dict({column: texts})


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
