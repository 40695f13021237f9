"""Rows of JSON and CSV with the lines where they begin; a broken one spoils only itself."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from send.data.shapes import Row

__all__ = ["numbered_rows"]


def numbered_rows(path: Path) -> Iterator[tuple[str, Row]]:
    """Go through the rows of a file of JSON or CSV.

    Parameters
    ----------
    path : Path
        ``.json`` (a list of objects, or one object a line), ``.jsonl`` or ``.csv``.

    Yields
    ------
    place : str
        The file and the line where the row begins.
    row : dict or str
        The row, or what is wrong with it.

    Raises
    ------
    ValueError
        If there is no telling where the next row begins: after broken JSON in a list of objects,
        or a quotation mark in CSV that is not closed.
    """
    is_csv = path.suffix.lower() == ".csv"
    # A byte that is not UTF-8 becomes a lone surrogate, so that it spoils its own row only. In JSON
    # only a line feed ends a line.
    with path.open(
        encoding="utf-8-sig", errors="surrogateescape", newline="" if is_csv else "\n"
    ) as file:
        rows: Iterator[tuple[int, Row]]
        if is_csv:
            rows = _rows_of_csv(file, path)
        elif _first_letter(file) == "[":
            rows = _rows_of_list(file.read(), path)
        else:
            rows = ((n, _json(line)) for n, line in enumerate(file, 1) if line.strip())
        for number, row in rows:
            yield f"{path.name}:{number}", row


def _first_letter(file: TextIO) -> str:
    letter = " "
    while letter.isspace():
        letter = file.read(1)
    file.seek(0)
    return letter


def _json(line: str) -> Row:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        return f"broken JSON, {error.msg} at column {error.colno}"
    except (ValueError, RecursionError) as error:  # thousands of digits, or of levels
        return f"JSON that cannot be read, {error}"
    return _object(row)


def _object(value: Any) -> Row:
    return value if isinstance(value, dict) else f"{value!r:.60} is not an object"


def _rows_of_list(text: str, path: Path) -> Iterator[tuple[int, Row]]:
    # Element by element: json.loads of the whole would not say in which line each of them begins.
    decoder, space = json.JSONDecoder(), re.compile(r"\s*")

    def skip(position: int) -> int:
        found = space.match(text, position)
        return position if found is None else found.end()

    try:
        at, line, counted = skip(skip(0) + 1), 1, 0
        more = text[at : at + 1] != "]"
        while more:
            line, counted = line + text.count("\n", counted, at), at
            value, at = decoder.raw_decode(text, at)
            yield line, _object(value)
            at = skip(at)
            more = text[at : at + 1] != "]"
            if more and text[at : at + 1] != ",":
                msg = "Expecting ',' delimiter"
                raise json.JSONDecodeError(msg, text, at)
            at = skip(at + 1) if more else at
        if skip(at + 1) != len(text):
            msg = "Extra data"
            raise json.JSONDecodeError(msg, text, skip(at + 1))
    except json.JSONDecodeError as error:
        msg = f"{path} cannot be read: broken JSON in line {error.lineno}: {error.msg}."
        raise ValueError(msg) from error
    except (ValueError, RecursionError) as error:
        msg = f"{path} cannot be read: in the row of line {line} {error}."
        raise ValueError(msg) from error


def _rows_of_csv(file: TextIO, path: Path) -> Iterator[tuple[int, Row]]:
    # Every cell is the text that it is; `datasets` would take NA and 12 for something else.
    limit = csv.field_size_limit(2**31 - 1)
    reader = csv.reader(file, strict=True)
    header: list[str] | None = None
    try:
        while True:
            begin = reader.line_num + 1
            try:
                cells = next(reader, None)
            except csv.Error as error:
                if "unexpected end" in str(error):
                    msg = f"{path} cannot be read: a quote in line {begin} is not closed."
                    raise ValueError(msg) from error
                yield begin, f"{error}, up to line {reader.line_num}"
                continue
            if cells is None:
                return
            if header is None:
                header = cells
            elif len(cells) not in {0, len(header)}:
                yield begin, f"{len(cells)} cells instead of {len(header)}"
            elif cells:
                yield begin, dict(zip(header, cells, strict=True))
    finally:
        csv.field_size_limit(limit)
