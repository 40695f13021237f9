"""What a trainer has added up since it last logged, kept across a stop.

`Trainer` logs the mean loss since the line before, and TRL likewise accuracy and numbers of tokens,
but neither writes the sums into a checkpoint: the first line after a resumption would not be that
of an unbroken training.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from send.checkpoints.manifest import write_atomically

__all__ = ["RunningSums"]

FILE = "send_running_sums.json"


class RunningSums(TrainerCallback):  # type: ignore[misc]  # mypy does not follow transformers
    """Takes up the sums of an `SFTTrainer` again before the first step of a resumed training.

    Parameters
    ----------
    trainer : SendTrainer
        With the names of Transformers 5 and TRL 1, which are not public.
    """

    def __init__(self, trainer: Any) -> None:
        self.trainer = trainer
        self.folder: Path | None = None

    def write(self, folder: str | Path) -> None:
        """Write the sums into a checkpoint folder; every process has to call this.

        Parameters
        ----------
        folder : str or Path
            What `Trainer` has just written.
        """
        trainer = self.trainer
        sums = {
            "loss": trainer.accelerator.gather(trainer._tr_loss.reshape(1)).tolist(),
            "last_logged": trainer._globalstep_last_logged,
            "tokens": trainer._total_train_tokens,
            "metrics": trainer._metrics["train"],
        }
        if trainer.distillation is not None:
            totals = trainer.distillation.totals.to(trainer.args.device)
            sums["distillation"] = trainer.accelerator.gather(totals[None]).tolist()
        if trainer.args.should_save:
            write_atomically(Path(folder) / FILE, json.dumps(sums).encode())

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **event: Any
    ) -> None:
        """Take the sums up, if the training resumes from a checkpoint that has them."""
        if self.folder is None or not (self.folder / FILE).is_file():
            return
        trainer, sums = self.trainer, json.loads((self.folder / FILE).read_text())
        if len(sums["loss"]) != args.world_size:
            return  # of other batches than those of this number of processes
        loss = sums["loss"][args.process_index]
        trainer._tr_loss += torch.tensor(loss)
        trainer._total_loss_scalar = -loss  # the loss reported at the end is that of this call
        trainer._globalstep_last_logged = sums["last_logged"]
        trainer._total_train_tokens = sums["tokens"]
        trainer._metrics["train"].update(sums["metrics"])
        if trainer.distillation is not None and "distillation" in sums:
            trainer.distillation.totals = torch.tensor(sums["distillation"][args.process_index])
