"""The command line of `send`: options, files, configuration, one line for what goes wrong."""

import csv
import errno
import json
import os
import re
import shutil
import subprocess
import sys

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from send.cli import _prompts_of, main
from tests.send.interruption import assert_equal, outcome
from tests.send.small_world import WORLD, saved_model, saved_rows


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return saved_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def rows(tmp_path):
    return saved_rows(tmp_path / "rows.jsonl")


def run(capsys, *arguments):
    code = main([str(a) for a in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


QUESTIONS = [q.prompt for q in WORLD.questions("known", limit=3)]


def test_scores_of_prompts(capsys, model):
    code, out, _ = run(capsys, "score", "--model", model, "--prompts", *QUESTIONS)
    assert code == 0
    assert "EigenScore" in out
    assert out.count("Question:") == 3


@pytest.mark.parametrize("suffix", ["json", "csv"])
def test_scores_into_a_file(capsys, model, tmp_path, suffix):
    prompts, output = tmp_path / "prompts.txt", tmp_path / f"scores.{suffix}"
    prompts.write_text("\n".join(QUESTIONS) + "\n\n")
    code, _, _ = run(
        capsys, "score", "--model", model, "--data", prompts, "--num_samples", 4, "--seed", 1,
        "--limit", 2, "--max_new_tokens", 6, "--output", output,
    )  # fmt: skip
    assert code == 0
    if suffix == "json":
        table = json.loads(output.read_text())
    else:
        table = list(csv.DictReader(output.read_text().splitlines()))
    assert [row["prompt"] for row in table] == QUESTIONS[:2]
    assert all(float(row["eigenscore"]) < 100 for row in table)


def test_prompts_from_rows(capsys, model, tmp_path):
    path = tmp_path / "q.jsonl"
    path.write_text("".join(json.dumps({"question": q}) + "\n" for q in QUESTIONS))
    code, out, _ = run(capsys, "score", "--model", model, "--data", path)
    assert code == 0
    assert out.count("Question:") == 3


@pytest.fixture
def asked(tmp_path):
    path = tmp_path / "asked.jsonl"
    rows = [{"prompt": q.prompt, "completion": q.answer} for q in WORLD.questions("new", limit=4)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize("suffix", ["json", "csv"])
def test_metrics_of_a_model(capsys, model, asked, tmp_path, suffix):
    output = tmp_path / f"answers.{suffix}"
    code, text, _ = run(
        capsys, "evaluate", "--model", model, "--data", asked, "--num_samples", 3,
        "--max_new_tokens", 4, "--max_prompts", 3, "--level", 0.9, "--output", output,
    )  # fmt: skip
    assert code == 0
    assert "3 prompts, 90 % intervals over them" in text
    assert "rouge_l" in text
    if suffix == "json":
        table = json.loads(output.read_text())
    else:
        table = list(csv.DictReader(output.read_text().splitlines()))
        table = [{**row, "answers": json.loads(row["answers"])} for row in table]
    prompts = [json.loads(line)["prompt"] for line in asked.read_text().splitlines()]
    assert [row["prompt"] in prompts for row in table] == [True] * 3
    assert all(len(row["answers"]) == 3 and float(row["rouge_l"]) <= 1 for row in table)


SHORT = ["--max_steps", 3, "--every", 1, "--score_prompts", 2, "--save_strategy", "no"]


def test_training(capsys, model, rows, tmp_path):
    out = tmp_path / "trained"
    code, text, _ = run(
        capsys, "train", "--model", model, "--data", rows, "--output_dir", out, *SHORT,
        "--drop_fraction", 0.25, "--disable_tqdm", True,
    )  # fmt: skip
    assert code == 0
    assert "4 checkpoints" in text
    history = json.loads((out / "send_history.json").read_text())
    assert [len(row["masked"]) for row in history] == [0, 0, 4, 4]
    AutoModelForCausalLM.from_pretrained(out)
    AutoTokenizer.from_pretrained(out)


def test_training_with_prompts_to_answer(capsys, model, rows, asked, tmp_path):
    out = tmp_path / "trained"
    code, text, _ = run(
        capsys, "train", "--model", model, "--data", rows, "--output_dir", out, *SHORT,
        "--prompt_data", asked, "--eval_prompts", 3, "--disable_tqdm", True,
    )  # fmt: skip
    assert code == 0
    assert "3 prompts, 95 % intervals over them" in text
    history = json.loads((out / "send_history.json").read_text())
    assert [row["eval_rouge_l"] is not None for row in history] == [True] * 4
    assert len(list(csv.DictReader((out / "send_history.csv").read_text().splitlines()))) == 4
    assert (out / "send_run.png").read_bytes().startswith(b"\x89PNG")


def test_prompts_that_are_not_there(capsys, model, rows):
    arguments = ("train", "--model", model, "--data", rows, "--prompt_data", "/nowhere.csv")
    code, _, err = run(capsys, *arguments)
    assert code == 2
    assert err.splitlines()[-1].startswith("send: there is no file /nowhere.csv")


def test_training_with_a_teacher(capsys, model, rows, tmp_path):
    out, cache = tmp_path / "trained", tmp_path / "cache"
    code, text, _ = run(
        capsys, "train", "--model", model, "--data", rows, "--output_dir", out, *SHORT,
        "--disable_tqdm", True, "--teacher", model, "--lambda_kd", 0.2, "--kd_cache", cache,
        "--kd_form", "convex", "--logging_steps", 1,
    )  # fmt: skip
    assert code == 0
    assert "'send/kd_loss': " in text
    assert (cache / "rows-000000.safetensors").is_file()


def test_out_of_disk_it_says_how_to_resume_and_ends_as_if_unbroken(
    capsys, model, rows, tmp_path, monkeypatch
):
    monkeypatch.setenv("CI", "1")  # TRL reports nothing then
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    command = ["train", "--model", model, "--data", rows, "--max_steps", 8, "--every", 2,
               "--score_prompts", 2, "--save_strategy", "steps", "--save_steps", 3,
               "--save_total_limit", 1, "--logging_steps", 4, "--disable_tqdm", True,
               "--use_cpu", True, "--output_dir"]  # fmt: skip
    assert run(capsys, *command, whole)[0] == 0
    torch_save, saved = torch.save, []

    def save(what, file, **options):
        saved.append(file)
        if "checkpoint-6" in str(file) and "rng" in str(file):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        torch_save(what, file, **options)

    with monkeypatch.context() as full:
        full.setattr("torch.save", save)
        code, _, err = run(capsys, *command, broken)
    assert code == 2
    assert re.fullmatch(
        r"send: checkpoint-6 could not be written into \S+: .*No space left.*The last complete "
        r"checkpoint is \S+/checkpoint-3: resume from that with .*send train --resume\.",
        err.splitlines()[-1],
    )
    assert run(capsys, *command, broken, "--resume")[0] == 0
    assert_equal(outcome(broken, 8), outcome(whole, 8))
    history = [(folder / "send_history.json").read_text() for folder in (broken, whole)]
    assert history[0] == history[1]
    shutil.rmtree(broken / "checkpoint-8")
    code, _, err = run(capsys, *command, broken, "--resume")
    assert code == 2
    assert f"there is no complete checkpoint in {broken} to resume from" in err


def test_settings_from_a_file_and_flags_above_them(capsys, model, rows, tmp_path):
    config = tmp_path / "recipe.yaml"
    config.write_text(
        f"model: {model}\ndata: {rows}\noutput_dir: {tmp_path / 'out'}\nmax_steps: 3\nevery: 1\n"
        "score_prompts: 0\ndrop_fraction: 0.5\nsave_strategy: 'no'\ndisable_tqdm: true\n"
    )
    code, _, _ = run(capsys, "train", "--config", config, "--drop_fraction", 0.25)
    assert code == 0
    history = json.loads((tmp_path / "out" / "send_history.json").read_text())
    assert len(history[-1]["masked"]) == 4


def test_an_unknown_setting_in_a_file_is_refused(capsys, model, rows, tmp_path):
    config = tmp_path / "recipe.yaml"
    config.write_text(f"model: {model}\ndata: {rows}\ndropp_fraction: 0.5\n")
    code, _, err = run(capsys, "train", "--config", config)
    assert code == 2
    assert "dropp_fraction" in err


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["frob"], "expected one of demo, score, evaluate, train, recipes"),
        (["score", "--model", "x"], "nothing to score"),
        (["score", "--model", "x", "--prompts", "a", "--output", "a.txt"], "ends in .json or .csv"),
        (["score", "--model", "x", "--data", "/nowhere.csv"], "no file"),
        (["train", "--model", "x", "--data", "/nowhere.json"], "no file"),
        (["demo", "--text", "/nowhere.json"], "no file"),
        (["train", "--model", "x", "--data", "y", "--every", "0"], "every"),
        (["train", "--model", "x", "--data", "y", "--lambda_kd", "-1"], "lambda_kd is -1.0"),
        (["score", "--prompts", "a"], "required: --model; send score --help"),
        (["score", "--model", "x", "--num_samples", "many"], "invalid int value: 'many'"),
        (["score", "--config"], "--config is followed by nothing"),
        (["score", "--config", "nowhere.yaml"], "followed by nowhere.yaml"),
        (["score", "--model", "x", "--prompts", "a", "--limit", "-1"], "--limit is -1"),
        (["score", "--model", "x", "--prompts", "a", "--device", "foo"], "--device foo cannot be"),
        (
            ["score", "--model", "x", "--prompts", "a", "--output", "nowhere/a.json"],
            "no folder nowhere",
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_goes_wrong_is_one_line_and_code_2(capsys, arguments, text, rows):
    arguments = [str(rows) if a == "y" else a for a in arguments]
    code, _, err = run(capsys, *arguments)
    assert code == 2
    assert err.startswith("send: ")
    assert err.count("\n") == 1
    assert text in err


@pytest.mark.parametrize(
    ("content", "text"),
    [("a: [1,\n b: }", "is not YAML"), ("- a\n", "holds no settings"), ("", "holds no settings")],
)
def test_a_broken_file_of_settings_is_one_line(capsys, tmp_path, content, text):
    (tmp_path / "s.yaml").write_text(content)
    code, _, err = run(capsys, "score", "--config", tmp_path / "s.yaml")
    assert (code, err.count("\n")) == (2, 1)
    assert text in err


def test_broken_weights_are_one_line(capsys, model, tmp_path):
    broken = shutil.copytree(model, tmp_path / "broken")
    (broken / "model.safetensors").write_bytes(b"xx")
    code, _, err = run(capsys, "score", "--model", broken, "--prompts", "a")
    assert code == 2
    assert err.splitlines()[-1].startswith("send: a file of weights or of a checkpoint is broken")


def test_texts_in_utf8(capsys, tmp_path):
    path = tmp_path / "p.txt"
    path.write_bytes("\ufeffAda\nBo\n".encode())
    assert _prompts_of(str(path)) == ["Ada", "Bo"]
    path.write_bytes(b"caf\xe9\n")
    code, _, err = run(capsys, "score", "--model", "x", "--data", path)
    assert (code, err.count("\n")) == (2, 1)
    assert f"{path} is not UTF-8" in err


def test_a_broken_model_folder_is_one_line(capsys, tmp_path):
    (tmp_path / "config.json").write_text("{")
    code, _, err = run(capsys, "score", "--model", tmp_path, "--prompts", "a")
    assert code == 2
    assert err.count("\n") == 1


def test_usage(capsys):
    assert run(capsys, "--help")[0] == 0
    assert run(capsys)[0] == 2
    with pytest.raises(SystemExit) as end:
        main(["train", "--help"])
    assert end.value.code == 0
    assert "drop_fraction" in capsys.readouterr().out


def test_as_a_module_and_as_a_script():
    for command in ([sys.executable, "-m", "send"], [f"{sys.prefix}/bin/send"]):
        done = subprocess.run([*command, "--help"], capture_output=True, text=True, check=True)
        assert "Sensitivity Dropout" in done.stdout
