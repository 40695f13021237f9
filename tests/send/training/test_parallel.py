"""Two processes on the CPU (gloo): the same masks and losses as in one, written by one of them.

Also a program, which `accelerate launch` runs twice: python test_parallel.py FOLDER [BATCH]
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType
from transformers import AutoModelForCausalLM, TrainerCallback

from send import cli
from send.training import train
from send.world import World, small_model

WORLD = World(0, people=12, new_people=8, unknown_people=4)
LAUNCHERS = {
    name: ["--config_file", str(cli.RECIPES / "accelerate" / f"{name}.yaml")]
    for name in ("ddp", "fsdp2")
}
BROKEN_AT = 7
SETTINGS = {
    "config": "small",
    "max_steps": 10,
    "every": 2,
    "hold": 2,
    "score_prompts": 2,
    "num_samples": 3,
    "max_new_tokens": 3,
    "save_strategy": "steps",
    "save_steps": 3,
    "learning_rate": 0.01,
    "logging_steps": 1,
    "disable_tqdm": True,
    "per_device_train_batch_size": 4,
}


HALF = {"per_device_train_batch_size": 2}
"""A batch as large as those above, by two processes."""


def options(folder, out, **changed):
    """The arguments of `send train` that these settings make."""
    given = {
        "model": folder / "model", "data": folder / "rows.jsonl", "output_dir": folder / out,
        "prompt_data": folder / "asked.jsonl", **SETTINGS, **changed,
    }  # fmt: skip
    flags = [
        [f"--{name}"] if value == "" else [f"--{name}", value] for name, value in given.items()
    ]
    return ["train", *(str(word) for flag in flags for word in flag)]


# In each of the processes ------------------------------------------------------------------------


def allow_cpu():
    """Let Accelerate divide a model on CPUs too, as it does on all else."""
    original = AcceleratorState.__init__

    def on_cpu(self, *arguments, fsdp_plugin=None, **more):
        original(self, *arguments, fsdp_plugin=fsdp_plugin, **more)
        if fsdp_plugin is not None and self.distributed_type == DistributedType.MULTI_CPU:
            self.distributed_type = DistributedType.FSDP
            self.fsdp_plugin = fsdp_plugin
            if self._mixed_precision != "no":
                fsdp_plugin.set_mixed_precision(self._mixed_precision)
            PartialState._shared_state["distributed_type"] = DistributedType.FSDP

    AcceleratorState.__init__ = on_cpu


class Stopped(Exception):
    """What ends a training early."""


class Stop(TrainerCallback):
    def on_step_begin(self, args, state, control, **_):
        if state.global_step == BROKEN_AT:
            raise Stopped


def main(folder):
    """Train without a break, then with one, and note what this process saw."""
    written, seen, make = [], [], train.SendTrainer

    def note(event, arguments):
        if event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax"):
            path = (
                Path(os.fsdecode(arguments[0])) if isinstance(arguments[0], str | bytes) else None
            )
            if path is not None and path.is_relative_to(folder):
                written.append(str(path.relative_to(folder)))

    def noted_trainer(*arguments, callbacks=None, **more):
        seen.append(make(*arguments, callbacks=[Stop()] if breaking else None, **more))
        return seen[-1]

    sys.addaudithook(note)
    train.SendTrainer = noted_trainer
    leave, PartialState.destroy_process_group = PartialState.destroy_process_group, lambda _: None
    breaking = False
    assert cli.main(options(folder, "whole", **HALF)) == 0
    breaking = True
    with pytest.raises(Stopped):
        cli.main(options(folder, "broken", **HALF))
    breaking = False
    assert cli.main(options(folder, "broken", resume="", **HALF)) == 0
    whole, _, resumed = seen
    found = {
        "histories": [train._joined(t.send.history, t.evaluation) for t in (whole, resumed)],
        "log": whole.state.log_history,
        "written": written,
        "kind": whole.accelerator.distributed_type.value,
        "processes": whole.accelerator.num_processes,
        "sharded": sum(hasattr(p, "device_mesh") for p in whole.model.parameters()),
    }
    content = json.dumps(found)
    (folder / f"rank{whole.accelerator.process_index}.json").write_text(content)
    leave(PartialState())


# In the process of the tests ---------------------------------------------------------------------


def prepared(folder):
    tokenizer = WORLD.tokenizer()
    small_model(tokenizer, width=16, blocks=3, heads=2).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    rows = WORLD.finetuning_rows()
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    questions = WORLD.questions("new", limit=4)
    asked = [{"prompt": q.prompt, "completion": f" {q.answer}"} for q in questions]
    (folder / "asked.jsonl").write_text("".join(json.dumps(row) + "\n" for row in asked))
    return folder


def environment():
    root = str(Path(cli.__file__).parents[1])
    path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path}


def launched(launcher, *arguments, processes=2, precision="no"):
    """Run Accelerate's launcher; return what it gave."""
    command = [
        sys.executable, "-m", "accelerate.commands.launch", *launcher,
        "--num_processes", processes, "--mixed_precision", precision, "--main_process_port", 0,
        *arguments,
    ]  # fmt: skip
    return subprocess.run(
        list(map(str, command)), env=environment(), capture_output=True, text=True, check=False,
        timeout=300,
    )  # fmt: skip


@pytest.fixture(scope="module", params=LAUNCHERS)
def runs(request, tmp_path_factory):
    """What two processes saw: (kind, folder, standard output, the notes of each)."""
    folder = prepared(tmp_path_factory.mktemp(request.param))
    done = launched(LAUNCHERS[request.param], __file__, folder)
    assert done.returncode == 0, done.stderr[-3000:]
    notes = [json.loads((folder / f"rank{rank}.json").read_text()) for rank in (0, 1)]
    return request.param, folder, done.stdout, notes


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The same training in one process, with batches twice as large."""
    folder = prepared(tmp_path_factory.mktemp("alone"))
    assert cli.main(options(folder, "whole")) == 0
    return folder, json.loads((folder / "whole" / "send_history.json").read_text())


def test_the_model_is_where_it_should_be(runs):
    kind, _, _, notes = runs
    for seen in notes:
        assert seen["processes"] == 2
        assert seen["kind"] == {"ddp": "MULTI_CPU", "fsdp2": "FSDP"}[kind]
        assert bool(seen["sharded"]) is (kind == "fsdp2")


def test_both_processes_have_the_same_history(runs):
    _, _, _, (first, second) = runs
    assert first["histories"] == second["histories"]


def test_the_masks_are_those_of_one_process(runs, alone):
    history, expected = runs[3][0]["histories"][0], alone[1]
    assert [row["masked"] for row in history] == [row["masked"] for row in expected]
    assert len(history) == 6
    assert sum(row["sensitivity"] is not None for row in history) == 2
    assert history[-1]["masked"] != history[2]["masked"] != []


def test_losses_and_scores_are_those_of_one_process(runs, alone):
    history, expected = runs[3][0]["histories"][0], alone[1]
    for row, other in zip(history, expected, strict=True):
        for name in (
            "train_loss", "tracking_loss", "eigenscore", "loss_jump", "sensitivity",
            "eval_loss", "eval_entropy", "eval_eigenscore",
        ):  # fmt: skip
            assert (row[name] is None) is (other[name] is None), name
            if row[name] is not None:
                assert row[name] == pytest.approx(other[name], rel=1e-3, abs=1e-4), name


def test_the_saved_model_is_that_of_one_process(runs, alone):
    _, folder, _, _ = runs
    ids = torch.arange(3, 43).reshape(4, 10)
    with torch.no_grad():
        here, there = (
            AutoModelForCausalLM.from_pretrained(path / "whole").eval()(ids).logits
            for path in (folder, alone[0])
        )
    # Not the weights: those without a gradient, as biases of keys, follow rounding under Adam.
    torch.testing.assert_close(here, there, rtol=1e-3, atol=1e-3)


def test_one_process_writes_and_speaks(runs):
    _, _, output, (first, second) = runs
    saved = [Path(path).parent for path in first["written"] if "send_state" in path]
    expected = [Path("whole", f"checkpoint-{step}") for step in (3, 6, 9, 10)]
    assert saved[: len(expected)] == expected
    for name in ("send_history.json", "send_history.csv", "send_run.png"):
        assert sum(path.startswith(f"whole/{name}") for path in first["written"]) == 1
    assert second["written"] == []
    assert output.count("6 checkpoints; the model is in") == 2  # whole, and resumed


def test_stopped_and_resumed_it_ends_as_if_unbroken(runs):
    _, folder, _, (seen, _) = runs
    whole, resumed = seen["histories"]
    assert resumed == whole
    kept = {}
    for name in ("whole", "broken"):
        kept[name] = AutoModelForCausalLM.from_pretrained(folder / name).state_dict()
    for name, value in kept["whole"].items():
        assert torch.equal(value, kept["broken"][name]), name


@pytest.mark.slow
def test_by_torchrun_from_a_clean_folder(tmp_path):
    (tmp_path / "clean").mkdir()
    folder = prepared(tmp_path)

    def run(*arguments):
        launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        command = [*launcher, "--nproc_per_node", "2", "-m", "send", *arguments]
        return subprocess.run(
            command, env=environment(), capture_output=True, text=True, check=False,
            cwd=tmp_path / "clean", timeout=120,
        )  # fmt: skip

    done = run(*options(folder, "clean/out", max_steps=2))
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("2 checkpoints; the model is in") == 1
    assert [path.name for path in (tmp_path / "clean").iterdir()] == ["out"]
    failed = run("train", "--model", "nowhere", "--data", "nowhere.jsonl", "--use_cpu", "true")
    assert failed.returncode != 0
    assert "send (process 0): there is no file nowhere.jsonl" in failed.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("recipe", "processes", "precision"),
    [("ddp", 1, "no"), ("fsdp2", 1, "no"), ("fsdp2", 2, "bf16")],
)
def test_other_ways_to_launch(tmp_path, alone, recipe, processes, precision):
    """A single process, and bfloat16, which has three digits."""
    folder = prepared(tmp_path)
    batch = 4 // processes
    done = launched(
        LAUNCHERS[recipe], __file__, folder, batch, processes=processes, precision=precision
    )
    assert done.returncode == 0, done.stderr[-3000:]
    history = json.loads((folder / "once" / "send_history.json").read_text())
    found, expected = ([row["tracking_loss"] for row in rows] for rows in (history, alone[1]))
    assert found == pytest.approx(expected, rel=1e-4 if precision == "no" else 1e-2)
    assert (found == pytest.approx(expected, rel=1e-5)) is (precision == "no")
    assert [len(row["masked"]) for row in history] == [0, 0, 3, 3, 3, 3]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
@pytest.mark.parametrize("recipe", ["ddp", "fsdp2", "zero3"])
def test_each_recipe_trains_on_a_gpu(tmp_path, recipe):
    if recipe == "zero3":
        pytest.importorskip("deepspeed")
    folder = prepared(tmp_path)
    launcher = ["--config_file", cli.RECIPES / "accelerate" / f"{recipe}.yaml"]
    training = ["-m", "send", *options(folder, "out")]
    done = launched(launcher, *training, processes=1, precision="bf16")
    assert done.returncode == 0, done.stderr[-3000:]
    history = json.loads((folder / "out" / "send_history.json").read_text())
    assert [len(row["masked"]) for row in history] == [0, 0, 3, 3, 3, 3]
    assert history[-1]["tracking_loss"] < history[0]["tracking_loss"]
    AutoModelForCausalLM.from_pretrained(folder / "out")


if __name__ == "__main__":
    allow_cpu()
    torch.set_num_threads(1)
    if sys.argv[2:]:
        batch = {"per_device_train_batch_size": sys.argv[2]}
        raise SystemExit(cli.main(options(Path(sys.argv[1]), "once", **batch)))
    main(Path(sys.argv[1]))
