"""``f(A)`` times a block for Hermitian A, by Lanczos from each column."""

from __future__ import annotations

from typing import Any

import numpy as np

from specdens._arrays import Array, column_dots
from specdens.linear_operator import LinearOperator
from specdens.scalar_functions import ScalarFunction

__all__ = ["function_times"]


def function_times(
    op: LinearOperator, f: ScalarFunction, block: Array, steps: int
) -> tuple[Array, np.ndarray[Any, Any]]:
    """Return ``f(op) block`` after so many Lanczos steps, and the error norm of each column.

    The basis of one column is kept. The error is what the last step changed.
    """
    columns = [_times(op, f, block[:, r : r + 1], steps) for r in range(block.shape[1])]
    found = op.xp.concat([column for column, _ in columns], axis=1)
    return found, np.array([error for _, error in columns])


def _times(op: LinearOperator, f: ScalarFunction, start: Array, steps: int) -> tuple[Array, float]:
    norm = _norm(start)
    if norm == 0:
        return 0 * start, 0.0
    basis, alpha, beta, size = [start / norm], [], [], 0.0
    for step in range(min(steps, op.shape[0])):
        w = op.matmat(basis[-1])
        alpha.append(float(np.real(column_dots(basis[-1], w))[0]))
        for q in basis * 2:
            w = w - q * op.xp.asarray(column_dots(q, w), dtype=w.dtype, device=op.device)[None, :]
        length = _norm(w)
        size = max(size, abs(alpha[-1]) + length)
        if step + 1 == min(steps, op.shape[0]) or length <= 1e-14 * size:
            break
        beta.append(length)
        basis.append(w / length)
    c = _first_column(f, alpha, beta)
    before = np.append(_first_column(f, alpha[:-1], beta[:-1]), 0) if beta else c
    total = 0 * start
    for q, weight in zip(basis, norm * c, strict=True):
        total = total + q * weight.item()
    return total, norm * float(np.linalg.norm(c - before))


def _first_column(f: ScalarFunction, alpha: list[float], beta: list[float]) -> Any:
    t = np.diag(alpha) + np.diag(beta, 1) + np.diag(beta, -1)
    values, vectors = np.linalg.eigh(t)
    return vectors @ (f.on_host(values) * vectors[0])


def _norm(x: Array) -> float:
    return float(np.sqrt(np.real(column_dots(x, x))[0]))
