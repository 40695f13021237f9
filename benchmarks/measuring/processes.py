"""Start a module of the benchmarks as a process of its own, from whatever folder."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["ROOT", "with_benchmarks"]

ROOT = Path(__file__).parents[2]


def with_benchmarks() -> dict[str, str]:
    """Return the environment in which ``python -m benchmarks.…`` finds its modules."""
    before = os.environ.get("PYTHONPATH")
    paths = [str(ROOT), *([before] if before else [])]
    return os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
