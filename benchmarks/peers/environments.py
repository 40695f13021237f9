"""Environments of the packages that the benchmarks compare with, where ours are not disturbed.

    python -m benchmarks.peers.environments [FOLDER] [--only NAME]     in out/ unless told

A package that does not install shows here, and in the rows of results that would need it. kwant is
compiled: about two minutes, a compiler for C++ needed.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]

WANTED: dict[str, tuple[str, ...]] = {
    "peers": ("imate==0.29.11", "scikit-primate==0.5.6", "matfree==0.6.3", "jax==0.10.2"),
    "kwant": (
        # In this order: without NumPy at hand the build fails.
        "numpy<2 scipy<1.15 cython<3 setuptools<75 wheel",
        "--no-build-isolation tinyarray",
        "--no-build-isolation kwant==1.5.0",
    ),
    "hessian": ("torch curvlinops-for-pytorch==3.0.1 pyhessian==0.1 --constraint constraints.txt",),
}
"""What pip is given, one after the other; one that fails does not hinder the next."""


def main() -> None:
    """Make them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folder", type=Path, nargs="?", default=Path("out"))
    parser.add_argument("--only", nargs="+", choices=WANTED, default=list(WANTED))
    options = parser.parse_args()
    for name in options.only:
        make(options.folder / name, WANTED[name])


def make(folder: Path, wanted: tuple[str, ...]) -> None:
    """Make an environment."""
    print(f"== {folder}", flush=True)
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    pip = [str(folder.absolute() / "bin" / "python"), "-m", "pip", "install", "--quiet"]
    for arguments in wanted:
        if subprocess.run([*pip, *arguments.split()], check=False, cwd=ROOT).returncode:
            print(f"does not install: {arguments}", file=sys.stderr)


if __name__ == "__main__":
    main()
