"""The kernel polynomial method as one writes it with NumPy and SciPy, or with Torch.

Blocks of vectors, two moments a product, the matrix scaled beforehand, updates in place: as fast as
these libraries do it by their public functions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
from scipy.sparse import csr_array, eye_array

__all__ = ["scipy_moments", "scipy_step", "torch_matrix", "torch_moments", "torch_step"]

Step: TypeAlias = Callable[[Any, Any], tuple[Any, Any, Any]]
"""From x and y (which it may overwrite): ``2 B x - y``, its squares, and its products with x."""


def doubled(a: Any, low: float, high: float) -> Any:
    """Return 2 B, where B is A with its interval mapped to [-1, 1]."""
    center, half = (high + low) / 2, (high - low) / 2
    return csr_array((a - center * eye_array(a.shape[0])) * (2 / half)).astype(a.dtype)


def signs(n: int, probes: int, seed: int, dtype: Any) -> Any:
    """Return random signs."""
    bits = np.random.default_rng(seed).integers(2, size=(n, probes), dtype=np.int8)
    return (1 - 2 * bits).astype(dtype)


def scipy_step(twice: Any) -> Step:
    """Return a step by SciPy, whose product has one thread."""

    def step(x: Any, y: Any) -> tuple[Any, Any, Any]:
        new = twice @ x
        new -= y
        return new, np.einsum("ij,ij->j", new.conj(), new), np.einsum("ij,ij->j", new.conj(), x)

    return step


def torch_matrix(twice: Any) -> Any:
    """Return a SciPy matrix as Torch's CSR."""
    import warnings

    import torch

    warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
    parts = (torch.from_numpy(part) for part in (twice.indptr, twice.indices, twice.data))
    return torch.sparse_csr_tensor(*parts, size=twice.shape, check_invariants=False)


def torch_step(twice: Any) -> Step:
    """Return a step by Torch, with all threads."""
    import torch

    def step(x: Any, y: Any) -> tuple[Any, Any, Any]:
        new = torch.addmm(y, twice, x, beta=-1)
        return new, torch.linalg.vecdot(new, new, dim=0), torch.linalg.vecdot(new, x, dim=0)

    return step


def moments(step: Step, start: Any, count: int) -> list[Any]:
    """Return the mean Chebyshev moments of the columns, two for each step."""
    previous = start
    current, squares, mixed = step(start, 0 * start)  # 2 B v: B v is half of it
    current, squares, mixed = current / 2, squares / 4, mixed / 2
    mass, first = len(start), mixed
    table = [mass, first]
    while len(table) < count:
        table.append(2 * squares - mass)
        if len(table) < count:
            following, squares, mixed = step(current, previous)
            previous, current = current, following
            table.append(2 * mixed - first)
    return [np.mean(np.asarray(row)) / mass for row in table]


def scipy_moments(
    a: Any, count: int, probes: int, bounds: tuple[float, float], seed: int = 0
) -> list[Any]:
    """Return the moments of a symmetric CSR matrix by NumPy and SciPy."""
    start = signs(a.shape[0], probes, seed, a.dtype)
    return moments(scipy_step(doubled(a, *bounds)), start, count)


def torch_moments(
    a: Any, count: int, probes: int, bounds: tuple[float, float], seed: int = 0
) -> list[Any]:
    """Return the moments of a symmetric CSR matrix by Torch."""
    import torch

    start = torch.from_numpy(signs(a.shape[0], probes, seed, a.dtype))
    return moments(torch_step(torch_matrix(doubled(a, *bounds))), start, count)
