"""Run the independent cells of a long benchmark on all cores; a killed run continues where it was.

A cell is a dictionary of plain values that says all that its result depends on. Finished ones are
lines of a file, so that nothing is computed twice.
"""

from __future__ import annotations

import json
import multiprocessing
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any, TypeAlias

Cell: TypeAlias = dict[str, Any]
Result: TypeAlias = dict[str, Any]


class Cells:
    """The finished cells of a benchmark, kept in a file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._done: dict[str, Result] = {}
        lines = path.read_text().splitlines() if path.exists() else []
        for line in lines:
            try:
                kept = json.loads(line)
            except json.JSONDecodeError:  # the run was killed while it wrote this one
                continue
            self._done[_name(kept["cell"])] = kept["result"]

    def __getitem__(self, cell: Cell) -> Result:
        return self._done[_name(cell)]

    def run(
        self, cells: Iterable[Cell], work: Callable[[Cell], Result], *, workers: int = 2
    ) -> None:
        """Compute what is missing, in the order given; `work` is a function of a module."""
        missing = [cell for cell in cells if _name(cell) not in self._done]
        started = time.perf_counter()
        if not missing:
            return
        # Fresh processes, so that they see the environment as it is now: the number of threads.
        fresh = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(workers, fresh) as pool, self.path.open("a") as file:
            waiting: dict[Future[Result], Cell] = {pool.submit(work, x): x for x in missing}
            for number, future in enumerate(as_completed(waiting), 1):
                cell, result = waiting[future], future.result()
                file.write("\n" if number == 1 and _cut_off(self.path) else "")
                file.write(json.dumps({"cell": cell, "result": result}) + "\n")
                file.flush()
                self._done[_name(cell)] = result
                spent = time.perf_counter() - started
                print(f"{number:4d} of {len(missing)}, {spent:5.0f} s: {_name(cell)}", flush=True)


def _name(cell: Cell) -> str:
    return json.dumps(cell, sort_keys=True, ensure_ascii=False)


def _cut_off(path: Path) -> bool:
    """Whether the last line of a file has no end."""
    return path.stat().st_size > 0 and path.read_bytes()[-1:] != b"\n"
