"""The one door to the benchmarks: each part runs in a process of its own and writes its result.

python benchmarks/run.py                  those of about five minutes: `make bench`
python benchmarks/run.py --all            every one, hours: `make bench-all`
python benchmarks/run.py --list           what each of them answers
python benchmarks/run.py ees bounds       these
python benchmarks/run.py speed --quick    options after the name of one part are passed on
"""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

if __package__ in {None, ""}:  # run as a script
    sys.path[0] = str(Path(__file__).parents[1])

from benchmarks.measuring.processes import ROOT, with_benchmarks


class Part(NamedTuple):
    """A module that is run; how it is run unless ``--all`` is asked, None if only then."""

    module: str
    quick: tuple[str, ...] | None
    threads: int | None = 1

    @property
    def name(self) -> str:
        """The last name that says something."""
        return self.module.split(".")[-1]

    @property
    def question(self) -> str:
        """The first line of its docstring."""
        path = ROOT.joinpath("benchmarks", *self.module.split("."))
        file = path / "__main__.py" if path.is_dir() else path.with_suffix(".py")
        return (ast.get_docstring(ast.parse(file.read_text())) or "").split("\n")[0]


PARTS = (
    Part("accuracy.bounds", ()),
    Part("accuracy.inertia", ()),
    Part("accuracy.ees", ()),
    Part("accuracy.lu_fill", ()),
    Part("accuracy.truncation", None),
    Part("accuracy.trace_estimators", None),
    Part("accuracy.preconditioners", None),
    Part("training.wiki", None),
    Part("training.closed_world", None),
    Part("accuracy.equal_products", None),
    Part("training.overhead", ("--quick",)),
    Part("speed", ("--quick",), os.cpu_count()),
)


def main() -> None:
    """Run what the arguments ask for, one after the other."""
    arguments = sys.argv[1:]
    known = {part.name: part for part in PARTS}
    if arguments == ["--list"]:
        for part in PARTS:
            print(f"{part.name:17}{part.question}")
    elif not arguments:
        for part in PARTS:
            if part.quick is not None:
                run(part, part.quick)
    elif arguments == ["--all"]:
        for part in PARTS:
            run(part)
    elif set(arguments) <= set(known):
        for name in arguments:
            run(known[name])
    elif arguments[0] in known and arguments[1].startswith("-"):
        run(known[arguments[0]], tuple(arguments[1:]))
    else:
        sys.exit(f"{__doc__}\nThe parts are {', '.join(known)}.")


def run(part: Part, options: tuple[str, ...] = ()) -> None:
    """Run one."""
    print(f"== {part.name}: {part.question}", flush=True)
    command = [sys.executable, "-m", f"benchmarks.{part.module}", *options]
    threads = {"OMP_NUM_THREADS": str(part.threads)}
    subprocess.run(command, check=True, env=with_benchmarks() | threads)


if __name__ == "__main__":
    main()
