"""Training on a closed world, small: what is printed is counted from generated text."""

import json
from collections import Counter
from types import SimpleNamespace

import datasets
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from send.demo.experiment import Schedule
from send.demo.language import _print_table, language, text
from send.world import World

TINY = Schedule(pretraining_epochs=2, finetuning_epochs=4, questions=12, scored=3)


def tiny_world(seed):
    return World(seed, people=12, new_people=8, unknown_people=4)


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    return folder, language(folder, seed=0, world=tiny_world(0), schedule=TINY)


def answers(folder):
    return [json.loads(line) for line in (folder / "answers.jsonl").read_text().splitlines()]


def test_rates_are_counted_from_the_generated_answers(report):
    folder, found = report
    world = tiny_world(0)
    for arm, results in found["arms"].items():
        for row in results["examined"]:
            given = [a for a in answers(folder) if (a["arm"], a["epoch"]) == (arm, row["epoch"])]
            for group, rate in row["rates"].items():
                asked = {q.prompt: q for q in world.questions(group)}
                verdicts = Counter(
                    world.judge(asked[a["prompt"]], a["answer"])
                    for a in given
                    if a["group"] == group
                )
                assert rate["asked"] == verdicts.total()
                assert rate["rate"] == verdicts["wrong"] / verdicts.total()


def test_both_arms_begin_alike_and_part_when_the_mask_comes(report):
    _, found = report
    plain, send = (found["arms"][arm] for arm in ("plain", "SenD"))
    assert len(plain["examined"]) == len(send["examined"]) == 5
    assert plain["examined"][:3] == send["examined"][:3]
    assert plain["examined"][3:] != send["examined"][3:]
    assert [bool(row["masked"]) for row in send["history"]] == [False, False, True, True, True]
    assert not any(row["masked"] for row in plain["history"])


def test_the_models_answer_as_the_record_says(report):
    from send.models.answers import greedy_answers

    folder, _ = report
    for arm in ("plain", "SenD"):
        model = AutoModelForCausalLM.from_pretrained(folder / arm)
        tokenizer = AutoTokenizer.from_pretrained(folder / arm)
        last = [a for a in answers(folder) if a["arm"] == arm and a["epoch"] == 4]
        again = greedy_answers(model, tokenizer, [a["prompt"] for a in last], max_new_tokens=8)
        assert again.answers == [a["answer"] for a in last]


def test_pictures_are_there(report):
    folder, _ = report
    for name in ("training.png", "sensitivity.png"):
        assert (folder / name).read_bytes().startswith(b"\x89PNG")


def test_the_printed_table_is_what_was_examined(capsys, examinations):
    _print_table({arm: SimpleNamespace(rows=rows) for arm, rows in examinations.items()})
    printed = capsys.readouterr().out
    lines = [line.split() for line in printed.splitlines() if line.strip()]
    head = next(i for i, line in enumerate(lines) if line[0] == "epoch")
    names = lines[head]
    assert names == ["epoch", "arm", "known", "new", "unknown", "EigenScore"]
    table = [line for line in lines[head + 1 :] if line[0].isdigit()]
    assert len(table) == 6
    for line in table:
        cells = dict(zip(names, line, strict=False))
        row = examinations[cells["arm"]][int(cells["epoch"])]
        for group, found in row["rates"].items():
            assert float(cells[group]) == pytest.approx(found["rate"], abs=6e-4)
        assert float(cells["EigenScore"]) == pytest.approx(row["eigenscore"]["all"], abs=6e-3)
        assert float(line[-1]) == pytest.approx(row["eigenscore_stderr"], abs=6e-3)
    assert "plain 0.630 [0.619, 0.647], SenD 0.670 [0.659, 0.687]" in printed


def test_another_seed_gives_other_numbers_and_the_same_seed_the_same(report, tmp_path):
    _, found = report
    again = language(tmp_path / "a", seed=0, world=tiny_world(0), schedule=TINY)
    other = language(tmp_path / "b", seed=1, world=tiny_world(1), schedule=TINY)
    assert again == found
    assert other["arms"] != found["arms"]
    assert other["pretraining_loss"] != found["pretraining_loss"]


def test_real_text(tmp_path):
    sentences = [f"The number {i} comes after {i - 1} and before {i + 1}." for i in range(60)]
    data = tmp_path / "text.json"
    data.write_text(json.dumps([{"title": "n", "sentences": [s, s]} for s in sentences]))
    found = text(data, tmp_path / "out", epochs=3)
    assert found["texts"] == 60
    assert len(found["history"]) == 4
    assert found["history"][-1]["masked"]
    assert (tmp_path / "out" / "history.png").exists()
    AutoModelForCausalLM.from_pretrained(tmp_path / "out" / "SenD")


def test_three_texts_are_enough_and_two_are_too_few(tmp_path, capsys):
    threads, bars = torch.get_num_threads(), datasets.are_progress_bars_disabled()
    data = tmp_path / "text.json"
    data.write_text(json.dumps([{"text": f"The number {i} is a number."} for i in range(3)]))
    found = text(data, tmp_path / "out", epochs=1)
    assert found["history"][0]["eigenscore_stderr"] is None
    with pytest.raises(ValueError, match=r"there are 2 texts in .*; expected at least 3"):
        text(data, tmp_path / "few", limit=2)
    assert not (tmp_path / "few").exists()
    assert (torch.get_num_threads(), datasets.are_progress_bars_disabled()) == (threads, bars)
