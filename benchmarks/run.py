"""`make bench`: benchmarks of about five minutes; with --all every one, hours. A process each."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

QUICK = ("bounds", "inertia", "ees", "lu_fill")
LONG = (
    "truncation", "trace_estimators", "preconditioners", "wiki_training", "closed_world",
    "accuracy",
)  # fmt: skip


def main() -> None:
    """Run them one after the other; each writes its own result."""
    everything = "--all" in sys.argv[1:]
    for name in QUICK + (LONG if everything else ()):
        run(name, threads=1)
    size = () if everything else ("--quick",)
    run("training", *size, threads=1)
    run("speed", *size, threads=os.cpu_count())


def run(name: str, *options: str, threads: int | None) -> None:
    """Run one."""
    print(f"== {name}", flush=True)
    command = [sys.executable, str(Path(__file__).parent / f"{name}.py"), *options]
    subprocess.run(command, check=True, env=os.environ | {"OMP_NUM_THREADS": str(threads)})


if __name__ == "__main__":
    main()
