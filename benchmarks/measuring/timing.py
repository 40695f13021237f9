"""Time jobs in turn: medians and spreads, after a warm-up, without the garbage collector.

The machine's memory has slow spells and fast ones; what is compared shares them by turns.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Collection
from functools import cache
from typing import Any, TypeAlias

__all__ = [
    "Job", "Row", "Unavailable", "compared", "interleaved", "once", "row", "seconds", "spread",
]  # fmt: skip

Job: TypeAlias = Callable[[], float]
"""Does its work and returns the seconds that count: a server's are its own."""

Row: TypeAlias = dict[str, Any]


REST = 0.02
"""Seconds between jobs: the threads of the last one may still spin, waiting for more."""


class Unavailable(Exception):
    """What is compared with cannot be run; the message goes into the results."""


def seconds(work: Callable[[], object], *, times: float = 1) -> Job:
    """Return the job that does this work in our process, its seconds scaled."""

    def job() -> float:
        started = time.perf_counter()
        work()
        return times * (time.perf_counter() - started)

    return job


def once(work: Callable[[], object]) -> Job:
    """Return the job of a work of minutes: it is done in the first turn and its seconds kept."""
    return cache(seconds(work))


def interleaved(jobs: dict[str, Job], repeats: int) -> dict[str, list[float] | str]:
    """Return the seconds of each job, run in turn; of one that is unavailable, the reason."""
    spent: dict[str, list[float]] = {name: [] for name in jobs}
    failed: dict[str, str] = {}
    was_on = gc.isenabled()
    gc.disable()
    try:
        for turn in range(repeats + 1):  # the first one warms up
            for name, job in jobs.items():
                if name in failed:
                    continue
                time.sleep(REST)
                try:
                    spent[name].append(job())
                except Unavailable as reason:
                    failed[name] = str(reason)
            gc.collect()
            if turn == 0:
                spent = {name: [] for name in jobs}
    finally:
        if was_on:
            gc.enable()
    return {name: failed.get(name, spent[name]) for name in jobs}


def spread(times: list[float]) -> dict[str, float]:
    """Return the median, the least and the largest."""
    return {"median": statistics.median(times), "min": min(times), "max": max(times)}


def row(
    work: str,
    against: str,
    ours: list[float],
    theirs: list[float] | str,
    target: float | None,
    *,
    at_most: bool = False,
    **more: Any,
) -> Row:
    """Return a line of the results.

    `ratio` says how many times faster we are; with `at_most`, how many times slower than a limit.
    """
    found: Row = {"work": work, "against": against, "ours_seconds": spread(ours)}
    if isinstance(theirs, str):
        found |= {"error": theirs, "ratio": None}
    else:
        ratio = statistics.median(theirs) / statistics.median(ours)
        found |= {"theirs_seconds": spread(theirs), "ratio": 1 / ratio if at_most else ratio}
    return found | {"target": target} | ({"at_most": True} if at_most else {}) | more


def compared(
    work: str,
    ours: Job,
    others: dict[str, Job],
    targets: dict[str, float | None],
    repeats: int,
    *,
    at_most: bool | Collection[str] = False,
    **more: Any,
) -> list[Row]:
    """Return a line for each of the others, all timed in turn with ours.

    `at_most` says that the others are limits, or which of them.
    """
    limits = (others if at_most else ()) if isinstance(at_most, bool) else at_most
    found = interleaved({"ours": ours, **others}, repeats)
    mine = found["ours"]
    if isinstance(mine, str):
        raise Unavailable(mine)
    return [
        row(
            work, name, mine, found[name], targets.get(name), at_most=name in limits,
            repeats=repeats, **more,
        )
        for name in others
    ]  # fmt: skip
