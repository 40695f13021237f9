"""What comes out of a fine-tuning: the model, the record of the training, and where they go."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accelerate import PartialState
from torch import nn
from transformers import PreTrainedTokenizerBase

from send.checkpoints.checkpoint import Row, saving
from send.checkpoints.manifest import write_atomically
from send.evaluation.evaluate import Evaluation
from send.plotting import plot_history, plot_run, plot_sensitivity

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from pandas import DataFrame

__all__ = ["SendResult"]


@dataclass(frozen=True, eq=False, kw_only=True)
class SendResult:
    """A trained model and the record of its training.

    Attributes
    ----------
    model : nn.Module
        In evaluation mode, without mask: what `transformers` would load after `save`.
    processing_class : PreTrainedTokenizerBase
        Its tokenizer.
    history : list of dict
        One row a checkpoint: see `SensitivityDropout`; and if there were prompts to evaluate on, in
        the same row what `EvaluationCallback` found there.
    evaluation : Evaluation or None
        The last one of those, with the answers; None if a resumed training made none.
    gather : callable, optional
        Returns the weights whole, where the model holds only the share of this process.
    """

    model: nn.Module
    processing_class: PreTrainedTokenizerBase
    history: list[Row]
    evaluation: Evaluation | None = None
    gather: Callable[[], dict[str, Any]] | None = None

    def to_pandas(self) -> DataFrame:
        """Return the history as a table, one row a checkpoint."""
        from pandas import DataFrame

        return DataFrame(self.history)

    def save(self, folder: str | Path) -> None:
        """Write the model and its tokenizer as Transformers does, and the history.

        Parameters
        ----------
        folder : str or Path
            Made if it is not there. The history is ``send_history.json``; ``send_history.csv`` has
            one number a cell: of the dropped indices how many, and no sensitivities.

        Notes
        -----
        Of a training on several processes each has to call this; the main one writes.
        """
        model: Any = self.model
        weights = None if self.gather is None else self.gather()
        processes = PartialState()
        if processes.is_main_process:
            with saving("the model", folder):
                model.save_pretrained(folder, state_dict=weights)
                self.processing_class.save_pretrained(folder)
                self._write_history(Path(folder))
        processes.wait_for_everyone()

    def _write_history(self, folder: Path) -> None:
        write_atomically(folder / "send_history.json", json.dumps(self.history, indent=1).encode())
        table = self.to_pandas().drop(columns="sensitivity")
        table["masked"] = table["masked"].map(len)
        write_atomically(folder / "send_history.csv", table.to_csv(index=False).encode())

    def plot(self) -> Figure:
        """Plot the whole training, a panel for each kind of number: `send.plotting.plot_run`."""
        return plot_run(self.history)

    def plot_scores(self, *, ax: Axes | None = None) -> Axes:
        """Plot EigenScore and loss over the checkpoints: `send.plotting.plot_history`."""
        return plot_history(self.history, ax=ax)

    def plot_sensitivity(self, *, ax: Axes | None = None) -> Axes:
        """Plot the sensitivity of each index: `send.plotting.plot_sensitivity`."""
        return plot_sensitivity(self.history, ax=ax)
