"""`send train` on real text, end to end from the command line: articles of Wikipedia, small model.

    python -m benchmarks.training.wiki        minutes on two cores

Reads ``wiki/wiki_train.json`` from $SPECDENS_DATA or ../shared/data. A GPT-NeoX is pre-trained on
1,500 articles; then `send train` fine-tunes it on 500 others with the recipe `small`, once with
SenD and once with nothing dropped. What is kept are the histories: no text, no weights.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from benchmarks.measuring.record import record
from send import load_texts
from send.demo.experiment import Pretraining, pretrain
from send.world import small_model
from send.world.tokens import subword_tokenizer

DATA = Path(os.environ.get("SPECDENS_DATA", Path(__file__).parents[3] / "shared" / "data"))
PRETRAINED, TAUGHT = 1500, 500
ARMS = {"plain": 0.0, "SenD": 0.2}
TOKENS = 128
"""Of a text; what is longer is cut off."""

MEASURED = (
    "checkpoint", "step", "train_loss", "tracking_loss", "eigenscore", "eigenscore_stderr",
    "masked_share", "loss_jump",
)  # fmt: skip


def main() -> None:
    """Run it and write ``results/wiki_training.json``."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seed", type=int, default=0)
    seed = parser.parse_args().seed
    file = DATA / "wiki" / "wiki_train.json"
    if not file.is_file():
        print(f"skipped: there is no {file}; set SPECDENS_DATA to the folder that has wiki/")
        return
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        loss = prepare(file, folder, seed=seed)
        print(f"pre-trained on {PRETRAINED} articles: mean loss {loss:.3f}", flush=True)
        with ThreadPoolExecutor(len(ARMS)) as pool:  # each waits for a process of its own
            histories = dict(zip(ARMS, pool.map(partial(trained, folder, seed), ARMS), strict=True))
    result = {
        "command": "send train --config small",
        "articles": {"pre-trained on": PRETRAINED, "taught, a tenth of them tracked": TAUGHT},
        "seed": seed,
        "pretraining_loss": loss,
        "arms": {arm: summary(history) for arm, history in histories.items()},
    }
    record("wiki_training", result, packages=("torch", "transformers", "trl"))


def prepare(file: Path, folder: Path, *, seed: int) -> float:
    """Write the model and the texts that the recipe expects; return the pre-training's loss."""
    texts = load_texts(file, limit=PRETRAINED + TAUGHT)
    before, taught = (
        texts.select(range(PRETRAINED)),
        texts.select(range(PRETRAINED, len(texts))),
    )
    tokenizer = subword_tokenizer(list(before["text"]))
    model = small_model(tokenizer, positions=2 * TOKENS, seed=seed)
    pretraining = Pretraining(
        epochs=3, learning_rate=2e-3, batch_size=16, max_length=TOKENS, seed=seed
    )
    with contextlib.redirect_stdout(io.StringIO()):
        loss = pretrain(model, before, tokenizer, pretraining, folder=folder / "model")
    taught.to_json(folder / "texts.jsonl")
    return loss


def trained(folder: Path, seed: int, arm: str) -> list[dict[str, Any]]:
    """Run `send train` in the folder; return its history."""
    options = {
        "output_dir": arm,
        "drop_fraction": ARMS[arm],
        "max_length": TOKENS,
        "seed": seed,
        "save_strategy": "no",
        "disable_tqdm": True,
    }
    flags = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    command = [sys.executable, "-m", "send", "train", "--config", "small", *flags]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, cwd=folder, check=False, capture_output=True, text=True, env=environment
    )
    if done.returncode:
        raise SystemExit(done.stderr)
    history: list[dict[str, Any]] = json.loads((folder / arm / "send_history.json").read_text())
    lines = [f"{arm}: {done.stdout.splitlines()[-1]}"]
    for row in history:
        lines.append(
            f"  checkpoint {row['checkpoint']}: tracking loss {row['tracking_loss']:.4f}, "
            f"EigenScore {row['eigenscore']:.3f} ± {row['eigenscore_stderr']:.3f}, "
            f"{len(row['masked'])} masked"
        )
    print("\n".join(lines), flush=True)
    return history


def summary(history: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the measurements of each checkpoint, and how the masks of one choice differ."""
    masks = [set(row["masked"]) for row in history if row["sensitivity"] is not None]
    return {
        "checkpoints": [
            {name: row[name] for name in MEASURED} | {"masked": len(row["masked"])}
            for row in history
        ],
        "masks": [sorted(mask) for mask in masks],
        "kept_from_one_choice_to_the_next": [len(a & b) / len(a) for a, b in pairwise(masks) if a],
    }


if __name__ == "__main__":
    main()
