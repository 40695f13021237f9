"""The shapes that a row of text may have, and what is wrong with a row that has none of them.

A row with a fault is left out and reported with the place where it stands; when most rows have one,
it is not the rows that are wrong, but the file.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any, TypeAlias

__all__ = ["EMPTY", "PROMPTS", "QUESTIONS", "TEXTS", "Checked", "Row", "Shape", "check_rows"]

logger = logging.getLogger(__name__)

Row: TypeAlias = "dict[str, Any] | str"
"""A row, or what kept it from being read as one."""

EMPTY = "is empty"
SHOWN = 5
HEAD = 1000
CHAT = "messages, each with a role and a content"


@dataclass(frozen=True)
class Shape:
    """Columns that a row has to have, all with the same kind of content.

    Attributes
    ----------
    columns : tuple of str
        Their names.
    kind : {"text", "chat", "sentences"}
        A text; a list of messages; or a list of texts.
    """

    columns: tuple[str, ...]
    kind: str = "text"

    def fault_of(self, row: Row) -> str | None:
        """Return what is wrong with a row, None if nothing is.

        Parameters
        ----------
        row : dict or str
            What was read, or why nothing was.

        Returns
        -------
        str or None
        """
        if isinstance(row, str):
            return row
        for column in self.columns:
            fault = f"there is no {column}" if column not in row else self._fault(row[column])
            if fault is not None:
                return fault if column not in row else f"{column} {fault}"
        return None

    def _fault(self, value: Any) -> str | None:
        if value is None or value == [] or (isinstance(value, str) and not value.strip()):
            return EMPTY
        if not self._is_content(value):
            return f"is {value!r:.60}; expected {self.expected}"
        if self.kind == "sentences" and not any(text.strip() for text in value):
            return EMPTY
        if any(_is_no_unicode(text) for text in _texts(value)):
            return "is not UTF-8"
        return None

    def _is_content(self, value: Any) -> bool:
        if self.kind == "text":
            return isinstance(value, str)
        if not isinstance(value, list):
            return False
        if self.kind == "sentences":
            return all(isinstance(sentence, str) for sentence in value)
        return all(_is_message(message) for message in value)

    @property
    def expected(self) -> str:
        """What a column holds, in words."""
        return {"text": "text", "chat": CHAT, "sentences": "a list of texts"}[self.kind]


PAIR = ("prompt", "completion")

TEXTS = (
    Shape(PAIR),
    Shape(PAIR, "chat"),
    Shape(("messages",), "chat"),
    Shape(("text",)),
    Shape(("sentences",), "sentences"),
)
"""Rows to train on; those of sentences are made into text."""

PROMPTS = (
    Shape(("prompt",)),
    Shape(("prompt",), "chat"),
    Shape(("question",)),
    Shape(("user_query",)),
    Shape(("text",)),
)
"""Rows to ask: the first column that there is."""

QUESTIONS = (
    *TEXTS[:3],
    *(Shape((asked, "answer")) for asked in ("question", "prompt", "user_query")),
    *(Shape((asked, "reference")) for asked in ("question", "prompt", "user_query")),
    *PROMPTS,
    TEXTS[-1],
)
"""Rows to ask, with references where they have them."""


def _is_message(value: Any) -> bool:
    # Contents are texts, or parts; none where a tool is called.
    return (
        isinstance(value, dict)
        and isinstance(value.get("role"), str)
        and isinstance(value.get("content", 0), (str, list, type(None)))
    )


def _texts(value: Any) -> list[str]:
    parts = value if isinstance(value, list) else [value]
    contents = [part["content"] if isinstance(part, dict) else part for part in parts]
    return [content for content in contents if isinstance(content, str)]


def _is_no_unicode(text: str) -> bool:
    # Bytes that are not UTF-8 were read as lone surrogates, which have no encoding.
    return not text.isascii() and any("\ud800" <= letter <= "\udfff" for letter in text)


@dataclass(frozen=True)
class Checked:
    """The shape of some rows, and which of them have it.

    Attributes
    ----------
    shape : Shape
        Theirs.
    rows : int
        How many were looked at.
    faults : dict from int to str
        Of each row that has not this shape, by its index, where it stands and what is wrong.
    """

    shape: Shape
    rows: int
    faults: dict[int, str]

    @property
    def good(self) -> list[int]:
        """The indices of the rows that have the shape."""
        return [i for i in range(self.rows) if i not in self.faults]

    def report(self, name: str) -> None:
        """Log which rows are left out, and why.

        Parameters
        ----------
        name : str
            Of the file or data set.

        Raises
        ------
        ValueError
            If more than half of the rows have a fault other than being empty, or no row is left.
        """
        if not self.faults:
            return
        shown = list(self.faults.values())[:SHOWN]
        if len(self.faults) > SHOWN:
            shown.append(f"and {len(self.faults) - SHOWN} more")
        what = f"{len(self.faults)} of {self.rows} rows: {'; '.join(shown)}"
        broken = sum(not fault.endswith(EMPTY) for fault in self.faults.values())
        if len(self.faults) == self.rows or 2 * broken > self.rows:
            msg = (
                f"{name} is no list of rows with {self.shape.expected} in "
                f"{' and '.join(self.shape.columns)}, which is not what is in {what}."
            )
            raise ValueError(msg)
        logger.warning("%s: left out %s", name, what)


def check_rows(rows: Iterable[tuple[str, Row]], shapes: Sequence[Shape]) -> Checked | None:
    """Find the shape of rows, and those that have it not.

    Parameters
    ----------
    rows : iterable of (str, dict or str)
        Each with the place where it stands; a text instead of a row says why it could not be read.
    shapes : sequence of Shape
        The ones to choose from: the first that at least half of the first thousand rows have; or
        else the one that most of them have.

    Returns
    -------
    Checked or None
        None if there are rows, but none of the first thousand has the columns of any shape.

    Examples
    --------
    >>> rows = [("a.jsonl:1", {"text": "Ada"}), ("a.jsonl:2", {"text": 3})]
    >>> check_rows(rows, [Shape(("text",))]).faults
    {1: 'a.jsonl:2: text is 3; expected text'}
    """
    rest = iter(rows)
    head = list(islice(rest, HEAD))
    shape = _shape_of([row for _, row in head], shapes)
    if shape is None:
        return None
    faults, count = {}, 0
    for place, row in chain(head, rest):
        fault = shape.fault_of(row)
        if fault is not None:
            faults[count] = f"{place}: {fault}"
        count += 1
    return Checked(shape, count, faults)


def _shape_of(rows: Sequence[Row], shapes: Sequence[Shape]) -> Shape | None:
    readable = [row for row in rows if isinstance(row, dict)]
    if not readable:
        return shapes[0]
    present = [s for s in shapes if any(set(s.columns) <= row.keys() for row in readable)]
    having = [sum(shape.fault_of(row) is None for row in readable) for shape in present]
    usual = (s for s, n in zip(present, having, strict=True) if 2 * n >= len(readable))
    most = present[having.index(max(having))] if present else None
    return next(usual, most)
