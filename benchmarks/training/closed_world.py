"""SenD against plain fine-tuning in closed worlds: paired runs, one world and model a seed.

Each seed is its own world, pre-trained model, batches and questions; the two arms of a seed differ
in the mask alone. The unit of inference is the seed.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from benchmarks.measuring.record import record

GROUPS = ("known", "new", "unknown")
LAST = 3
"""Rates are means over the last epochs."""


def one(seed: int) -> dict[str, Any]:
    """Run both arms of a world and return what was found in the last epochs."""
    os.environ["TQDM_DISABLE"] = "1"
    from send.demo.language import language

    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        found = language(Path(folder), seed=seed)
    result: dict[str, Any] = {"seed": seed}
    for arm, results in found["arms"].items():
        rows = results["examined"]
        result[arm] = {
            "start": {g: rows[0]["rates"][g]["rate"] for g in GROUPS},
            "end": {
                g: float(np.mean([r["rates"][g]["rate"] for r in rows[-LAST:]])) for g in GROUPS
            },
            "eigenscore": float(np.mean([r["eigenscore"]["all"] for r in rows[-LAST:]])),
            "tracking_loss": results["history"][-1]["tracking_loss"],
            "curve": [
                {"epoch": r["epoch"], "eigenscore": r["eigenscore"]["all"]}
                | {g: r["rates"][g]["rate"] for g in GROUPS}
                for r in rows
            ],
        }
    return result


def paired(runs: list[dict[str, Any]], value: Any) -> dict[str, float]:
    """Return the mean of SenD minus plain over seeds, and its 95 % t interval."""
    differences = np.array([value(run["SenD"]) - value(run["plain"]) for run in runs])
    error = differences.std(ddof=1) / np.sqrt(len(differences))
    half = float(stats.t.ppf(0.975, len(differences) - 1) * error)
    mean = float(differences.mean())
    return {"mean": mean, "low": mean - half, "high": mean + half}


def main() -> None:
    """Run all seeds, two at a time, and print the paired differences."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=8)
    seeds = parser.parse_args().seeds
    os.environ["OMP_NUM_THREADS"] = "1"
    with ProcessPoolExecutor(2) as pool:
        runs = list(pool.map(one, range(seeds)))
    summary = {
        f"hallucination, {g} people": paired(runs, lambda arm, g=g: arm["end"][g]) for g in GROUPS
    }
    summary["mean EigenScore"] = paired(runs, lambda arm: arm["eigenscore"])
    summary["tracking loss"] = paired(runs, lambda arm: arm["tracking_loss"])
    levels = {
        arm: {g: float(np.mean([run[arm]["end"][g] for run in runs])) for g in GROUPS}
        for arm in ("plain", "SenD")
    }
    levels["before fine-tuning"] = {
        g: float(np.mean([run["plain"]["start"][g] for run in runs])) for g in GROUPS
    }
    for name, found in summary.items():
        interval = f"[{found['low']:+.4f}, {found['high']:+.4f}]"
        print(f"SenD - plain, {name:30s} {found['mean']:+.4f} {interval}")
    print(json.dumps(levels, indent=1))
    packages = ("torch", "transformers", "trl")
    result = {"seeds": seeds, "levels": levels, "summary": summary, "runs": runs}
    record("closed_world", result, packages=packages)


if __name__ == "__main__":
    main()
