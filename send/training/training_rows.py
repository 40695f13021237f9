"""The rows of a training: what is given, checked, and which of them are kept apart."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from send.data.as_dataset import as_dataset
from send.data.split_tracking import split_tracking
from send.models.tokenized_rows import IGNORED
from send.training.config import SendConfig

if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset

__all__ = ["Rows", "check_columns", "rows_of", "sets_of", "split_off", "with_labels"]

logger = logging.getLogger(__name__)

Rows: TypeAlias = "Dataset | Sequence[Any] | str | Path"
"""What `send.data.as_dataset.as_dataset` takes."""


def rows_of(data: Rows | IterableDataset, args: SendConfig) -> Dataset | IterableDataset:
    """Return rows as a data set; a stream stays one."""
    from datasets import IterableDataset

    if isinstance(data, IterableDataset):
        return data
    return as_dataset(data, text_column=args.dataset_text_field)


def sets_of(
    data: Rows | dict[str, Dataset] | None, args: SendConfig
) -> Dataset | IterableDataset | dict[str, Any] | None:
    """Return the rows to evaluate on; of several sets each."""
    if isinstance(data, dict):
        return {name: rows_of(rows, args) for name, rows in data.items()}
    return None if data is None else rows_of(data, args)


def with_labels(tokenized: Any, given: Any) -> Any:
    """Return the rows of which a token is trained on; TRL leaves out some, without a word."""
    if "labels" not in (getattr(tokenized, "column_names", None) or ()):
        return tokenized
    rows = tokenized.filter(_is_trained_on)
    if not hasattr(rows, "__len__"):
        return rows
    if not len(rows):
        msg = (
            f"none of the {len(given)} training rows has a token to train on: each is a single "
            "token, or its prompt alone fills max_length."
        )
        raise ValueError(msg)
    if len(rows) < len(given):
        logger.warning(
            "left out %d of %d training rows without a token to train on, such as rows whose "
            "prompt alone fills max_length",
            len(given) - len(rows),
            len(given),
        )
    return rows


def _is_trained_on(row: dict[str, Any]) -> bool:
    return any(label != IGNORED for label in row["labels"][1:])  # the first is not predicted


def check_columns(dataset: Dataset | IterableDataset, args: SendConfig) -> None:
    """Refuse rows of no known shape before TRL fails on one of them."""
    given = set(dataset.column_names or ())  # a stream may not know
    shapes = ({"prompt", "completion"}, {"messages"}, {args.dataset_text_field}, {"input_ids"})
    if given and not any(shape <= given for shape in shapes):
        msg = (
            f"the training rows have the columns {', '.join(sorted(given))}; expected "
            f"{args.dataset_text_field}, or prompt and completion, or messages, or input_ids."
        )
        raise ValueError(msg)


def split_off(dataset: Dataset | IterableDataset, args: SendConfig) -> tuple[Dataset, Dataset]:
    """Return the rows to train on, and those to track."""
    if not hasattr(dataset, "__len__"):
        msg = (
            f"no share of a stream ({type(dataset).__name__}) can be kept apart; "
            "pass tracking_dataset=<rows that are not trained on>."
        )
        raise ValueError(msg)
    return split_tracking(dataset, args.tracking_fraction, seed=args.seed)
