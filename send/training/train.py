"""Fine-tuning with Sensitivity Dropout in one call."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback

from send.checkpoints.checkpoint import Row
from send.evaluation.callback import COLUMNS, EvaluationCallback
from send.training.config import SendConfig
from send.training.result import SendResult
from send.training.trainer import SendTrainer
from send.training.training_rows import Rows

if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset
    from peft import PeftConfig

__all__ = ["train"]


def train(
    model: str | Path | PreTrainedModel,
    train_dataset: Rows | IterableDataset,
    *,
    tracking_dataset: Rows | None = None,
    prompt_dataset: Rows | None = None,
    eval_dataset: Rows | IterableDataset | dict[str, Dataset] | None = None,
    teacher: PreTrainedModel | str | Path | None = None,
    config: SendConfig | None = None,
    processing_class: PreTrainedTokenizerBase | None = None,
    callbacks: list[TrainerCallback] | None = None,
    peft_config: PeftConfig | None = None,
    resume_from_checkpoint: str | Path | bool | None = None,
) -> SendResult:
    """Fine-tune a causal language model with Sensitivity Dropout.

    Parameters
    ----------
    model : str, Path or PreTrainedModel
        A model, which is changed, or where it is: a folder or a name on the hub.
    train_dataset : datasets.Dataset, list of dict, list of str, str or Path
        Rows with ``text``, or ``prompt`` and ``completion``, or ``messages``, or texts alone, or a
        file of them: see `send.load_texts`; or a `datasets.IterableDataset`, with a
        `tracking_dataset`.
    tracking_dataset : as train_dataset, optional
        Rows not to train on, by which sensitivity is measured. Without them a share of the training
        rows is kept apart: ``config.tracking_fraction``.
    prompt_dataset : datasets.Dataset, list of dict, list of str, str or Path, optional
        Prompts, with or without references, not trained on, that the model answers at the start and
        at each checkpoint: as for `send.evaluate`; ``config.eval_prompts`` of them.
    eval_dataset : as train_dataset, optional
        Rows that the trainer evaluates on, when ``config.eval_strategy`` says so.
    teacher : PreTrainedModel, str or Path, optional
        A model to distil knowledge from, as for `SendTrainer`.
    config : SendConfig, optional
        All settings; ``SendConfig(drop_fraction=0)`` is plain fine-tuning with the same record.
    processing_class : PreTrainedTokenizerBase, optional
        The tokenizer, if it is not where the model is.
    callbacks, peft_config
        As for TRL's `SFTTrainer`.
    resume_from_checkpoint : str, Path or bool, optional
        A checkpoint folder, or True for the last complete one in ``config.output_dir``.

    Returns
    -------
    SendResult

    Raises
    ------
    ValueError
        If the rows have none of these columns, there is none to track, or there is nothing to
        resume from.

    Notes
    -----
    A falling mean EigenScore does not mean less hallucination; look at answers.

    References
    ----------
    SenD (arXiv:2410.15460), Algorithm 2.

    Examples
    --------
    >>> import send, tempfile
    >>> from send.world import World, small_model
    >>> folder = tempfile.mkdtemp()
    >>> world = World(0, people=12, new_people=8, unknown_people=4)
    >>> tokenizer = world.tokenizer()
    >>> config = send.SendConfig(
    ...     output_dir=folder, max_steps=6, every=1, save_strategy="no", score_prompts=2
    ... )
    >>> result = send.train(
    ...     small_model(tokenizer, width=16, blocks=3, heads=2),
    ...     world.finetuning_rows(),
    ...     config=config,
    ...     processing_class=tokenizer,
    ... )  # doctest: +ELLIPSIS
    {...
    >>> [len(row["masked"]) for row in result.history]
    [0, 0, 3, 3, 3, 3, 3]
    """
    trainer = SendTrainer(
        str(model) if isinstance(model, Path) else model,
        config,
        train_dataset=train_dataset,
        tracking_dataset=tracking_dataset,
        prompt_dataset=prompt_dataset,
        eval_dataset=eval_dataset,
        teacher=teacher,
        processing_class=processing_class,
        callbacks=callbacks,
        peft_config=peft_config,
    )
    trainer.train(resume_from_checkpoint)
    shared = trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled
    return SendResult(
        model=_plain(trainer.accelerator.unwrap_model(trainer.model)),
        processing_class=trainer.processing_class,
        history=_joined(trainer.send.history, trainer.evaluation),
        evaluation=None if trainer.evaluation is None else trainer.evaluation.latest,
        gather=partial(trainer.accelerator.get_state_dict, trainer.model_wrapped)
        if shared
        else None,
    )


def _joined(history: list[Row], evaluation: EvaluationCallback | None) -> list[Row]:
    """Return the rows of the checkpoints, each with what the evaluation found at its step."""
    if evaluation is None:
        return history
    found = {row["step"]: {name: row[name] for name in COLUMNS} for row in evaluation.history}
    return [{**row, **found.get(row["step"], dict.fromkeys(COLUMNS))} for row in history]


def _plain(model: Any) -> nn.Module:
    """Return the model in evaluation mode, with the forward method of its class again."""
    # TRL and Accelerate put their own into the instance, bound to this very object: a copy of the
    # model would go on computing with the weights of the original.
    for module in {model, model.get_base_model() if hasattr(model, "get_base_model") else model}:
        if not hasattr(module, "_hf_hook"):  # layers spread over devices need theirs
            vars(module).pop("forward", None)
            vars(module).pop("_original_forward", None)
    plain: nn.Module = model.eval()
    return plain
