"""Lattices without a matrix: the fused step beside CSR, SciPy, and three transfers of a block.

How whole densities grow with n is a part of its own, `speed_growth`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse as sp

from benchmarks.measuring.timing import Row, interleaved, row, seconds
from benchmarks.speed.kpm_baselines import doubled, scipy_step
from benchmarks.speed.settings import Settings
from benchmarks.speed.steps import fused
from specdens import Diagonals, Stencil
from specdens.testing import laplacian

CASES = [("float64", 8), ("float64", 32), ("float32", 8), ("float32", 32), ("complex128", 8)]
BOUNDS = (0.0, 12.0)

TRANSFERS = "no matrix: three transfers of a block"
SCIPY = "numpy + scipy.sparse"
TARGETS = [
    ("stencil", SCIPY, 5.0), ("stencil", "CSR, fused", 1.0), ("stencil", TRANSFERS, 2.0),
    ("diagonals", SCIPY, 5.0), ("diagonals", "CSR, fused", 1.0),
]  # fmt: skip


def rows(settings: Settings) -> list[Row]:
    """Time one step of the recurrence with its dot products, by all ways, in turn."""
    found = []
    for dtype, columns in CASES:
        side, n = settings.side, settings.n
        lattice, csr = stencil(side, dtype), laplacian(side, side, side).astype(dtype)
        by_scipy = scipy_step(doubled(csr, *BOUNDS))
        rng = np.random.default_rng(0)
        x, y = (rng.standard_normal((n, columns)).astype(dtype) for _ in range(2))
        spent = interleaved(
            {
                "stencil": fused(lattice, columns),
                "diagonals": fused(_diagonals(csr), columns),
                "CSR, fused": fused(csr, columns),
                SCIPY: seconds(lambda step=by_scipy, x=x, y=y: step(x, y)),
                TRANSFERS: fused(lattice, columns, product=False),
            },
            settings.repeats,
        )
        about = f"one step, 3-D lattice, n = {n:,}, R = {columns}, {dtype}"
        found += [
            row(
                f"{about}, {ours}", name, spent[ours], spent[name], target,
                at_most=name == TRANSFERS, repeats=settings.repeats,
            )
            for ours, name, target in TARGETS
        ]  # fmt: skip
    return found


def stencil(side: int, dtype: Any) -> Stencil:
    """Return the Laplacian of an open 3-D lattice."""
    near = {tuple(s * np.eye(3, dtype=int)[a]): -1.0 for s in (1, -1) for a in range(3)}
    return Stencil((side,) * 3, near | {(0, 0, 0): 6.0}, dtype=dtype)


def _diagonals(csr: Any) -> Diagonals:
    offsets = sp.dia_array(csr).offsets.tolist()
    return Diagonals([csr.diagonal(k) for k in offsets], offsets, shape=csr.shape)
