"""Stacks of matrices, shape (..., n, n): one call, with the results of one call for each.

Small matrices are factored together. All of a stack get the same probes, so that the differences
between its results are less noisy than the results.
"""

from __future__ import annotations

import cmath
import math
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from specdens.arrays.libraries import (
    Array,
    adjoint,
    as_dense,
    device,
    eps,
    is_array,
    is_complex,
    namespace,
    result_dtype,
    to_host,
    working_dtype,
)
from specdens.operators.hermitian import asymmetry_tolerance
from specdens.results import AccuracyWarning, Estimate, doubt

__all__ = ["Answers", "Stack", "over_stack", "prepared", "stack_of"]

Host: TypeAlias = np.ndarray[Any, Any]

Answers: TypeAlias = tuple[tuple[Array, ...], list[Estimate]]
"""For B matrices: arrays of shape (B,), and what the estimates say of themselves."""

TOGETHER_UP_TO = 256
"""Order up to which one factorisation takes less time than what surrounds it."""

ENTRIES_TOGETHER = 2**22
"""Entries of the matrices that are factored together: their copies stay small."""


def stack_of(A: Any) -> Array | None:
    """Return A as an array if it has more than two dimensions, else None."""
    if isinstance(A, (list, tuple)):
        A = np.asarray(A)
    return A if is_array(A) and A.ndim > 2 else None


def over_stack(
    stack: Array,
    one: Callable[[Array], tuple[tuple[Array, ...], Estimate]],
    together: Callable[[Array], Answers | None],
    advice: str,
    *,
    stacklevel: int,
) -> tuple[Any, Any]:
    """Return the results for each matrix, and an object array of estimates; warn once of doubt.

    Parameters
    ----------
    stack : array, shape (..., n, n)
    one : callable
        Gives the 0-d results and the estimate of one matrix.
    together : callable
        Gives those of many, shape (B, n, n), or None where they must be looked at one by one.
    advice : str
        What to do about an estimate that has not converged.
    """
    xp, shape = namespace(stack), tuple(stack.shape[:-2])
    n = stack.shape[-1]
    if stack.shape[-2] != n:
        msg = (
            f"A has shape {tuple(stack.shape)}; expected square matrices, shape (..., n, n). "
            "For a rectangular one, logpdet(A) gives the sum of log singular values."
        )
        raise ValueError(msg)
    count = math.prod(shape)
    if count == 0:
        nothing, _ = one(xp.zeros((0, 0), dtype=stack.dtype, device=device(stack)))
        empty = (xp.zeros(shape, dtype=x.dtype, device=device(stack)) for x in nothing)
        return tuple(empty), np.empty(shape, dtype=object)
    flat = xp.reshape(stack, (count, n, n))
    small = 0 < n <= TOGETHER_UP_TO
    size = max(1, ENTRIES_TOGETHER // n**2) if small else count
    columns: list[tuple[Array, ...]] = []
    estimates: list[Estimate] = []
    for first in range(0, count, size):
        some = flat[first : min(first + size, count), :, :]
        found = together(some) if small else None
        if found is None:
            places = (np.unravel_index(first + i, shape) for i in range(some.shape[0]))
            found = _one_by_one(some, one, places)
        columns.append(found[0])
        estimates += found[1]
    results = tuple(xp.reshape(xp.concat(list(c)), shape) for c in zip(*columns, strict=True))
    infos = np.empty(count, dtype=object)
    infos[:] = estimates
    infos = infos.reshape(shape)
    _warn_once(infos, advice, stacklevel=stacklevel + 1)
    return results, infos


def _one_by_one(
    some: Array,
    one: Callable[[Array], tuple[tuple[Array, ...], Estimate]],
    places: Iterable[tuple[Any, ...]],
) -> Answers:
    xp = namespace(some)
    rows, estimates = [], []
    for matrix, place in zip(xp.unstack(some), places, strict=True):
        try:
            values, estimate = one(matrix)
        except ValueError as error:
            msg = f"{_name(place)}: {error}"
            raise ValueError(msg) from error
        rows.append(values)
        estimates.append(estimate)
    return tuple(xp.stack(column) for column in zip(*rows, strict=True)), estimates


def _name(place: tuple[Any, ...]) -> str:
    return f"A[{', '.join(str(int(i)) for i in place)}]"


def _warn_once(infos: Any, advice: str, *, stacklevel: int) -> None:
    doubtful = [place for place in np.ndindex(infos.shape) if not infos[place].converged]
    if not doubtful:
        return
    first = doubtful[0]
    count = f"{len(doubtful)} of {infos.size} results are doubtful"
    msg = f"{count}; the first is {_name(first)}: {doubt(infos[first], advice)}"
    warnings.warn(msg, AccuracyWarning, stacklevel=stacklevel + 1)


@dataclass(frozen=True)
class Stack:
    """Matrices to be factored together.

    Attributes
    ----------
    matrices : array, shape (B, n, n)
        ``A + shift I`` in double precision.
    hermitian : ndarray of bool, shape (B,)
    dtype
        The real dtype of results.
    """

    matrices: Array
    hermitian: Host
    dtype: Any

    def results(self, values: Sequence[complex], *, complex_: bool = False) -> Array:
        """Return numbers as an array of the matrices' library, device and precision."""
        xp, dtype = namespace(self.matrices), self.dtype
        if complex_:
            dtype = xp.complex64 if dtype == xp.float32 else xp.complex128
        return xp.asarray(list(values), dtype=dtype, device=device(self.matrices))


def prepared(some: Array, *, shift: complex = 0.0, hermitian: bool | None = None) -> Stack | None:
    """Look at matrices of shape (B, n, n) as `preparation.prepare` does at one.

    Return None where that would raise an error, which is to name the matrix.
    """
    xp, a = namespace(some), as_dense(some)
    a = xp.astype(a, working_dtype(xp, a.dtype), copy=False)
    largest = to_host(xp.max(xp.abs(a), axis=(1, 2)))
    if not np.all(np.isfinite(largest)) or not cmath.isfinite(shift):
        return None
    asymmetry = to_host(xp.max(xp.abs(a - adjoint(a)), axis=(1, 2)))
    found = asymmetry <= asymmetry_tolerance(eps(a), a.shape[-1]) * largest
    if hermitian is not None:
        if hermitian and not np.all(found):
            return None
        found = np.full(len(found), hermitian)
    turned = bool(complex(shift).imag)
    wide = xp.complex128 if turned or is_complex(a) else xp.float64
    double = xp.astype(as_dense(some), wide)
    if shift:
        shift = complex(shift) if turned else complex(shift).real
        double = double + shift * xp.eye(a.shape[-1], dtype=wide, device=device(a))
    return Stack(double, found & (not turned), result_dtype(xp, some.dtype))
