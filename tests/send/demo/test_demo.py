"""The whole demonstration, as users run it."""

import json
import subprocess
import sys
import time

import pytest
from transformers import AutoModelForCausalLM


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
