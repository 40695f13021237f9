"""What a process pays before it computes: imports, compilation, compiled code from the cache."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.measuring.timing import Job, Row, compared, interleaved, row
from benchmarks.speed.settings import Settings

IMPORT = "import time; started = time.perf_counter(); {}; print(time.perf_counter() - started)"

CALL = """
import time, warnings
import specdens
from specdens.testing import laplacian
a = laplacian(40, 40, 40)
started = time.perf_counter()
specdens.density(a, moments=16, probes=8, bounds=(0, 12), rng=0)
print(time.perf_counter() - started)
"""
"""A matrix just large enough for compiled steps: what is left is their start."""


def rows(settings: Settings) -> list[Row]:
    """Compare imports with those of NumPy and SciPy, and a first call with the plain path."""
    plain = {"SPECDENS_KERNELS": "off"}
    with tempfile.TemporaryDirectory() as cache:
        warm = {"NUMBA_CACHE_DIR": cache}
        fresh = interleaved({"ours": _compiling, "plain": in_process(CALL, plain)}, settings.few)
        cached = interleaved(
            {"ours": in_process(CALL, warm), "plain": in_process(CALL, plain)}, settings.few
        )
    more = {"at_most": True, "repeats": settings.few}
    ours, theirs = "from specdens import density", "import numpy, scipy.sparse"
    return [
        *compared(
            ours, in_process(IMPORT.format(ours)), {theirs: in_process(IMPORT.format(theirs))}, {},
            settings.repeats, at_most=True,
        ),
        row("first call, nothing cached", "plain path", fresh["ours"], fresh["plain"], None,
            **more),
        row("first call of a later process", "plain path", cached["ours"], cached["plain"], None,
            **more),
        row("the same, beyond the plain path", "1 s", _beyond(cached), [1.0], 1.0, **more),
    ]  # fmt: skip


def in_process(code: str, environment: dict[str, str] | None = None) -> Job:
    """Return the job of a new process that prints its own seconds."""

    def job() -> float:
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True,
            env=os.environ | (environment or {}),
        )  # fmt: skip
        return float(done.stdout)

    return job


def _compiling() -> float:
    with tempfile.TemporaryDirectory() as empty:
        return in_process(CALL, {"NUMBA_CACHE_DIR": str(Path(empty))})()


def _beyond(cached: dict[str, list[float] | str]) -> list[float]:
    return [max(a - b, 1e-3) for a, b in zip(cached["ours"], cached["plain"], strict=True)]
