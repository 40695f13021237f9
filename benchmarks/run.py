"""`make bench`: the benchmarks that take at most a few minutes, one process each."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

QUICK = ("bounds", "lu_fill", "inertia", "ees", "truncation")


def main() -> None:
    """Run them one after the other; each writes its own result."""
    here = Path(__file__).parent
    for name in QUICK:
        print(f"== {name}", flush=True)
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        subprocess.run([sys.executable, str(here / f"{name}.py")], check=True, env=environment)


if __name__ == "__main__":
    main()
