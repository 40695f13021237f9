"""A training that was stopped, be it by SIGKILL, goes on exactly as if it had not been.

Also a program, which tests run in other processes: python test_resume.py TASK FOLDER
"""

import copy
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file
from transformers import (
    DataCollatorForLanguageModeling,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from send.checkpoints.checkpoint import (
    STATE_FILE,
    SendState,
    last_checkpoint,
    read_state,
    write_state,
)
from send.dropout.callback import SendCallback
from send.models.hidden_states import HiddenTap
from tests.send.interruption import (
    LAST,
    StopAt,
    Stopped,
    assert_equal,
    model_and_tokenizer,
    outcome,
    sentences,
)

EPOCH = 4  # steps
ROOT = Path(__file__).parents[3]
SETTINGS = {
    "max_steps": LAST,
    "per_device_train_batch_size": 4,
    "learning_rate": 1e-2,
    "logging_steps": 1,
    "save_strategy": "steps",
    "save_steps": 5,
    "disable_tqdm": True,
    "use_cpu": True,
}


TRACKED = [{"text": text} for text in sentences(1, 6)]


def a_trainer(folder, *callbacks, send=None, model=None, **settings):
    """A plain Trainer of a model with dropout, so that random states matter."""
    own, tokenizer = model_and_tokenizer()
    return Trainer(
        model or own,
        TrainingArguments(folder, **{**SETTINGS, **settings}),
        train_dataset=Dataset.from_dict(dict(tokenizer(sentences(0, 4 * EPOCH)))),
        data_collator=DataCollatorForLanguageModeling(tokenizer, mlm=False),
        processing_class=tokenizer,
        callbacks=[*callbacks, send or a_send()],
    )


def a_send(tracked=TRACKED, **options):
    quick = {"score_prompts": 2, "num_samples": 3, "max_new_tokens": 2}
    return SendCallback(tracked, **{**quick, **options})


class Hang(TrainerCallback):
    """Writes down the mask when a step begins, and waits to be killed."""

    def __init__(self, send, step, file):
        self.send, self.step, self.file = send, step, file

    def on_step_begin(self, args, state, control, **_):
        if state.global_step == self.step:
            unfinished = self.file.with_suffix(".part")
            unfinished.write_text(json.dumps(self.send.mask.indices))
            unfinished.rename(self.file)
            time.sleep(600)


def main(task, folder):
    torch.set_num_threads(1)
    send = a_send()
    hang = [Hang(send, 18, Path(folder) / "mask.json")] if task == "hang" else []
    parallel = (
        {"per_device_train_batch_size": 2, "ddp_backend": "gloo"} if "RANK" in os.environ else {}
    )
    trainer = a_trainer(folder, *hang, send=send, **parallel)
    trainer.train(str(last_checkpoint(folder)) if task == "resume" else None)
    if parallel:
        result = {"weights": trainer.model.state_dict(), "history": send.history}
        torch.save(result, Path(folder) / f"rank{os.environ['RANK']}.pt")


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def start(task, folder, **environment):
    command = [sys.executable, __file__, task, str(folder)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), **environment}
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )


def finish(process):
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors


def test_killed_in_the_middle_of_a_hold_it_ends_as_if_unbroken(tmp_path):
    unbroken, broken = tmp_path / "unbroken", tmp_path / "broken"
    broken.mkdir()
    hanging = start("hang", broken)
    deadline = time.monotonic() + 120
    while not (broken / "mask.json").is_file():
        assert hanging.poll() is None, hanging.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.05)
    hanging.send_signal(signal.SIGKILL)
    assert hanging.wait() == -signal.SIGKILL
    hanging.stderr.close()

    # Step 18 is in epoch 5 of the hold of epochs 3 to 5, and the last checkpoint, of step 15, in
    # the middle of epoch 4 with the same mask.
    mask = json.loads((broken / "mask.json").read_text())
    assert last_checkpoint(broken).name == "checkpoint-15"
    assert read_state(last_checkpoint(broken)).history[-1]["masked"] == mask != []

    finish(start("resume", broken))
    a_trainer(unbroken).train()
    assert_equal(outcome(broken), outcome(unbroken))
    assert outcome(unbroken)["history"][3]["masked"] == mask


def test_two_processes_choose_the_same_mask(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2"}
    ranks = [start("run", tmp_path, RANK=rank, LOCAL_RANK=rank, **shared) for rank in ("0", "1")]
    for process in ranks:
        finish(process)
    first, second = (torch.load(tmp_path / f"rank{rank}.pt") for rank in (0, 1))
    assert_equal(first, second)
    assert first["history"][-1]["masked"]
    assert last_checkpoint(tmp_path).name == f"checkpoint-{LAST}"


def test_every_architecture_resumes(any_model, tmp_path):
    """GPT-NeoX among them, whose head Trainer itself does not load from a checkpoint."""
    unbroken, broken = tmp_path / "unbroken", tmp_path / "broken"
    a_trainer(unbroken, model=copy.deepcopy(any_model)).train()
    with pytest.raises(Stopped):
        a_trainer(broken, StopAt(18, "on_step_begin"), model=copy.deepcopy(any_model)).train()
    a_trainer(broken, model=any_model).train(resume_from_checkpoint=True)
    assert_equal(outcome(broken), outcome(unbroken))


@pytest.mark.parametrize(
    ("stop", "settings", "options"),
    [
        ((18, "on_step_begin"), {}, {}),
        ((18, "on_step_begin"), {"restore_callback_states_from_checkpoint": True}, {}),
        ((14, "on_step_begin"), {"save_strategy": "epoch"}, {}),
        ((12, "on_epoch_end"), {"save_steps": EPOCH}, {}),
        ((8, "on_epoch_end"), {"save_steps": EPOCH}, {}),
        ((12, "on_step_end"), {"save_steps": EPOCH}, {}),
        ((13, "on_step_begin"), {}, {"every": 3, "hold": 2}),
        ((17, "on_step_begin"), {"save_steps": 4}, {"every": 4, "window": 2, "hold": 1}),
        ((3, "on_step_begin"), {"save_steps": 2}, {}),
        ((13, "on_step_begin"), {"gradient_accumulation_steps": 2}, {"every": 2}),
        ((18, "on_step_begin"), {}, {"selection": "random", "hold": 2, "cooldown": 1}),
    ],
    ids=[
        "mid-epoch", "callback states restored", "saved at epochs", "between save and epoch end",
        "before the first mask", "before the save at an epoch end", "every 3 steps",
        "every 4 steps with a save", "in the first epoch", "accumulated gradients",
        "a control with a cool-down",
    ],
)  # fmt: skip
def test_stopped_and_resumed_it_ends_as_if_unbroken(tmp_path, stop, settings, options):
    unbroken, broken = tmp_path / "unbroken", tmp_path / "broken"
    a_trainer(unbroken, send=a_send(**options), **settings).train()
    with pytest.raises(Stopped):
        a_trainer(broken, StopAt(*stop), send=a_send(**options), **settings).train()
    assert not (broken / f"checkpoint-{LAST}").exists()
    trainer = a_trainer(broken, send=a_send(**options), **settings)
    trainer.train(resume_from_checkpoint=True)
    assert_equal(outcome(broken), outcome(unbroken))


def test_the_mask_is_there_before_the_first_step_after_resuming(tmp_path):
    with pytest.raises(Stopped):
        a_trainer(tmp_path, StopAt(18, "on_step_begin")).train()
    masked = read_state(tmp_path / "checkpoint-15").history[-1]["masked"]
    trainer, zeros = a_trainer(tmp_path), []

    class Look(TrainerCallback):
        def on_train_begin(self, args, state, control, model, **_):
            tap = HiddenTap(model).__enter__()
            hooks.append(tap)

        def on_pre_optimizer_step(self, args, state, control, **_):
            dead = (hooks[0].states == 0).all(dim=(0, 1))
            zeros.append(torch.nonzero(dead).flatten().tolist())

    hooks = []
    trainer.add_callback(Look())
    trainer.train(resume_from_checkpoint=True)
    assert masked
    assert zeros[0] == masked


def interrupted(folder, **options):
    with pytest.raises(Stopped):
        a_trainer(folder, StopAt(18, "on_step_begin"), send=a_send(**options)).train()
    return folder / "checkpoint-15"


def test_a_checkpoint_that_was_moved_has_to_be_named(tmp_path):
    checkpoint = interrupted(tmp_path / "before")
    moved = shutil.move(checkpoint, tmp_path / "moved")
    elsewhere = tmp_path / "elsewhere"
    with pytest.raises(ValueError, match=rf"no {STATE_FILE} of that step in .*elsewhere"):
        a_trainer(elsewhere).train(resume_from_checkpoint=moved)
    a_trainer(elsewhere, send=a_send(resume_from=moved)).train(resume_from_checkpoint=moved)
    again = tmp_path / "again"
    a_trainer(again, resume_from_checkpoint=moved).train(resume_from_checkpoint=moved)
    unbroken = tmp_path / "unbroken"
    a_trainer(unbroken).train()
    for folder in (elsewhere, again):
        assert_equal(outcome(folder), outcome(unbroken))


def test_a_state_of_another_training_is_refused(tmp_path):
    here = interrupted(tmp_path / "here")
    there = interrupted(tmp_path / "there", seed=1)
    with pytest.raises(ValueError, match="step 15 is of another training than the checkpoint"):
        a_trainer(tmp_path / "here").train(resume_from_checkpoint=str(there))
    shutil.copy(there / STATE_FILE, here / STATE_FILE)
    with pytest.raises(ValueError, match=r"cannot be resumed from: .* has .* bytes instead of"):
        a_trainer(tmp_path / "here").train(resume_from_checkpoint=True)


def test_a_checkpoint_without_its_optimizer_is_refused(tmp_path):
    (interrupted(tmp_path) / "optimizer.pt").unlink()  # Trainer would begin with a new one
    with pytest.raises(ValueError, match=r"optimizer\.pt is missing.* is \S+/checkpoint-10: res"):
        a_trainer(tmp_path).train(resume_from_checkpoint=True)


def test_a_state_of_another_step_is_refused(tmp_path):
    checkpoint = interrupted(tmp_path)
    with pytest.raises(ValueError, match="resumes at step 10, but there is no"):
        a_trainer(tmp_path, send=a_send(resume_from=checkpoint)).train(
            resume_from_checkpoint=str(tmp_path / "checkpoint-10")
        )


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"tracked": TRACKED[:-1]}, "tracking set"),
        ({"layer": -3}, "layer"),
        ({"pooling": "last", "tracked": TRACKED[1:]}, "tracking set and pooling"),
        ({"window": 4, "hold": 1}, "window and hold"),
        ({"drop_fraction": 0.5, "aggregate": "mean-first"}, "drop_fraction and aggregate"),
        ({"score_prompts": 1, "seed": 7}, "score_prompts and seed"),
    ],
)
def test_a_training_of_other_options_is_refused(tmp_path, options, what):
    interrupted(tmp_path)
    with pytest.raises(ValueError, match=f"has another {what} than this training"):
        a_trainer(tmp_path, send=a_send(**options)).train(resume_from_checkpoint=True)


def test_checkpoints_at_other_steps_are_refused(tmp_path):
    interrupted(tmp_path)
    with pytest.raises(ValueError, match="but every is 7; resume with every as it was"):
        a_trainer(tmp_path, send=a_send(every=7)).train(resume_from_checkpoint=True)


def test_a_missing_state_is_never_made_up(tmp_path):
    (interrupted(tmp_path) / STATE_FILE).unlink()
    with pytest.raises(ValueError, match=r"begin a new training"):
        a_trainer(tmp_path).train(resume_from_checkpoint=True)


def a_state():
    embeddings = np.random.default_rng(0).standard_normal((4, 3, 5)).astype(np.float32)
    history = [{"checkpoint": 0, "masked": [1, 2], "tracking_loss": 0.1 + 0.2, "score": None}]
    return SendState(step=7, embeddings=embeddings, history=history, identity={"layer": -2})


def test_a_state_is_read_as_it_was_written(tmp_path):
    state = a_state()
    write_state(state, tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == [STATE_FILE]
    read = read_state(tmp_path)
    assert np.array_equal(read.embeddings, state.embeddings)
    assert (read.step, read.history, read.identity) == (7, state.history, {"layer": -2})
    assert load_file(tmp_path / STATE_FILE)["embeddings"].shape == (4, 3, 5)


def test_a_write_that_fails_leaves_the_state_before(tmp_path, monkeypatch):
    write_state(a_state(), tmp_path)
    before = (tmp_path / STATE_FILE).read_bytes()

    def fail(_):
        raise Stopped

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(Stopped):
        write_state(SendState(step=9, embeddings=np.zeros((1, 1, 1), np.float32), history=[],
                              identity={}), tmp_path)  # fmt: skip
    assert (tmp_path / STATE_FILE).read_bytes() == before
    assert read_state(tmp_path).step == 7


@pytest.mark.parametrize(
    "damage", [lambda b: b[:-9], lambda b: b[:20], lambda _: b"", lambda _: b"x" * 99]
)
def test_a_broken_state_says_so(tmp_path, damage):
    write_state(a_state(), tmp_path)
    file = tmp_path / STATE_FILE
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(ValueError, match=r"is broken .*; resume from another checkpoint"):
        read_state(tmp_path)


def test_another_safetensors_file_is_not_a_state(tmp_path):
    from safetensors.numpy import save_file

    save_file({"weights": np.zeros(3)}, tmp_path / STATE_FILE)
    with pytest.raises(ValueError, match="is broken"):
        read_state(tmp_path)


def test_no_state_at_all(tmp_path):
    with pytest.raises(FileNotFoundError, match=f"there is no {STATE_FILE} in"):
        read_state(tmp_path)


if __name__ == "__main__":
    main(*sys.argv[1:])
