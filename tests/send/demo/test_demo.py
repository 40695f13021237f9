"""The demonstration, small: what it prints is counted from generated text, and nothing is fixed."""

import json
import subprocess
import sys
import time
from collections import Counter
from types import SimpleNamespace

import datasets
import pytest
import torch
from matplotlib.figure import Figure
from transformers import AutoModelForCausalLM, AutoTokenizer

from send.demo.demo import _draw_training, _holds, _print_table, language, spectra, text
from send.demo.experiment import Schedule
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


def examined(shift):
    """Return rows of an examiner in which every number is another one."""
    rows = []
    for epoch in range(3):
        rates = {}
        for place, group in enumerate(("known", "new", "unknown")):
            rate = 0.1 * epoch + 0.2 * place + shift
            rates[group] = {"rate": rate, "low": rate - 0.011, "high": rate + 0.017}
        scores = {"eigenscore": {"all": epoch - 5 + shift}, "eigenscore_stderr": 0.25 + shift}
        rows.append({"epoch": epoch, "rates": rates, **scores})
    return rows


ARMS = {"plain": examined(0.03), "SenD": examined(0.07)}


def test_the_printed_table_is_what_was_examined(capsys):
    _print_table({arm: SimpleNamespace(rows=rows) for arm, rows in ARMS.items()})
    printed = capsys.readouterr().out
    lines = [line.split() for line in printed.splitlines() if line.strip()]
    head = next(i for i, line in enumerate(lines) if line[0] == "epoch")
    names = lines[head]
    assert names == ["epoch", "arm", "known", "new", "unknown", "EigenScore"]
    table = [line for line in lines[head + 1 :] if line[0].isdigit()]
    assert len(table) == 6
    for line in table:
        cells = dict(zip(names, line, strict=False))
        row = ARMS[cells["arm"]][int(cells["epoch"])]
        for group, found in row["rates"].items():
            assert float(cells[group]) == pytest.approx(found["rate"], abs=6e-4)
        assert float(cells["EigenScore"]) == pytest.approx(row["eigenscore"]["all"], abs=6e-3)
        assert float(line[-1]) == pytest.approx(row["eigenscore_stderr"], abs=6e-3)
    assert "plain 0.630 [0.619, 0.647], SenD 0.670 [0.659, 0.687]" in printed


def test_each_panel_shows_its_own_group(tmp_path, monkeypatch):
    saved = {}
    monkeypatch.setattr(
        Figure, "savefig", lambda self, path, **_: saved.update({path.name: self.axes})
    )
    masked = [
        {"masked": m, "sensitivity": None, "checkpoint": i} for i, m in enumerate([[], [1], [1]])
    ]
    found = {
        arm: (SimpleNamespace(rows=rows), SimpleNamespace(history=masked))
        for arm, rows in ARMS.items()
    }
    _draw_training(tmp_path, found)
    scores, *rates = saved["training.png"]
    lines = {line.get_label(): line.get_ydata() for line in scores.get_lines()}
    for arm, rows in ARMS.items():
        assert list(lines[arm]) == [row["eigenscore"]["all"] for row in rows]
    assert [ax.get_title() for ax in rates] == ["known people", "new people", "unknown people"]
    for ax, group in zip(rates, ("known", "new", "unknown"), strict=True):
        lines = {line.get_label(): line.get_ydata() for line in ax.get_lines()}
        bands = dict(zip(ARMS, ax.collections, strict=True))
        for arm, rows in ARMS.items():
            assert list(lines[arm]) == [row["rates"][group]["rate"] for row in rows]
            heights = bands[arm].get_paths()[0].vertices[:, 1]
            assert heights.min() == min(row["rates"][group]["low"] for row in rows)
            assert heights.max() == max(row["rates"][group]["high"] for row in rows)
        assert ax.get_xlabel() == "epoch"


def test_an_interval_holds_or_misses():
    assert _holds(1.0, 2.0, 3.0).startswith("holds")
    for truth in (0.5, 3.5):
        assert _holds(1.0, truth, 3.0).startswith("MISSES")


def test_another_seed_gives_other_numbers_and_the_same_seed_the_same(report, tmp_path):
    _, found = report
    again = language(tmp_path / "a", seed=0, world=tiny_world(0), schedule=TINY)
    other = language(tmp_path / "b", seed=1, world=tiny_world(1), schedule=TINY)
    assert again == found
    assert other["arms"] != found["arms"]
    assert other["pretraining_loss"] != found["pretraining_loss"]


def test_spectra_are_near_the_exact_ones(tmp_path, capsys):
    found = spectra(tmp_path, side=20)
    low, high = found["interval_95"]
    assert abs(found["estimate"] - found["exact"]) < 6 * found["stderr"] + found["bias_bound"]
    assert low < found["exact"] < high
    assert found["largest_error_of_cumulative"] < 0.02
    assert (tmp_path / "spectra.png").stat().st_size > 1000
    assert "exact" in capsys.readouterr().out


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


@pytest.mark.slow
def test_the_whole_demonstration_as_users_run_it(tmp_path):
    """At most six minutes on two cores, with everything where it should be."""
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "send", "demo", "--output_dir", str(tmp_path)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert time.perf_counter() - started < 360
    report = json.loads((tmp_path / "demo.json").read_text())
    assert report["spectra"]["sites"] == 10**6
    low, high = report["spectra"]["interval_95"]
    assert low < report["spectra"]["exact"] < high
    for arm in ("plain", "SenD"):
        rows = report["language"]["arms"][arm]["examined"]
        start, end = rows[0]["rates"], rows[-1]["rates"]
        # What the experiment rests on: facts are known, strangers declined, then not any more.
        assert start["known"]["right"] > 0.8 * start["known"]["asked"]
        assert start["unknown"]["rate"] < 0.2
        assert end["unknown"]["rate"] > 0.3
        assert end["new"]["right"] > 0.5 * end["new"]["asked"]
        AutoModelForCausalLM.from_pretrained(tmp_path / arm)
    for name in ("spectra.png", "training.png", "sensitivity.png"):
        assert (tmp_path / name).stat().st_size > 10_000
    assert "Hallucination rate" in done.stdout
