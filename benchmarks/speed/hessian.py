"""Spectra of the Hessian of a small network, beside curvlinops and PyHessian, and gradients.

Ours counts whole: making the operator, its checks, the run, the density. Of theirs only the run
counts. Extreme Ritz values are compared, for they are what all of them find.
"""

from __future__ import annotations

import json
from typing import Any

import torch
from scipy.linalg import eigvalsh_tridiagonal
from torch import nn

import specdens
from benchmarks.measuring.timing import Row, compared, seconds
from benchmarks.peers.hessian import problem
from benchmarks.peers.server import Peer
from benchmarks.speed.settings import Settings
from specdens.recurrences.lanczos import tridiagonalize
from specdens.torch import hessian_operator

TARGETS = {
    "curvlinops, automatic bounds": 3.0,
    "curvlinops, bounds given": 1.3,
    "PyHessian (patched)": 1.3,
}

FULL = 7
"""Turns of a full run."""


def rows(settings: Settings) -> list[Row]:
    """Compare one probe, and in full runs ten, which take minutes a turn."""
    peer = settings.peer("hessian")
    if settings.quick:
        found = with_probes(1, 10, 1, peer)
    else:
        found = with_probes(1, 100, settings.few, peer)
    if settings.repeats >= FULL:
        found += with_probes(10, 100, 2, peer)
    peer.close()
    return found


def with_probes(probes: int, steps: int, repeats: int, peer: Peer) -> list[Row]:
    """Return a line for each of the others."""
    low, high = extremes(steps)
    asked: Row = {"steps": steps, "probes": probes}
    curvlinops = asked | {"package": "curvlinops-for-pytorch"}
    requests = dict(zip(TARGETS, (
        curvlinops, curvlinops | {"bounds": [low, high]}, asked | {"package": "pyhessian"},
    ), strict=True))  # fmt: skip
    gradients = seconds(lambda: compute_gradients(probes * steps))
    found = compared(
        f"Hessian spectrum, 407,050-parameter MLP, {steps} Lanczos steps x {probes} vector(s)",
        seconds(lambda: ours(probes, steps)),
        {name: peer.job(request) for name, request in requests.items()}
        | {"the same number of gradients": gradients},
        dict(TARGETS), repeats, at_most=("the same number of gradients",),
        our_extremes=[low, high],
    )  # fmt: skip
    for line in found:
        answer = peer.answers.get(json.dumps(requests.get(line["against"])))
        if answer is not None:
            line |= {"their_extremes": answer["value"], "version": answer["version"]}
    return found


def ours(probes: int, steps: int) -> specdens.SpectralDensity:
    """Return the density as a user would compute it."""
    return specdens.density(operator(), method="lanczos", moments=2 * steps, probes=probes, rng=0)


def operator() -> Any:
    """Return the Hessian of the network."""
    model, data = problem()
    return hessian_operator(model, nn.CrossEntropyLoss(), data)


def extremes(steps: int) -> tuple[float, float]:
    """Return the extreme Ritz values of one run."""
    op = operator()
    start = torch.randn(op.shape[0], 1, generator=torch.manual_seed(1))
    (found,) = tridiagonalize(op, start, steps)
    values = eigvalsh_tridiagonal(found.diagonal, found.off_diagonal)
    return float(values[0]), float(values[-1])


def compute_gradients(count: int) -> None:
    """Do what no product can be cheaper than."""
    model, (inputs, targets) = problem()
    for _ in range(count):
        loss = nn.functional.cross_entropy(model(inputs), targets)
        torch.autograd.grad(loss, list(model.parameters()))
