"""Settings of a fine-tuning: those of the supervised trainer of TRL, and of Sensitivity Dropout."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from transformers.utils import is_torch_bf16_gpu_available
from trl import SFTConfig

from send.distillation.distillation import check_distillation
from send.dropout.options import DropoutOptions, option
from send.dropout.schedule import steps_between

__all__ = ["SendConfig"]

NEITHER = {"eigenscore", "ees", "entropy", "distinct", "length"}
"""Metrics of an evaluation that say how answers are, not how good."""


@dataclass
class SendConfig(SFTConfig, DropoutOptions):  # type: ignore[misc]  # mypy does not follow trl
    """Settings of a fine-tuning with SenD: those of TRL's `SFTConfig`, and `DropoutOptions`.

    Where `SFTConfig` and `TrainingArguments` have other defaults: ``bf16`` is chosen by the
    machine, mixed precision with bfloat16 on an accelerator that has it, and otherwise float32
    throughout, as on every CPU; a checkpoint is saved after each epoch and the last two are kept;
    and there are 8 epochs, so that with the paper's C = T = 3 masks are chosen at checkpoints 2 and
    5 and held for 3 epochs each; the one chosen at checkpoint 8, the end, drops nothing. For
    trainings of fewer epochs count checkpoints in steps, with ``every``.

    Examples
    --------
    >>> SendConfig(output_dir="out", every="50").drop_fraction
    0.2
    """

    num_train_epochs: float = option(8.0, "Number of passes over the training data.")
    bf16: bool | None = option(None, "Mixed precision in bfloat16; if unset, where it is fast.")
    save_strategy: str = option("epoch", "When to save: 'epoch', 'steps', 'best' or 'no'.")
    save_total_limit: int | None = option(2, "How many of the last checkpoints to keep.")

    every: str = option("epoch", "A checkpoint: 'epoch', or a number of optimizer steps.")
    tracking_fraction: float = option(0.1, "Share of the training rows to track, if no others.")

    # Evaluation
    eval_prompts: int | None = option(64, "At most so many rows of prompt_dataset are evaluated.")

    # Distillation
    lambda_kd: float = option(0.1, "With a teacher: weight of its loss; 0: plain training.")
    kd_form: str = option(
        "sum", "'sum': L_SFT + lambda L_KD; 'convex': (1 - lambda) L_SFT + lambda L_KD."
    )
    kd_temperature: float = option(1.0, "Divides the logits of both, in L_KD only.")
    kd_teacher_dtype: str = option("auto", "Of a teacher that is loaded; 'auto': as in its files.")
    kd_teacher_device_map: str | None = option(
        None, "Of a teacher that is loaded; 'auto': spread over all devices of the process."
    )
    kd_cache: str | None = option(
        None, "Folder for what the teacher says, computed once; if unset, at each step."
    )
    kd_top_k: int = option(64, "In the cache: tokens with a probability of their own.")

    def __post_init__(self) -> None:
        """Choose the precision, then check everything as `SFTConfig` does."""
        steps_between(self.every)  # before a model or data are loaded
        DropoutOptions.__post_init__(self)
        check_distillation(self.lambda_kd, self.kd_form, self.kd_temperature, self.kd_top_k)
        if self.bf16 is None:
            self.bf16 = not (self.fp16 or self.use_cpu) and is_torch_bf16_gpu_available()
        # Or else several processes without an accelerator would train one model each.
        self.use_cpu |= not torch.accelerator.is_available()
        self.dataloader_pin_memory &= torch.accelerator.is_available()  # or PyTorch warns
        # The switch has a new name in Transformers, which warns of TRL's default under the old one.
        if getattr(self, "activation_checkpointing", False) is None:
            self.activation_checkpointing = self.gradient_checkpointing
        self._check_direction()
        super().__post_init__()

    def _check_direction(self) -> None:
        """Know which end of a metric of ours is better: Transformers takes the larger one."""
        asked, given = str(self.metric_for_best_model), vars(self)
        name = asked.rpartition("send/")[2]
        if name == asked or given["greater_is_better"] is not None:
            return
        if name == "perplexity":
            self.greater_is_better = False
        elif name in NEITHER:
            msg = (
                f"metric_for_best_model is {asked!r}, of which neither end is better as such; pass "
                "greater_is_better=, too."
            )
            raise ValueError(msg)

    def __repr__(self) -> str:
        """Return the settings as `TrainingArguments` does, without tokens."""
        return str(self)

    def __getstate__(self) -> dict[str, Any]:
        """Leave the token of the hub out of ``training_args.bin``, which is in every checkpoint."""
        return {**vars(self), "hub_token": None}
