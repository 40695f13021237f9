"""Matrices whose columns lie far apart: random and power-law graphs, a shuffled lattice, sorted."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.sparse import coo_array, csr_array, diags_array
from scipy.sparse.csgraph import reverse_cuthill_mckee

import specdens
from benchmarks.measuring.timing import Job, Row, compared, seconds
from benchmarks.speed.kpm_baselines import (
    doubled,
    scipy_moments,
    scipy_step,
    torch_matrix,
    torch_moments,
    torch_step,
)
from benchmarks.speed.memory_floor import step_bytes, streaming
from benchmarks.speed.settings import Settings
from benchmarks.speed.steps import fused
from specdens.testing import laplacian

COLUMNS = 8
MOMENTS, PROBES = 64, 10
LINKS = 8
"""Edges for each node: twice as many entries a row."""


def rows(settings: Settings) -> list[Row]:
    """Compare one step and whole densities with SciPy and Torch."""
    found = []
    for name, (a, bounds) in matrices(settings).items():
        about = f"{name}, n = {a.shape[0]:,}, nnz = {a.nnz:,}, float64"
        floor = streaming(step_bytes(a.shape[0], a.nnz, COLUMNS, 8))
        steps = _steps(a, bounds) | {"memory floor": floor}
        found += compared(
            f"one step, R = {COLUMNS}, {about}", fused(a, COLUMNS, bounds), steps,
            {"numpy + scipy.sparse": 3, "torch CSR": 3}, settings.repeats,
            at_most=("memory floor",),
        )  # fmt: skip
        found += compared(
            f"density, {MOMENTS} moments, {PROBES} vectors, {about}",
            seconds(lambda a=a, bounds=bounds: specdens.density(
                a, moments=MOMENTS, probes=PROBES, bounds=bounds, rng=0
            )),
            {
                "numpy + scipy.sparse": seconds(
                    lambda a=a, bounds=bounds: scipy_moments(a, MOMENTS, PROBES, bounds)
                ),
                "torch CSR": seconds(
                    lambda a=a, bounds=bounds: torch_moments(a, MOMENTS, PROBES, bounds)
                ),
            },
            {"numpy + scipy.sparse": 3, "torch CSR": 3}, settings.few,
        )  # fmt: skip
    return found


def matrices(settings: Settings) -> dict[str, tuple[Any, tuple[float, float]]]:
    """Return each matrix with an interval that holds its spectrum."""
    n, side = settings.n, settings.side
    rng = np.random.default_rng(0)
    lattice = laplacian(side, side, side)
    order = rng.permutation(n)
    shuffled = csr_array(lattice[order][:, order])
    again = reverse_cuthill_mckee(shuffled, symmetric_mode=True)
    return {
        "Erdős-Rényi graph": (normalized(rng.integers(n, size=(2, LINKS * n)), n), (-1, 1)),
        "power-law graph": (normalized(power_law(n, rng), n), (-1, 1)),
        "shuffled 3-D lattice": (shuffled, (0, 12)),
        "shuffled 3-D lattice, after RCM": (csr_array(shuffled[again][:, again]), (0, 12)),
    }


def power_law(n: int, rng: np.random.Generator) -> Any:
    """Return edges whose ends have weights ``i^(-2/3)``: degrees fall like ``k^(-5/2)``."""
    ends = (n * rng.random((2, LINKS * n)) ** 3).astype(np.int64)
    return rng.permutation(n)[ends]


def normalized(edges: Any, n: int) -> Any:
    """Return ``D^(-1/2) W D^(-1/2)`` of a graph, with spectrum in [-1, 1]."""
    w = csr_array(coo_array((np.ones(edges.shape[1]), tuple(edges)), shape=(n, n)))
    w = w + w.T
    scale = diags_array(1 / np.sqrt(np.maximum(w.sum(axis=1), 1)))
    a = csr_array(scale @ w @ scale)
    a.sort_indices()
    return csr_array((a.data, a.indices.astype(np.int32), a.indptr.astype(np.int32)), a.shape)


def _steps(a: Any, bounds: tuple[float, float]) -> dict[str, Job]:
    import torch

    twice = doubled(a, *bounds)
    x, y = (np.random.default_rng(k).standard_normal((a.shape[0], COLUMNS)) for k in range(2))
    by_scipy, by_torch = scipy_step(twice), torch_step(torch_matrix(twice))
    xt, yt = torch.from_numpy(x), torch.from_numpy(y)
    return {
        "numpy + scipy.sparse": seconds(lambda: by_scipy(x, y)),
        "torch CSR": seconds(lambda: by_torch(xt, yt)),
    }
