"""How fast: whole calls, as users make them, beside other packages and the limits of the machine.

    python -m benchmarks.speed                    everything: 45 minutes on two cores
    python -m benchmarks.speed --only kpm steps   some parts; the other rows stay as they were
    python -m benchmarks.speed --quick            small matrices, into speed_quick.json

Other packages live in environments of their own, made beforehand by `peers.environments`; rows of
those that are missing say so. All use all cores, except SciPy, whose sparse products have one
thread. `report` makes the page.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import json
import os
import tempfile
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import specdens
from benchmarks.measuring.record import RESULTS, about
from benchmarks.measuring.timing import Row
from benchmarks.speed.settings import Settings

PARTS = (
    "kpm", "steps", "irregular", "logdet", "dense", "start", "growth",
    "scores", "hessian", "gpu", "lattice",
)  # fmt: skip
"""Each is a file ``PART.py`` with a function ``rows(settings)``, or one that needs none."""

QUICK = ("kpm", "steps", "dense", "start")
SMALL = {"side": 46, "order": 1500, "repeats": 3, "largest": 1e5}


def main() -> None:
    """Run the parts and write their rows, one part after the other."""
    options = _options()
    warnings.simplefilter("ignore", specdens.AccuracyWarning)
    path = RESULTS / ("speed_quick.json" if options.quick else "speed.json")
    sizes = dict(SMALL) if options.quick else {}
    sizes |= {name: vars(options)[name] for name in SMALL if vars(options)[name] is not None}
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(
            **sizes, quick=options.quick, folder=Path(folder), environments=options.environments
        )
        for part in options.only or (QUICK if options.quick else PARTS):
            print(f"== {part}", flush=True)
            found = measured(part, settings)
            for row in found:
                print(line(row), flush=True)
            merge(path, part, found)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--only", nargs="+", choices=PARTS)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--side", type=int, help="of the lattices, at least 34 (default 100)")
    parser.add_argument("--order", type=int, help="of the dense matrices (default 4000)")
    parser.add_argument("--repeats", type=int, help="turns that count (default 7)")
    parser.add_argument("--largest", type=float, help="sites, for growth (default 1e7)")
    parser.add_argument("--environments", type=Path, default=Settings.environments)
    return parser.parse_args()


def measured(part: str, settings: Settings) -> list[Row]:
    """Return the rows of a part; one row with its error if it cannot be run."""
    try:
        rows: Callable[..., list[Row]] = importlib.import_module(f"benchmarks.speed.{part}").rows
        return rows(settings) if "settings" in inspect.signature(rows).parameters else rows()
    except Exception as problem:
        traceback.print_exc()
        message = f"{type(problem).__name__}: {problem}"
        return [{"work": part, "against": "–", "error": message, "ratio": None, "target": None}]


def merge(path: Path, part: str, rows: list[Row]) -> None:
    """Put the rows of a part in the place of those that it had before, with what they ran on."""
    known: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    known[part] = {"about": about() | threads(), "rows": rows}
    RESULTS.mkdir(exist_ok=True)
    ordered = {name: known[name] for name in PARTS if name in known}
    path.write_text(json.dumps(ordered, indent=1, ensure_ascii=False) + "\n")


def threads() -> dict[str, Any]:
    """Return the versions and the threads of the libraries beside NumPy."""
    import numba
    import torch

    return {
        "threads": os.environ.get("OMP_NUM_THREADS", "all"),
        "numba": {"version": numba.__version__, "threads": numba.get_num_threads()},
        "torch": {"version": torch.__version__, "threads": torch.get_num_threads()},
    }


def line(row: Row) -> str:
    """Return a row in one line."""
    if row.get("ratio") is None:
        return f"{row['work']} | {row['against']}: {row.get('error', 'nothing to compare')}"
    sign = "at most" if row.get("at_most") else "at least"
    goal = "" if row.get("target") is None else f" ({sign} {row['target']:g})"
    return f"{row['work']} | {row['against']}: {row['ratio']:.2f}{goal}"


if __name__ == "__main__":
    main()
