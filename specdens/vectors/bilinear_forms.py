r"""``<l| g(A) |r>`` for many vectors on both sides: poles from Lanczos, moments from Chebyshev.

Lanczos from r: with ``T = S diag(theta) S^T`` and the overlaps of l with the basis, the resolvent
is a sum over poles. What is big stays where A lives: only overlaps come to the host.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from specdens.arrays.libraries import (
    Array,
    adjoint,
    column_dots,
    eps,
    is_complex,
    namespace,
    to_host,
)
from specdens.operators.linear_operator import LinearOperator
from specdens.recurrences.chebyshev_moments import EscapeError, chebyshev_vectors
from specdens.recurrences.lanczos import Tridiagonal, assembled, lanczos_steps
from specdens.results import UNBOUNDED, SpectralBounds
from specdens.vectors.apply_function import in_blocks

__all__ = [
    "Found",
    "Pairs",
    "distance_from",
    "largest",
    "overlaps",
    "pair_moments",
    "resolvent_by_poles",
    "sum_of_poles",
]

Host: TypeAlias = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Pairs:
    """The vectors, the scale ``|l| |r|`` of the values, and which pairs are equal.

    Attributes
    ----------
    left, right : array, shape (n, L), (n, R)
    scale : ndarray, shape (L, R)
    equal : ndarray of bool, shape (L, R)
    same : bool
        Whether the two blocks are one.
    axes : tuple of int
        Of a result.
    """

    left: Array
    right: Array
    scale: Host
    equal: Host
    same: bool
    axes: tuple[int, ...]


@dataclass(frozen=True)
class Found:
    """Values and errors, shape (Z, L, R)."""

    values: Host
    errors: Host
    distance: Host
    rigorous: bool
    steps: int
    escaped: bool = False


def distance_from(z: Host, low: float, high: float) -> Host:
    """Return the distance of points from an interval."""
    beyond = np.maximum(np.maximum(low - z.real, z.real - high), 0.0)
    return np.asarray(np.hypot(beyond, z.imag))


def largest(task: Pairs, distance: Host) -> Host:
    """Return ``|l| |r| / dist(z)``: the most that a value can be."""
    with np.errstate(divide="ignore", invalid="ignore"):
        most = task.scale[None, :, :] / distance[:, None, None]
    return np.where(np.isfinite(most), most, 0.0)


def overlaps(vectors: Array, block: Array) -> Host:
    """Return ``vectors^H block`` in double precision: a small matrix, on the host."""
    xp = namespace(vectors, block)
    dtype = xp.complex128 if is_complex(vectors) or is_complex(block) else xp.float64
    a, b = xp.astype(vectors, dtype), xp.astype(block, dtype)
    return to_host(adjoint(a) @ b)


def sum_of_poles(z: Host, poles: Host, weights: Host) -> Host:
    """Return ``sum_k w_lrk / (z - x_k)``, shape (Z, L, R), some points at a time."""
    flat = weights.reshape(-1, weights.shape[-1]).T
    chunks = np.array_split(z, 1 + len(z) // 256)
    sums = [(1 / (chunk[:, None] - poles[None, :])) @ flat for chunk in chunks]
    return np.concatenate(sums).reshape(len(z), *weights.shape[:-1])


def resolvent_by_poles(
    op: LinearOperator, task: Pairs, z: Host, steps: int, rtol: float, known: SpectralBounds
) -> Found:
    """Run Lanczos from all right vectors, until the bound of the error is small enough."""
    parts, start = [], 0
    for block in in_blocks(task.right):
        columns = slice(start, start + block.shape[1])
        part = Pairs(
            task.left, block, task.scale[:, columns], task.equal[:, columns], False, task.axes
        )
        parts.append(_run(op, part, z, steps, rtol, known))
        start = columns.stop
    return Found(
        np.concatenate([part.values for part in parts], axis=2),
        np.concatenate([part.errors for part in parts], axis=2),
        np.min([part.distance for part in parts], axis=0),
        all(part.rigorous for part in parts),
        max(part.steps for part in parts),
        any(part.escaped for part in parts),
    )


def _run(
    op: LinearOperator, task: Pairs, z: Host, steps: int, rtol: float, known: SpectralBounds
) -> Found:
    alphas: list[Host] = []
    betas: list[Host] = []
    table: list[Host] = []
    unit, check = eps(task.right), 16
    for step in lanczos_steps(op, task.right, steps):
        alphas.append(step.alpha)
        betas.append(step.beta)
        table.append(overlaps(task.left, step.q))
        if len(alphas) == check:
            check += max(8, check // 4)
            found = _from_factors(task, assembled(alphas, betas), table, z, known, unit)
            if np.all(found.errors <= rtol * largest(task, found.distance)):
                return found
    return _from_factors(task, assembled(alphas, betas), table, z, known, unit)


def _from_factors(
    task: Pairs,
    factors: list[Tridiagonal],
    rows: list[Host],
    z: Host,
    known: SpectralBounds,
    unit: float,
) -> Found:
    """Return values and errors after the steps so far."""
    table = np.stack(rows)  # (m, L, R)
    norms = np.sqrt(np.real(column_dots(task.right, task.right)))
    # For equal vectors that is the first unit vector: the basis need not stay orthogonal then.
    first = (np.arange(len(table)) == 0)[:, None, None] * norms
    table = np.where(task.equal, first, table)
    pairs = [_eigen(factor) for factor in factors]
    low = min(float(values[0]) for values, _ in pairs)
    high = max(float(values[-1]) for values, _ in pairs)
    noise = 1000 * unit * max(abs(low), abs(high))
    escaped = low < known.low - noise or high > known.high + noise
    known = UNBOUNDED if escaped else known
    # Without an end that is known the distance is that from the real axis.
    distance = distance_from(z, known.low, known.high)
    rigorous = bool(np.all(distance > 0))
    if not rigorous:
        nearest = [np.abs(z[:, None] - values[None, :]).min(axis=1) for values, _ in pairs]
        distance = np.where(distance > 0, distance, np.min(nearest, axis=0) / 2)
    rounding = 10 * unit * max(abs(low), abs(high)) / distance
    values: list[Host] = []
    errors: list[Host] = []
    for r, (factor, (theta, s)) in enumerate(zip(factors, pairs, strict=True)):
        m = len(theta)
        weights = norms[r] * (table[:m, :, r].T @ s) * s[0]
        with np.errstate(divide="ignore", invalid="ignore"):
            values.append(sum_of_poles(z, theta, weights))
            corner = sum_of_poles(z, theta, s[-1] * s[0])
        residual = factor.residual * np.abs(corner)[:, None]
        # For equal vectors the error is a product of two residuals (Galerkin).
        off = np.where(task.equal[:, r], np.minimum(residual, residual**2), residual)
        errors.append((off + rounding[:, None]) / distance[:, None] * task.scale[:, r])
    found: Host = np.stack(values, axis=2)
    error: Host = np.where(np.isfinite(found), np.stack(errors, axis=2), np.inf)
    return Found(found, error, distance, rigorous, len(table), escaped)


def _eigen(factor: Tridiagonal) -> tuple[Host, Host]:
    from scipy.linalg import eigh_tridiagonal

    if len(factor.diagonal) == 1:
        return factor.diagonal, np.ones((1, 1))
    values, vectors = eigh_tridiagonal(factor.diagonal, factor.off_diagonal)
    return values, vectors


def pair_moments(
    op: LinearOperator, task: Pairs, count: int, interval: SpectralBounds
) -> tuple[Host, int]:
    """Return ``<l| T_k |r>``, shape (count, L, R), and the products with each right vector.

    For one block on both sides, ``2 T_j T_k = T_(j+k) + T_(j-k)`` gives two moments a product.

    Raises
    ------
    EscapeError
        If a moment exceeds ``|l| |r|``.
    """
    tolerance = 1 + (1000 + 10 * math.sqrt(op.shape[0])) * eps(task.right)
    table: list[Host] = []
    previous: Array = None
    for k, v in enumerate(chebyshev_vectors(op, task.right, *interval)):
        if k == 0 or not task.same:
            table.append(overlaps(task.left, v))
        else:
            odd = overlaps(previous, v)
            table.append(odd if k == 1 else 2 * odd - table[1])
            table.append(2 * overlaps(v, v) - table[0])
        if not np.all(np.abs(table[-1]) <= tolerance * task.scale):
            msg = f"moment {len(table)} exceeds |l| |r|: the spectrum is not inside {interval}."
            raise EscapeError(msg)
        if len(table) >= count:
            break
        previous = v
    return np.stack(table[:count]), k
