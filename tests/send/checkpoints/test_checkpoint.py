"""Complete checkpoints are told from half-written ones, and the last one is never lost."""

import contextlib
import copy
import errno
import json
import os
import shutil

import pytest
import torch
from peft import LoraConfig
from safetensors import safe_open
from safetensors.numpy import save_file
from transformers import TrainerCallback

import send.checkpoints.checkpoint
from send.checkpoints.checkpoint import STATE_FILE, check_complete, last_checkpoint, read_state
from send.checkpoints.manifest import BLOCK, BLOCKS, fault_of, flush, manifest
from send.training.result import SendResult
from tests.send.interruption import LAST, StopAt, Stopped, a_trainer, assert_equal, outcome

SETTINGS = {"max_steps": 12, "save_total_limit": None}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Checkpoints 4, 8 and 12 of one training."""
    folder = tmp_path_factory.mktemp("trained")
    a_trainer(str(folder), **SETTINGS).train()
    return folder


@pytest.fixture
def folder(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "copy")


FILES = (
    "model.safetensors",
    "optimizer.pt",
    "scheduler.pt",
    "rng_state.pth",
    "trainer_state.json",
    "send_running_sums.json",
    STATE_FILE,
)


def test_every_file_that_resuming_needs_is_there(trained):
    assert set(FILES) <= {file.name for file in (trained / "checkpoint-12").iterdir()}
    check_complete(trained / "checkpoint-12")


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", ["missing", "truncated", "empty", "flipped"])
def test_a_half_written_checkpoint_is_passed_over_and_refused(folder, caplog, name, damage):
    file = folder / "checkpoint-12" / name
    content = bytearray(file.read_bytes())
    if damage == "missing":
        file.unlink()
    else:
        content[len(content) // 2] ^= 1
        kept = {"truncated": len(content) - 1, "empty": 0, "flipped": len(content)}[damage]
        file.write_bytes(content[:kept])
    assert last_checkpoint(folder) == folder / "checkpoint-8"
    assert f"{folder / 'checkpoint-12'} is passed over: " in caplog.text
    assert name in caplog.text
    with pytest.raises(ValueError, match="checkpoint-12 cannot be resumed from: ") as caught:
        check_complete(folder / "checkpoint-12")
    assert name in str(caught.value)
    assert f"The last complete checkpoint is {folder / 'checkpoint-8'}" in str(caught.value)


def test_it_is_refused_before_anything_is_loaded(folder, monkeypatch):
    (folder / "checkpoint-12" / "optimizer.pt").unlink()  # Trainer would begin with a new one
    trainer = a_trainer(str(folder), **SETTINGS)
    monkeypatch.setattr(trainer, "_load_from_checkpoint", None)
    with pytest.raises(ValueError, match=r"optimizer\.pt is missing"):
        trainer.train(folder / "checkpoint-12")
    with pytest.raises(ValueError, match="there is no such folder"):
        trainer.train(folder / "checkpoint-7")


def test_what_is_no_checkpoint_is_passed_over(folder):
    shutil.copytree(folder / "checkpoint-4", folder / "checkpoint-best")
    (folder / "checkpoint-100").mkdir()
    (folder / "checkpoint-99").touch()
    assert last_checkpoint(str(folder)) == folder / "checkpoint-12"
    assert last_checkpoint(folder / "nowhere") is None
    for step in (4, 8, 12):
        (folder / f"checkpoint-{step}" / STATE_FILE).unlink()
    assert last_checkpoint(folder) is None
    with pytest.raises(ValueError, match="no complete checkpoint in"):
        a_trainer(str(folder)).train(True)
    with pytest.raises(ValueError, match=r"which is written last\. There is no complete"):
        check_complete(folder / "checkpoint-12")


def test_a_copy_elsewhere_is_complete_with_notes_about_it(folder, tmp_path):
    moved = shutil.move(folder / "checkpoint-12", tmp_path / "moved")
    (moved / "README.md").write_text("A note.")
    (moved / ".cache").mkdir()
    check_complete(moved)


def rewritten(folder, **changed):
    with safe_open(folder / STATE_FILE, "np") as content:
        texts = content.metadata()
        tensors = {name: content.get_tensor(name) for name in content.keys()}  # noqa: SIM118
    texts.update(changed)
    known = {**texts, "send": tensors["send"].tobytes().decode()}
    texts["digest"] = send.checkpoints.checkpoint._digest(tensors["embeddings"], known)
    save_file(tensors, folder / STATE_FILE, texts)


def test_a_state_of_another_format_is_refused(folder):
    rewritten(folder / "checkpoint-12", format="99")
    with pytest.raises(ValueError, match="has format 99, but this version of send reads format 1"):
        read_state(folder / "checkpoint-12")
    assert last_checkpoint(folder) == folder / "checkpoint-8"


@pytest.mark.parametrize("name", ["/etc/passwd", "../checkpoint-8/optimizer.pt"])
def test_no_file_outside_of_the_folder_is_looked_at(folder, name):
    rewritten(folder / "checkpoint-12", files=json.dumps({name: [1, "0"]}))
    with pytest.raises(ValueError, match="which is outside of it"):
        check_complete(folder / "checkpoint-12")


@pytest.mark.parametrize("size", [0, 1, BLOCK * BLOCKS, BLOCK * BLOCKS + 1, 5 * BLOCK * BLOCKS])
def test_a_large_file_is_known_by_parts_of_it(tmp_path, size):
    file = tmp_path / "weights"
    content = bytearray(torch.randint(256, (size,), dtype=torch.uint8).numpy().tobytes())
    file.write_bytes(content)
    expected = manifest(tmp_path, without="x")
    assert expected["weights"][0] == size
    assert fault_of(tmp_path, expected) is None
    for at in {0, size - 1} if size else ():
        changed = copy.copy(content)
        changed[at] ^= 1
        file.write_bytes(changed)
        assert fault_of(tmp_path, expected) == "weights is not the file that was saved with it"


def out_of_space(*_, **__):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_state_that_finds_no_space_leaves_the_checkpoint_before(tmp_path, monkeypatch):
    def fail_later(state, folder):
        return (write_state if state.step < 12 else out_of_space)(state, folder)

    write_state = send.checkpoints.checkpoint.write_state
    monkeypatch.setattr("send.dropout.sensitivity_dropout.write_state", fail_later)
    with pytest.raises(OSError, match=r"checkpoint-12 could not be written .*No space left") as e:
        a_trainer(str(tmp_path)).train()
    assert f"The last complete checkpoint is {tmp_path}/checkpoint-8" in str(e.value)
    assert sorted(f.name for f in tmp_path.glob("checkpoint-*")) == [
        "checkpoint-12",
        "checkpoint-8",
    ]


def test_the_first_checkpoint_of_all_that_finds_no_space(tmp_path, monkeypatch):
    monkeypatch.setattr("torch.save", out_of_space)
    with pytest.raises(OSError, match=r"There is no complete checkpoint in .*; begin again"):
        a_trainer(str(tmp_path)).train()


def test_a_last_model_that_finds_no_space(folder, monkeypatch):
    trainer = a_trainer(str(folder), **SETTINGS)
    result = SendResult(
        model=trainer.model,
        processing_class=trainer.processing_class,
        history=[{"masked": [], "sensitivity": None}],
    )
    monkeypatch.setattr("os.fsync", out_of_space)
    with pytest.raises(OSError, match=r"the model could not be written into .*checkpoint-12"):
        result.save(folder)
    assert not list(folder.glob("send_history*"))
    monkeypatch.undo()
    result.save(folder)
    assert json.loads((folder / "send_history.json").read_text()) == result.history


@pytest.mark.parametrize(("code", "passes"), [(errno.EINVAL, True), (errno.EIO, False)])
def test_a_file_system_that_cannot_flush_is_none_that_fails(tmp_path, monkeypatch, code, passes):
    def fail(_):
        raise OSError(code, os.strerror(code))

    (tmp_path / "file").touch()
    monkeypatch.setattr("os.fsync", fail)
    with contextlib.nullcontext() if passes else pytest.raises(OSError, match="output error"):
        flush(tmp_path)


def test_other_errors_of_a_save_are_left_as_they_are(tmp_path, monkeypatch):
    def fail(*_, **__):
        msg = "CUDA error"
        raise RuntimeError(msg)

    monkeypatch.setattr("torch.save", fail)
    with pytest.raises(RuntimeError, match=r"^CUDA error$"):
        a_trainer(str(tmp_path)).train()


def test_weights_alone_are_not_resumed_from(tmp_path, caplog):
    a_trainer(str(tmp_path), max_steps=8, save_only_model=True).train()
    assert "holds the model only: it cannot be resumed from" in caplog.text
    assert last_checkpoint(tmp_path) is None
    assert [folder.name for folder in tmp_path.glob("checkpoint-*")] == ["checkpoint-8"]  # 1 kept


def test_a_limit_may_change_between_trainings(tmp_path):
    trainer = a_trainer(str(tmp_path), max_steps=4)
    trainer.train()
    trainer.args.save_total_limit = 3
    trainer.train()
    assert trainer.args.save_total_limit == 3


def test_old_checkpoints_go_when_the_new_one_is_complete(tmp_path):
    seen = []

    class Look(TrainerCallback):
        def on_save(self, args, state, control, **_):
            seen.append([last_checkpoint(tmp_path).name, len(list(tmp_path.glob("checkpoint-*")))])

    before = a_trainer(str(tmp_path), Look(), save_total_limit=1)
    before.train()
    assert seen == [[f"checkpoint-{step}", 1] for step in range(4, LAST + 1, 4)]
    assert before.args.save_total_limit == 1


@pytest.mark.parametrize(
    "settings",
    [
        {"every": 4, "window": 4, "hold": 1, "save_steps": 5},
        {"every": "epoch", "save_strategy": "epoch", "gradient_accumulation_steps": 4},
        {"eval_strategy": "steps", "eval_steps": 4, "load_best_model_at_end": True},
        {"peft_config": LoraConfig(r=2, lora_dropout=0.1, target_modules=["c_attn"])},
    ],
    ids=["window of 4", "epochs", "best model", "adapter"],
)
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
@pytest.mark.filterwarnings("ignore:`gradient_checkpointing:FutureWarning")
@pytest.mark.filterwarnings("ignore:fan_in_fan_out:UserWarning")
def test_stopped_twice_it_ends_as_if_unbroken(tmp_path, settings):
    unbroken, broken = str(tmp_path / "unbroken"), str(tmp_path / "broken")
    a_trainer(unbroken, **settings).train()
    for resume, step in ((None, 14), (True, 22)):
        with pytest.raises(Stopped):
            a_trainer(broken, StopAt(step), **settings).train(resume)
    trainer = a_trainer(broken, **settings)
    trainer.train(True)
    assert_equal(outcome(broken), outcome(unbroken))
    assert trainer.state.max_steps == LAST
