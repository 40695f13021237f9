"""Spectra of the Hessian of a small network, beside curvlinops and PyHessian, and gradients.

Ours counts whole: making the operator, its checks, the run, the density. Of theirs only the run
counts. Extreme Ritz values are compared, for they are what all of them find.

    python benchmarks/speed_hessian.py [FOLDER]
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from hessian_peers import Peer, problem
from scipy.linalg import eigvalsh_tridiagonal
from torch import nn

import specdens
from specdens.lanczos import tridiagonalize
from specdens.torch import hessian_operator

ENVIRONMENT = Path("out/peers_hessian")
STEPS = 100
REPEATS = {1: 5, 10: 2}
"""Turns that count, by the number of probes."""

WORK = "Hessian spectrum, 407,050-parameter MLP, {} Lanczos steps x {} probe(s)"
TARGETS = {
    "curvlinops, automatic bounds": 3.0,
    "curvlinops, bounds given": 1.3,
    "PyHessian (patched)": 1.3,
    "the same number of gradients": None,
}


def ours(probes: int, steps: int) -> specdens.SpectralDensity:
    """Return the density as a user would compute it."""
    model, data = problem()
    op = hessian_operator(model, nn.CrossEntropyLoss(), data)
    return specdens.density(op, method="lanczos", moments=2 * steps, probes=probes, rng=0)


def extremes(steps: int) -> tuple[float, float]:
    """Return the extreme Ritz values of one run."""
    model, data = problem()
    op = hessian_operator(model, nn.CrossEntropyLoss(), data)
    start = torch.randn(op.shape[0], 1, generator=torch.manual_seed(1))
    (found,) = tridiagonalize(op, start, steps)
    values = eigvalsh_tridiagonal(found.diagonal, found.off_diagonal)
    return float(values[0]), float(values[-1])


def gradients(count: int) -> None:
    """Do what no product can be cheaper than."""
    model, (inputs, targets) = problem()
    for _ in range(count):
        loss = nn.functional.cross_entropy(model(inputs), targets)
        torch.autograd.grad(loss, list(model.parameters()))


def timed(work: Callable[[], Any]) -> float:
    """Return seconds."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def rows(settings: Any = None) -> list[dict[str, Any]]:
    """Compare one probe and ten, all in turn; `settings` say where environments are."""
    folder = ENVIRONMENT if settings is None else settings.peers.parent / ENVIRONMENT.name
    return compared(folder)


def compared(environment: Path, *, steps: int = STEPS) -> list[dict[str, Any]]:
    """Return a line for each of the others."""
    peer = Peer(environment)
    try:
        return [row for probes in REPEATS for row in _with(probes, peer, steps)]
    finally:
        peer.close()


def _with(probes: int, peer: Peer, steps: int) -> list[dict[str, Any]]:
    low, high = extremes(steps)
    asked = {"steps": steps, "probes": probes}
    requests = {
        "curvlinops, automatic bounds": asked | {"package": "curvlinops-for-pytorch"},
        "curvlinops, bounds given": asked
        | {"package": "curvlinops-for-pytorch", "bounds": [low, high]},
        "PyHessian (patched)": asked | {"package": "pyhessian"},
    }
    jobs: dict[str, Callable[[], float]] = {
        "ours": lambda: timed(lambda: ours(probes, steps)),
        "the same number of gradients": lambda: timed(lambda: gradients(probes * steps)),
    }
    jobs |= {name: lambda r=r: peer.seconds(r) for name, r in requests.items()}  # type: ignore[misc]
    spent, failed = in_turn(jobs, REPEATS[probes])
    found = []
    for name in TARGETS:
        line = {"work": WORK.format(steps, probes), "against": name, "target": TARGETS[name]}
        line |= {"ours_seconds": spread(spent["ours"]), "our_extremes": [low, high]}
        if name in failed:
            found.append(line | {"error": failed[name], "ratio": None})
            continue
        ratio = statistics.median(spent[name]) / statistics.median(spent["ours"])
        line |= {"theirs_seconds": spread(spent[name]), "ratio": ratio}
        if name in requests:
            theirs = peer.found[json.dumps(requests[name])]
            line |= {"their_extremes": theirs["extremes"], "version": theirs["version"]}
        found.append(line)
    return found


def in_turn(
    jobs: dict[str, Callable[[], float]], repeats: int
) -> tuple[dict[str, list[float]], dict[str, str]]:
    """Return the seconds of each job after a warm-up, and what went wrong with some."""
    spent: dict[str, list[float]] = {name: [] for name in jobs}
    failed: dict[str, str] = {}
    for _ in range(repeats + 1):
        for name, job in jobs.items():
            if name in failed:
                continue
            try:
                spent[name].append(job())
            except RuntimeError as problem_:
                failed[name] = str(problem_)
    return {name: times[1:] for name, times in spent.items()}, failed


def spread(times: list[float]) -> dict[str, float]:
    """Return the median, the least and the largest."""
    return {"median": statistics.median(times), "min": min(times), "max": max(times)}


if __name__ == "__main__":
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else ENVIRONMENT
    print(json.dumps(compared(folder), indent=1))
