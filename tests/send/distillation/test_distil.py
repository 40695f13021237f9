"""A trainer that distils: its cache, and the settings that do not go together."""

import copy
import shutil

import numpy as np
import pytest
import torch
from datasets import Dataset, IterableDataset

from send.distillation.distil import CachedCollator
from send.distillation.divergence import top_k
from send.distillation.teacher import Teacher
from send.distillation.teacher_cache import HEADER, TeacherCache
from send.models.tokenized_rows import IGNORED
from send.training.trainer import SendTrainer
from tests.send.distillation.small_training import ROWS, TRACKED, a_trainer, config, gradients
from tests.send.weights import assert_same, weights

pytestmark = [
    # PEFT and TRL read attributes that Transformers has renamed.
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning"),
    pytest.mark.filterwarnings("ignore:`gradient_checkpointing:FutureWarning"),
]


def test_the_cache_says_what_the_teacher_says(tiny_model, teacher, tokenizer, tmp_path):
    """With all tokens exactly so, up to float16; with fewer a lower bound."""
    losses = {}
    for k in (None, 3, len(tokenizer)):
        options = {} if k is None else {"kd_cache": str(tmp_path / str(k)), "kd_top_k": k}
        trainer = a_trainer(tiny_model, tokenizer, tmp_path, teacher, **options)
        batches = [[trainer.train_dataset[i] for i in order] for order in ([0, 1, 2], [39, 5, 17])]
        losses[k] = [gradients(trainer, [batch])[0] for batch in batches]
    assert losses[len(tokenizer)] == pytest.approx(losses[None], rel=2e-3)
    for fewer, exact in zip(losses[3], losses[None], strict=True):
        assert fewer < exact


def test_rows_are_found_in_any_order(tiny_model, teacher, tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr("send.distillation.teacher_cache.ROWS_PER_FILE", 7)
    options = {"kd_cache": str(tmp_path / "cache"), "kd_top_k": 5}
    trainer = a_trainer(tiny_model, tokenizer, tmp_path, teacher, **options)
    assert len(list((tmp_path / "cache").glob("rows-*.safetensors"))) == 6
    rows = np.random.default_rng(0).permutation(len(trainer.train_dataset))[:9].tolist()
    batch = trainer.data_collator([trainer.train_dataset[i] for i in rows])
    at = 0
    for i in rows:
        row = trainer.train_dataset[i]
        ids, labels = torch.tensor([row["input_ids"]]), torch.tensor(row["labels"])
        with torch.no_grad():
            indices, log_probs = top_k(teacher(ids).logits[0, :-1][labels[1:] != IGNORED], 5)
        here = slice(at, at := at + len(indices))
        assert torch.equal(batch["kd_indices"][here], indices)
        found = batch["kd_log_probs"][here].float()
        torch.testing.assert_close(found, log_probs, rtol=1e-3, atol=1e-3)
    assert at == len(batch["kd_indices"])


def test_a_complete_cache_needs_no_teacher(tiny_model, tokenizer, tmp_path, folder, monkeypatch):
    options = {"kd_cache": str(tmp_path / "cache")}
    first = a_trainer(tiny_model, tokenizer, tmp_path, folder, **options)
    first.train()

    def refuse(_):
        raise AssertionError

    monkeypatch.setattr(Teacher, "_loaded", refuse)
    again = a_trainer(tiny_model, tokenizer, tmp_path, folder, **options)
    again.train()
    assert_same(weights(first.model), weights(again.model))


def test_a_half_written_cache_is_completed(tiny_model, teacher, tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr("send.distillation.teacher_cache.ROWS_PER_FILE", 7)
    cache = tmp_path / "cache"
    a_trainer(tiny_model, tokenizer, tmp_path, teacher, kd_cache=str(cache))
    files = sorted(cache.glob("rows-*.safetensors"))
    whole = [file.read_bytes() for file in files]
    files[1].unlink()
    files[2].write_bytes(whole[2][: len(whole[2]) // 2])
    shutil.copy(files[0], files[3])
    (cache / "rows-000004.12345").write_bytes(b"left by a killed process")
    TeacherCache(tmp_path / "other", {"k": 9}, rows=7).write(
        0, [1] * 7, torch.zeros(7, 1), torch.zeros(7, 2)
    )
    shutil.copy(tmp_path / "other" / "rows-000000.safetensors", files[5])
    a_trainer(tiny_model, tokenizer, tmp_path, teacher, kd_cache=str(cache))
    for file, content in zip(files, whole, strict=True):
        same = file.read_bytes() == content
        assert same, file.name


def test_a_stale_cache_is_refused(tiny_model, teacher, tokenizer, tmp_path):
    options = {"kd_cache": str(tmp_path / "cache")}
    a_trainer(tiny_model, tokenizer, tmp_path, teacher, **options)
    a_trainer(tiny_model, tokenizer, tmp_path, copy.deepcopy(teacher), **options)  # the same
    other = copy.deepcopy(teacher)
    with torch.no_grad():
        next(other.parameters()).add_(1e-3)
    for changed, name in (
        ({"kd_top_k": 3}, "kd_top_k"),
        ({"kd_temperature": 2.0}, "kd_temperature"),
        ({"rows": ROWS[::-1]}, "training rows"),
        ({"completion_only_loss": False}, "training rows"),
    ):
        with pytest.raises(ValueError, match=f"was made with another {name}; pass another"):
            a_trainer(tiny_model, tokenizer, tmp_path, teacher, **options, **changed)
    with pytest.raises(ValueError, match="was made with another teacher"):
        a_trainer(tiny_model, tokenizer, tmp_path, other, **options)
    (tmp_path / "cache" / HEADER).write_text("{")
    with pytest.raises(ValueError, match=r"is broken .* remove"):
        a_trainer(tiny_model, tokenizer, tmp_path, teacher, **options)


def test_workers_look_up_for_themselves(tiny_model, teacher, tokenizer, tmp_path):
    trained = []
    for workers in (0, 2):
        trainer = a_trainer(
            tiny_model, tokenizer, tmp_path, teacher, kd_cache=str(tmp_path / "cache"),
            dataloader_num_workers=workers,
        )  # fmt: skip
        trainer.train()
        trained.append(weights(trainer.model))
    assert_same(*trained)


def test_a_collator_that_changes_rows_is_noticed(tiny_model, teacher, tokenizer, tmp_path):
    trainer = a_trainer(tiny_model, tokenizer, tmp_path, teacher, kd_cache=str(tmp_path / "c"))
    assert isinstance(trainer.data_collator, CachedCollator)
    inner = trainer.data_collator.collate

    def shorter(examples):
        return {name: value[:, :-2] for name, value in inner(examples).items()}

    trainer.data_collator.collate = shorter
    with pytest.raises(ValueError, match="leaves the rows as they are"):
        trainer.train()


def test_what_does_not_go_together(tiny_model, teacher, tokenizer, tmp_path):
    cached = {"kd_cache": str(tmp_path / "cache")}
    with pytest.raises(ValueError, match="loss_type is 'dft'"):
        a_trainer(tiny_model, tokenizer, tmp_path, teacher, loss_type="dft")
    stream = IterableDataset.from_generator(lambda: iter(ROWS))
    with pytest.raises(ValueError, match=r"a stream, .* cannot be looked up"):
        SendTrainer(
            tiny_model,
            config(tmp_path, **cached),
            train_dataset=stream,
            tracking_dataset=Dataset.from_list(TRACKED),
            teacher=teacher,
            processing_class=tokenizer,
        )
    with pytest.raises(ValueError, match="dispatch_batches"):
        a_trainer(
            tiny_model, tokenizer, tmp_path, teacher,
            accelerator_config={"dispatch_batches": True}, **cached,
        )  # fmt: skip
    with pytest.raises(ValueError, match="student and teacher share weights"):
        SendTrainer(
            teacher,
            config(tmp_path),
            train_dataset=Dataset.from_list(ROWS),
            teacher=teacher,
            processing_class=tokenizer,
        )
    assert all(p.requires_grad for p in teacher.parameters())


def test_packed_rows(tiny_model, teacher, tokenizer, tmp_path):
    trainer = a_trainer(
        tiny_model, tokenizer, tmp_path, teacher, packing=True, packing_strategy="wrapped",
        max_length=16, kd_cache=str(tmp_path / "cache"),
    )  # fmt: skip
    trainer.train()
    losses = [row["send/kd_loss"] for row in trainer.state.log_history if "loss" in row]
    assert all(loss > 0 for loss in losses)
