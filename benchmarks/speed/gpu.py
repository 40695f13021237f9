"""On a GPU: one fused step beside the speed of its memory and the library's products; whole calls.

python -m benchmarks.speed.gpu times the step with other shapes of programs, which are constants of
`specdens.kernels.gpu.triton_csr`.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch

import specdens
from benchmarks.measuring.timing import Job, Row, compared, seconds
from specdens.testing import laplacian

SIDES = (100, 215)
COLUMNS = (32, 64)
TIMES = 20
"""Steps a turn: their mean counts."""

REPEATS = 7
SHARE = 0.8
"""Of the bandwidth of a copy, that a step shall reach at least."""

BOUNDS = (0.0, 12.1)


def rows() -> list[Row]:
    """Compare steps, densities and log-determinants; one row that says so where there is no GPU."""
    if not torch.cuda.is_available():
        return [
            {"work": "GPU", "against": "–", "error": "no GPU", "skipped": "no GPU", "ratio": None,
             "target": None}
        ]  # fmt: skip
    found = []
    for side in SIDES:
        lattice = laplacian(side, side, side)
        for dtype, columns in itertools.product((np.float32, np.float64), COLUMNS):
            found += steps(on_gpu(lattice.astype(dtype)), columns)
    return found + calls(laplacian(SIDES[0], SIDES[0], SIDES[0]))


def steps(a: torch.Tensor, columns: int) -> list[Row]:
    """Compare a step with a copy of as many bytes, and with cuSPARSE and separate updates."""
    x = torch.randn((len(a), columns), dtype=a.dtype, device=a.device)
    y = torch.randn_like(x)
    step = specdens.aslinearoperator(a).recurrence(columns)
    assert step is not None
    size = a.values().numel() * (a.dtype.itemsize + 4) + 4 * len(a) + 3 * x.nbytes
    source, target = (torch.empty(size // 2, dtype=torch.int8, device=a.device) for _ in range(2))
    csr = a.to_sparse_csr()
    low, high = BOUNDS
    factor, shift = 2 / (high - low), (high + low) / (high - low)

    def apart() -> None:
        y.copy_(2 * ((csr @ x) * factor - shift * x) - y)
        (y.double() * y).sum(dim=0), (y.double() * x).sum(dim=0)

    others = {
        "copy of as many bytes": repeated(lambda: target.copy_(source)),
        "cuSPARSE, separate updates": repeated(apart),
    }
    ours = repeated(lambda: step(x, y, factor, -shift, -1.0))
    work = f"one step on {torch.cuda.get_device_name()}, n = {len(a):,}, R = {columns}, {a.dtype}"
    floor, library = others.items()
    return compared(
        work, ours, dict([floor]), {floor[0]: 1 / SHARE}, REPEATS, at_most=True, bytes=size
    ) + compared(work, ours, dict([library]), {}, REPEATS)


def calls(a: Any) -> list[Row]:
    """Compare whole calls with the same ones on the host."""
    shifted = sp.csr_array(a + sp.eye_array(a.shape[0]))
    jobs: dict[str, tuple[Any, Callable[[Any], object]]] = {
        "density of states, 256 moments x 32 vectors": (a, lambda m: specdens.density(
            m, moments=256, probes=32, bounds=BOUNDS, rng=0
        )),
        "log-det, 40 products x 32 vectors": (shifted, lambda m: specdens.logdet(
            m, method="lanczos", moments=80, probes=32, rng=0
        )),
    }  # fmt: skip
    found = []
    for name, (matrix, call) in jobs.items():
        there = on_gpu(matrix)
        work = f"{name}, n = {a.shape[0]:,}, float64, on a GPU"
        here = seconds(lambda call=call, matrix=matrix: call(matrix))
        ours = finished(lambda call=call, there=there: call(there))
        found += compared(work, ours, {"the same on the host": here}, {}, 3)
    return found


def on_gpu(a: Any) -> torch.Tensor:
    indices = np.array(a.tocoo().coords)
    return torch.sparse_coo_tensor(indices, a.tocoo().data, a.shape).coalesce().cuda()


def finished(work: Callable[[], object]) -> Job:
    """Return the job that does this work and waits for the GPU."""

    def job() -> float:
        torch.cuda.synchronize()
        started = time.perf_counter()
        work()
        torch.cuda.synchronize()
        return time.perf_counter() - started

    return job


def repeated(work: Callable[[], object]) -> Job:
    """Return the job that does this work some times; its seconds are those of one."""
    job = finished(lambda: [work() for _ in range(TIMES)])
    return lambda: job() / TIMES


def shapes() -> None:
    """Print the share of a copy's bandwidth that the step reaches, by the shape of programs."""
    from specdens.kernels.gpu import triton_csr as triton_step

    for dtype, columns in itertools.product((np.float32, np.float64), COLUMNS):
        a = on_gpu(laplacian(SIDES[-1], SIDES[-1], SIDES[-1]).astype(dtype))
        for warps, unrolled, chunk in itertools.product((4, 8, 16), (2, 4, 8), (128, 512, 2048)):
            triton_step.WARPS, triton_step.UNROLLED = warps, unrolled
            triton_step.LONGEST_CHUNK = chunk
            share = 1 / steps(a, columns)[0]["ratio"]
            print(f"{a.dtype} R={columns} {warps=} {unrolled=} {chunk=}: {share:.2f}", flush=True)


if __name__ == "__main__":
    shapes() if torch.cuda.is_available() else print("no GPU")
