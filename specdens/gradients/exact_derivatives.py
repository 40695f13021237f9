"""Derivatives ``f'(A)`` where A is factored: dense, or on the pattern of a sparse matrix."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from specdens.arrays.libraries import to_host
from specdens.exact.factorizations import dense_of
from specdens.gradients.histories import (
    SparseEntries,
    Tensor,
    entries_of,
    has_entries,
    with_history,
)
from specdens.gradients.links import linked, of_product, recomputed, with_shift
from specdens.problem.prepare import Problem
from specdens.scalar_functions import LOG, LOG_ABS, ScalarFunction

__all__ = ["exact_derivative", "plus_shift", "require_derivative", "slope_of"]


def exact_derivative(value: Tensor, problem: Problem, f: ScalarFunction, shift: Any) -> Tensor:
    """Link a value to the entries of A, or to the products that form it."""
    op = problem.op
    if not has_entries(op):
        live = with_history(op)
        product = recomputed(lambda: plus_shift(live.columns(), shift))
        return of_product(value, lambda: _derivative(problem, f), product, op)
    entries = entries_of(op)
    tensors, chosen = with_shift(entries.live, shift)

    def derivatives() -> list[Tensor]:
        if isinstance(entries, SparseEntries) and is_log(f):
            found = _inverse_on_pattern(problem, entries)
            if found is not None:
                return chosen(*found)
        whole = _derivative(problem, f)
        return chosen(entries.of(whole), whole.diagonal().sum())

    return linked(value, derivatives, tensors, tensors)


def is_log(f: ScalarFunction) -> bool:
    return f is LOG or f is LOG_ABS


def plus_shift(a: Tensor, shift: Any) -> Tensor:
    """Return ``A + shift I``, of one matrix or a stack."""
    torch = sys.modules["torch"]
    return a + shift * torch.eye(a.shape[-1], dtype=a.dtype, device=a.device)


def _derivative(problem: Problem, f: ScalarFunction) -> Tensor:
    """Return ``f'(A + shift I)^H`` as a dense matrix."""
    shift = problem.shift if complex(problem.shift).imag else problem.real_shift
    return slope_of(dense_of(problem.op, shift), f)


def slope_of(a: Tensor, f: ScalarFunction) -> Tensor:
    """Return ``f'(A)^H`` of one matrix or a stack; for log of any sign, of any square A."""
    torch = sys.modules["torch"]
    if is_log(f):
        return torch.linalg.inv(a).mH
    values, vectors = torch.linalg.eigh(a)
    slopes = f.prime().on_host(to_host(values))
    require_derivative(slopes, f)
    slopes = torch.asarray(slopes, device=a.device).to(vectors.dtype)
    return (vectors * slopes[..., None, :]) @ vectors.mH


def require_derivative(slopes: Any, f: ScalarFunction) -> None:
    """Raise a ValueError where f is not differentiable."""
    if not np.all(np.isfinite(slopes)):
        msg = (
            f"the derivative of {f.name} is infinite at an eigenvalue of A (0, up to rounding): "
            "tr f(A) is not differentiable there. Add a shift."
        )
        raise ValueError(msg)


INVERSE_COLUMNS = 64


def _inverse_on_pattern(problem: Problem, entries: SparseEntries) -> tuple[Tensor, Tensor] | None:
    """Return the entries of ``A^-H`` where A has some, and its trace; None on a GPU.

    By n solves with the sparse factors, a few columns of the inverse at a time.
    """
    from scipy.sparse import diags_array
    from scipy.sparse.linalg import splu

    matrix = entries.op.csc_on_host()
    if matrix is None:
        return None
    n = problem.n
    lu: Any = splu((matrix + diags_array(np.full(n, problem.shift))).tocsc())
    torch = sys.modules["torch"]
    rows, columns = entries.rows.numpy(), entries.columns.numpy()
    order = np.argsort(columns, kind="stable")
    starts = np.searchsorted(columns[order], np.arange(0, n + INVERSE_COLUMNS, INVERSE_COLUMNS))
    found = np.empty(len(order), lu.U.dtype)
    diagonal = np.empty(n, lu.U.dtype)
    for block, first in enumerate(range(0, n, INVERSE_COLUMNS)):
        width = min(INVERSE_COLUMNS, n - first)
        units = np.zeros((n, width), lu.U.dtype)
        units[np.arange(first, first + width), np.arange(width)] = 1
        solved = lu.solve(units, trans="H")
        here = order[starts[block] : starts[block + 1]]
        found[here] = solved[rows[here], columns[here] - first]
        diagonal[first : first + width] = solved[np.arange(first, first + width), np.arange(width)]
    return torch.asarray(found), torch.asarray(diagonal.sum())
