"""What a trainer needs to distil: settings that go together, a cache that is full, a collator."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from send.distillation.distillation import CACHED, PORTION, Distillation
from send.distillation.divergence import top_k
from send.distillation.teacher import Teacher, response_mask
from send.distillation.teacher_cache import TeacherCache
from send.models.embeddings import device_of

if TYPE_CHECKING:
    from datasets import Dataset
    from trl import SFTTrainer

__all__ = ["ROW", "CachedCollator", "distil"]

logger = logging.getLogger(__name__)

ROW = "kd_row"
"""The column of the training set by which a batch is looked up in a cache."""


def distil(trainer: SFTTrainer, teacher: Teacher) -> Distillation:
    """Return the distillation that the settings of a trainer ask for, its cache filled.

    Parameters
    ----------
    trainer : SFTTrainer
        With a `SendConfig`, ready to train; with a cache its training set gets a column and its
        data collator is wrapped.
    teacher : Teacher
        Loaded now, unless a cache is complete.

    Returns
    -------
    Distillation

    Raises
    ------
    ValueError
        If tokenizers differ, a setting is not compatible, or the cache is of something else.
    """
    args = trainer.args
    _check_compatible(trainer)
    teacher.check_tokenizer(trainer._tokenizer)
    distillation = Distillation(
        trainer.model,
        teacher,
        weight=args.lambda_kd,
        form=args.kd_form,
        temperature=args.kd_temperature,
    )
    if args.kd_cache is None:
        _ = teacher.model  # loaded before the training begins, not in its first step
        return distillation
    cache = _filled(trainer, distillation)
    teacher.release()
    rows = range(len(trainer.train_dataset))
    trainer.train_dataset = trainer.train_dataset.add_column(ROW, list(rows))
    trainer.data_collator = CachedCollator(trainer.data_collator, cache)
    return distillation


def _check_compatible(trainer: SFTTrainer) -> None:
    args, parallel = trainer.args, trainer.accelerator.parallelism_config
    if args.loss_type != "nll" or args.label_smoothing_factor:
        msg = (
            f"loss_type is {args.loss_type!r} and label_smoothing_factor "
            f"{args.label_smoothing_factor}; with a teacher expected 'nll' and 0."
        )
        raise ValueError(msg)
    if parallel is not None and (parallel.cp_enabled or parallel.sp_enabled):
        msg = (
            "sequences are divided among devices (context or sequence parallelism); with a teacher "
            "expected data parallelism, such as DDP or FSDP."
        )
        raise ValueError(msg)
    if args.kd_cache is None:
        return
    if trainer.padding_free:
        msg = (
            "a cache does not know batches without padding (padding_free, packing 'bfd'); pass "
            "kd_cache=None for a teacher that runs along, or packing=False, padding_free=False."
        )
        raise ValueError(msg)
    if not hasattr(trainer.train_dataset, "__len__") or args.accelerator_config.dispatch_batches:
        msg = (
            "a stream, or batches that one process makes for all (dispatch_batches), cannot be "
            "looked up in a cache; pass kd_cache=None, or a datasets.Dataset."
        )
        raise ValueError(msg)


def _filled(trainer: SFTTrainer, distillation: Distillation) -> TeacherCache:
    args, accelerator, rows = trainer.args, trainer.accelerator, trainer.train_dataset
    words = json.dumps(trainer._tokenizer.get_vocab(), sort_keys=True)
    identity = {
        "teacher": distillation.teacher.identity(),
        "tokenizer": hashlib.sha256(words.encode()).hexdigest(),
        "training rows": _digest(rows),
        "vocabulary": distillation.vocabulary,
        "kd_top_k": args.kd_top_k,
        "kd_temperature": args.kd_temperature,
    }
    cache = TeacherCache(args.kd_cache, identity, len(rows))
    missing = cache.missing()
    accelerator.wait_for_everyone()  # all have seen the same ones
    _fill(
        cache,
        missing[accelerator.process_index :: accelerator.num_processes],
        distillation,
        rows,
        trainer.data_collator,
        k=args.kd_top_k,
        batch_size=args.per_device_eval_batch_size,
    )
    accelerator.wait_for_everyone()
    if cache.missing():
        msg = f"{cache.folder} is not complete; expected a folder that all processes can read."
        raise ValueError(msg)
    return cache


def _fill(
    cache: TeacherCache,
    numbers: Iterable[int],
    distillation: Distillation,
    rows: Dataset,
    collate: Callable[[list[Any]], Mapping[str, torch.Tensor]],
    *,
    k: int,
    batch_size: int,
) -> None:
    """Compute files of a cache."""
    teacher, device = distillation.teacher, device_of(distillation.student)
    size = max(1, PORTION // teacher.vocabulary)
    for number in numbers:
        logger.info("%s: file %d of %d", cache.folder, number + 1, cache.files)
        lengths: list[int] = []
        said = []
        file = cache.rows_of(number)
        for first in range(file.start, file.stop, batch_size):
            batch = collate([rows[i] for i in range(first, min(first + batch_size, file.stop))])
            inputs = {name: value.to(device) for name, value in batch.items()}
            mask = response_mask(inputs["labels"])
            lengths += mask.sum(1).tolist()
            for states in torch.split(teacher.states(inputs, mask), size):
                logits = teacher.logits(states)[:, : distillation.vocabulary]
                indices, log_probs = top_k(logits, k, distillation.temperature)
                said.append((indices.cpu(), log_probs.half().cpu()))
        indices, log_probs = (torch.cat(part) for part in zip(*said, strict=True))
        cache.write(number, lengths, indices, log_probs)


def _digest(rows: Dataset) -> str:
    """Return a digest of tokens and labels, whatever transformations they came from."""
    digest = hashlib.sha256()
    for table in rows.select_columns(["input_ids", "labels"]).with_format("arrow").iter(1000):
        for column in table.columns:
            lists = column.combine_chunks()
            for numbers in (lists.value_lengths(), lists.flatten()):
                digest.update(numbers.to_numpy(zero_copy_only=False).astype(np.int64).tobytes())
    return digest.hexdigest()


@dataclass
class CachedCollator:
    """A data collator that adds to a batch what a cache holds of its rows.

    Attributes
    ----------
    collate : callable
        The data collator of the trainer.
    cache : TeacherCache
        Complete.
    """

    collate: Callable[[list[dict[str, Any]]], dict[str, Any]]
    cache: TeacherCache

    def __call__(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        """Return the batch of some examples; those without a row number are left alone."""
        plain = [{k: v for k, v in example.items() if k != ROW} for example in examples]
        batch = self.collate(plain)
        if ROW in examples[0]:
            said = self.cache.targets([example[ROW] for example in examples])
            batch.update(zip(CACHED, said, strict=True))
        return batch
