"""No work is lost: a training killed at any moment, or out of disk, goes on as if unbroken.

Also a program that has imported everything and forks a process for each training, since importing
takes far longer than training does: python test_killed.py, with one JSON task a line.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import TrainerCallback

from send.checkpoints.checkpoint import last_checkpoint, read_state
from tests.send.interruption import LAST, a_trainer, assert_equal, outcome

resource = pytest.importorskip("resource")
pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="forks after imports")

ROOT = Path(__file__).parents[3]


# The program ----------------------------------------------------------------------------------


def watch_writes(folder, limit=None):
    """Count the files that are opened to be written, renamed and deleted; die at one of them."""
    count = 0

    def audit(event, arguments):
        nonlocal count
        writes = event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        if (writes or event in {"os.rename", "os.remove", "shutil.rmtree"}) and folder in str(
            arguments[0]
        ):
            count += 1
            if count == limit:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(audit)
    return lambda: count


class FillDisk(TrainerCallback):
    """Lets no file grow beyond some bytes from a step on."""

    def __init__(self, step, size):
        self.step, self.size = step, size

    def on_step_begin(self, args, state, control, **_):
        if state.global_step == self.step:
            resource.setrlimit(resource.RLIMIT_FSIZE, (self.size, resource.RLIM_INFINITY))


def task(folder, *, at_write=None, full=None, settings=None):
    torch.set_num_threads(1)
    callbacks = [FillDisk(*full)] if full else []
    trainer = a_trainer(folder, *callbacks, **(settings or {}))
    writes = watch_writes(folder, at_write)
    trainer.train(last_checkpoint(folder))
    Path(folder, "writes.json").write_text(str(writes()))


def program():
    for line in sys.stdin:
        asked = json.loads(line)
        after = asked.pop("after", None)
        child = os.fork()
        if not child:
            log = os.open(f"{asked['folder']}/log.txt", os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
            os.dup2(log, 1)
            os.dup2(log, 2)
            try:
                task(**asked)
            except OSError as error:
                resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
                os.write(1, f"OSError: {error}".encode())
                os._exit(1)
            except BaseException as error:
                os.write(1, repr(error).encode())
                os._exit(3)
            os._exit(0)
        if after is not None:
            time.sleep(after)
            os.kill(child, signal.SIGKILL)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        os.write(1, f"{code}\n".encode())


@pytest.fixture(scope="module")
def run():
    """A function that does a task in a process of its own and returns its exit code."""
    with subprocess.Popen(
        [sys.executable, __file__],
        env={**os.environ, "CI": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:

        def ask(folder, **options):
            folder.mkdir(exist_ok=True)
            process.stdin.write(json.dumps({"folder": str(folder), **options}) + "\n")
            process.stdin.flush()
            return int(process.stdout.readline())

        yield ask
        process.stdin.close()


@pytest.fixture(scope="module")
def unbroken(run, tmp_path_factory):
    """The folder of a training that was not interrupted, and how often it wrote, and how long."""
    folder = tmp_path_factory.mktemp("unbroken")
    start = time.monotonic()
    assert run(folder) == 0, log(folder)
    return folder, int((folder / "writes.json").read_text()), time.monotonic() - start


def log(folder):
    return (folder / "log.txt").read_text()


# Killed -----------------------------------------------------------------------------------------


def killed_until_done(run, folder, moments):
    """Kill at each of the moments, resuming after it; then let it end. Return the steps found."""
    found = []
    for moment in moments:
        code = run(folder, **moment)
        assert code in {0, -signal.SIGKILL}, log(folder)
        checkpoint = last_checkpoint(folder)
        if checkpoint is not None:
            found.append(read_state(checkpoint).step)
    assert run(folder) == 0, log(folder)
    assert found == sorted(found), "a complete checkpoint was lost"
    return found


def test_killed_while_writing_it_ends_as_if_unbroken(run, unbroken, tmp_path):
    whole, writes, _ = unbroken
    moments = np.random.default_rng(0).integers(2, writes // 2, 4)
    found = killed_until_done(run, tmp_path, [{"at_write": int(n)} for n in moments])
    assert found
    assert_equal(outcome(tmp_path), outcome(whole))


def test_killed_at_random_moments_it_ends_as_if_unbroken(run, unbroken, tmp_path):
    whole, _, seconds = unbroken
    moments = np.random.default_rng(1).uniform(0.3, 0.9, 3) * seconds
    killed_until_done(run, tmp_path, [{"after": moment} for moment in moments])
    assert_equal(outcome(tmp_path), outcome(whole))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(12))
def test_killed_again_and_again_it_ends_as_if_unbroken(run, unbroken, tmp_path, seed):
    whole, writes, seconds = unbroken
    rng = np.random.default_rng([2, seed])
    moments = [
        {"at_write": int(rng.integers(1, writes))}
        if rng.random() < 0.7
        else {"after": rng.uniform(0, seconds)}
        for _ in range(5)
    ]
    killed_until_done(run, tmp_path, moments)
    assert_equal(outcome(tmp_path), outcome(whole))


# Out of disk ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("largest", "reason"),
    [(1000, "File too large"), (80_000, "PyTorch could not write all of a file")],
    ids=["weights", "optimizer"],
)
def test_out_of_disk_it_says_how_to_go_on_and_ends_as_if_unbroken(
    run, unbroken, tmp_path, largest, reason
):
    assert run(tmp_path, full=[10, largest]) == 1
    assert re.search(
        f"OSError: checkpoint-12 could not be written into {tmp_path}: .*{reason}.*"
        f"The last complete checkpoint is {tmp_path}/checkpoint-8: resume from that",
        log(tmp_path),
    )
    assert run(tmp_path) == 0
    assert_equal(outcome(tmp_path), outcome(unbroken[0]))
    assert [f.name for f in tmp_path.glob("checkpoint-*")] == [f"checkpoint-{LAST}"]


if __name__ == "__main__":
    program()
