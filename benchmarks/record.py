"""Write a benchmark's result with what it ran on: ``benchmarks/results/NAME.json``."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


def record(name: str, result: dict[str, Any], *, packages: tuple[str, ...] = ()) -> Path:
    """Write a result as JSON; return the path."""
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"],
        capture_output=True,
        text=True,
        check=False,
        cwd=RESULTS.parent,
    ).stdout.strip()
    used = ("numpy", "scipy", *packages)
    about = {
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "versions": {package: version(package) for package in used},
        "commit": commit,
    }
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps({"about": about, **result}, indent=1) + "\n")
    return path
