"""The scores of prompts as a table, one row for each prompt, and its ways to other libraries."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import datasets
    import pandas as pd

__all__ = ["ScoreTable"]

Numbers = np.ndarray[Any, Any]

SHOWN_ROWS = 20
SHOWN_TEXT = 32


@dataclass(frozen=True, eq=False, kw_only=True)
class ScoreTable:
    """Scores of P prompts, in columns; ``table[i]`` is row i as a dictionary.

    Attributes
    ----------
    prompt : list of str, length P
        As the model was given it.
    answers : list of list of str, P lists of K
        The sampled answers.
    eigenscore : ndarray, shape (P,)
        `send.eigenscore` of the sampled answers: the larger, the more they differ.
    ees : ndarray, shape (P,)
        `send.ees`, its estimate.
    distinct : ndarray of int, shape (P,)
        Number of distinct strings among the K answers.
    mean_nll : ndarray, shape (P,)
        Negative log-likelihood of a token in nats, averaged over each answer, then the K answers.
    entropy : ndarray, shape (P,)
        Entropy of the model's distribution of the next token, at temperature 1 whatever that of
        sampling, in nats, averaged in the same way.
    greedy_answer : list of str, length P
        The answer of the most likely tokens.
    greedy_perplexity : ndarray, shape (P,)
        Its perplexity, exp of its mean negative log-likelihood.
    mean_length : ndarray, shape (P,)
        Mean number of tokens of the K answers.
    """

    prompt: list[str]
    answers: list[list[str]]
    eigenscore: Numbers
    ees: Numbers
    distinct: Numbers
    mean_nll: Numbers
    entropy: Numbers
    greedy_answer: list[str]
    greedy_perplexity: Numbers
    mean_length: Numbers

    def __len__(self) -> int:
        return len(self.prompt)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {name: _plain(column[index]) for name, column in self._columns().items()}

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (self[i] for i in range(len(self)))

    def __str__(self) -> str:
        lines = [_HEADINGS, *(_cells(row) for row in islice(self, SHOWN_ROWS))]
        hidden = len(self) - SHOWN_ROWS
        more = [f"... and {hidden} more rows"] if hidden > 0 else []
        return "\n".join([*map(_line, lines), *more])

    def _columns(self) -> dict[str, Any]:
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def to_pandas(self) -> pd.DataFrame:
        """Return the table as a data frame, the answers of a prompt as a list in its cell.

        Returns
        -------
        pandas.DataFrame
        """
        import pandas as pd

        return pd.DataFrame(self._columns())

    def to_csv(self, path: str | os.PathLike[str]) -> None:
        """Write the table as comma-separated values, the answers of a prompt as a JSON list.

        Parameters
        ----------
        path : path
            Where to write it, in UTF-8.
        """
        frame = self.to_pandas()
        frame["answers"] = [json.dumps(answers, ensure_ascii=False) for answers in self.answers]
        frame.to_csv(path, index=False)

    def to_json(self, path: str | os.PathLike[str] | None = None) -> str:
        """Return the table as JSON, a list of one object for each row, and write it to a file.

        Parameters
        ----------
        path : path, optional
            Where to write it, in UTF-8.

        Returns
        -------
        str
            Standard JSON: a number that is not finite, such as an overflown perplexity, is null.
        """
        rows = [{name: _finite(value) for name, value in row.items()} for row in self]
        text = json.dumps(rows, ensure_ascii=False, allow_nan=False, indent=1)
        if path is not None:
            Path(path).write_text(text + "\n", encoding="utf-8")
        return text

    def to_dataset(self) -> datasets.Dataset:
        """Return the table as a dataset, for `push_to_hub`, `map` and the like.

        Returns
        -------
        datasets.Dataset
        """
        from datasets import Dataset, Features, List, Value

        kinds = {"i": Value("int64"), "f": Value("float64")}
        texts = {"answers": List(Value("string"))}
        columns = self._columns()
        types = {
            name: kinds[column.dtype.kind]
            if isinstance(column, np.ndarray)
            else texts.get(name, Value("string"))
            for name, column in columns.items()
        }
        return Dataset.from_dict(columns, features=Features(types))


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


_HEADINGS = ("prompt", "greedy answer", "EigenScore", "EES", "distinct", "NLL", "ppl", "length")


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    return (
        row["prompt"],
        row["greedy_answer"],
        f"{row['eigenscore']:.4g}",
        f"{row['ees']:.4g}",
        f"{row['distinct']}/{len(row['answers'])}",
        f"{row['mean_nll']:.3g}",
        f"{row['greedy_perplexity']:.3g}",
        f"{row['mean_length']:.3g}",
    )


def _line(cells: Iterable[str]) -> str:
    prompt, answer, *numbers = (" ".join(cell.split()) for cell in cells)
    texts = [
        (text if len(text) <= SHOWN_TEXT else text[: SHOWN_TEXT - 1] + "…").ljust(SHOWN_TEXT)
        for text in (prompt, answer)
    ]
    return "  ".join([*texts, *(number.rjust(10) for number in numbers)])
