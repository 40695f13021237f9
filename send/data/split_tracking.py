"""Rows in two disjoint parts: one to train on, one to track embeddings of."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

import numpy as np

from send.data.shapes import TEXTS

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["split_tracking"]


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
    >>> from send.data.as_dataset import as_dataset
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
    known = {"input_ids", *(column for shape in TEXTS for column in shape.columns)}
    columns = [name for name in dataset.column_names if name in known]
    rows = dataset.select_columns(columns or dataset.column_names)
    texts = (json.dumps(row, sort_keys=True, default=str) for row in rows)
    return [hashlib.blake2b(text.encode(), digest_size=16).digest() for text in texts]
