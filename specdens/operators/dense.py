"""Dense arrays as operators."""

from __future__ import annotations

import math
import warnings
from functools import cached_property, partial
from typing import Any, NamedTuple

import numpy as np

from specdens.arrays.libraries import (
    Array,
    device,
    matmul,
    namespace,
    result_dtype,
    working_dtype,
)
from specdens.kernels.compiled import kernel
from specdens.operators.explicit import LEAST_ENTRIES, ExplicitOperator, sum_of_squares
from specdens.operators.linear_operator import Step
from specdens.results import AccuracyWarning

__all__ = ["DenseOperator"]

VECTOR = 64
"""Bytes: the columns of a block fill so many, and up to four times as many, in compiled products
with a dense matrix."""

SQUARABLE = (1e-140, 1e140)
"""Largest moduli of matrices whose squared entries can be added up as they are."""

ROWS_AT_ONCE = 2**24
"""Entries that a reduction looks at in one go: its temporaries stay small."""


class EntryStatistics(NamedTuple):
    """What one pass over a real square matrix tells.

    Attributes
    ----------
    largest, sums : ndarray of float64, shape (n,)
        Largest modulus and sum of moduli of each row.
    squares : float
        The sum of all squared entries.
    deviation : float
        ``max |A - A^T|``.
    """

    largest: np.ndarray[Any, Any]
    sums: np.ndarray[Any, Any]
    squares: float
    deviation: float


class DenseOperator(ExplicitOperator):
    """A dense array."""

    def __init__(self, a: Array, compute_dtype: Any = None) -> None:
        xp = namespace(a)
        self.original = a
        _warn_of_long_integers(xp, a)
        self.array = xp.astype(a, working_dtype(xp, a.dtype, compute_dtype), copy=False)
        super().__init__(
            tuple(a.shape), dtype=self.array.dtype, xp=xp, device=device(a),
            result_dtype=result_dtype(xp, a.dtype),
        )  # fmt: skip
        self.hermitian = None
        self.widths = tuple(VECTOR // self.itemsize * k for k in (1, 2, 3, 4))

    def recurrence(self, columns: int) -> Step | None:
        """Return the compiled step of a real matrix of NumPy that is worth starting it."""
        a = self._in_rows
        step = None if a is None else kernel("cpu.dense_step", "dense_step")
        return None if step is None else partial(step, a)

    @property
    def _in_rows(self) -> np.ndarray[Any, Any] | None:
        """The matrix or its transpose, by rows in memory, if compiled code is for it."""
        a = self.array
        if not isinstance(a, np.ndarray) or np.iscomplexobj(a) or not a.flags.forc:
            return None
        if a.shape[0] != a.shape[1] or a.size < max(1, LEAST_ENTRIES):
            return None
        return a if a.flags.c_contiguous else a.T

    @cached_property
    def _statistics(self) -> EntryStatistics | None:
        """What compiled code tells of the entries, where that is to be had."""
        a = self._in_rows
        look = None if a is None else kernel("cpu.dense_statistics", "entry_statistics")
        if look is None:
            return None
        found = EntryStatistics(*look(a))
        # Sums over columns are not those over rows.
        return found if a is self.array or found.deviation == 0 else None

    def _matmat(self, x: Array) -> Array:
        return matmul(self.array, x)

    def _rmatmat(self, x: Array) -> Array:
        xp = self.xp
        transposed = xp.matrix_transpose(self.array)
        if not xp.isdtype(self.dtype, "complex floating"):
            return matmul(transposed, x)
        return xp.conj(matmul(transposed, xp.conj(x)))

    def values(self) -> Array:
        """Return the entries."""
        return self.array

    def diagonal(self) -> Array:
        """Return the diagonal."""
        return self.xp.linalg.diagonal(self.array)

    def _row_ranges(self) -> list[slice]:
        rows, columns = self.shape
        step = max(1, ROWS_AT_ONCE // max(1, columns))
        return [slice(i, min(i + step, rows)) for i in range(0, rows, step)]

    def _portions(self) -> list[Array]:
        return [self.array[rows, :] for rows in self._row_ranges()]

    @cached_property
    def largest(self) -> float:
        """``max |a_ij|``, 0 for an empty matrix; NaN or infinite if an entry is."""
        found = self._statistics
        return super().largest if found is None else float(found.largest.max())

    @cached_property
    def _frobenius_norm(self) -> float:
        found = self._statistics
        if found is None or not SQUARABLE[0] < self.largest < SQUARABLE[1]:
            return super()._frobenius_norm
        return math.sqrt(found.squares)

    def _off_diagonal_squares(self) -> float:
        xp, total = self.xp, 0.0
        columns = xp.arange(self.shape[1], device=self.device)
        for rows in self._row_ranges():
            beside = columns[None, :] != columns[rows, None]
            block = self.array[rows, :]
            total += sum_of_squares(xp, xp.where(beside, block, xp.zeros_like(block)))
        return total

    def absolute_row_sums(self) -> Array:
        """Return the sums of moduli over rows."""
        if self._statistics is not None:
            return self._statistics.sums
        xp = self.xp
        blocks = [xp.abs(self.array[rows, :]) for rows in self._row_ranges()]
        return xp.concat([xp.sum(block, axis=1, dtype=xp.float64) for block in blocks])

    def asymmetry(self) -> float:
        """Return the largest deviation from the adjoint."""
        if self._statistics is not None:
            return self._statistics.deviation
        return max(float(self.xp.max(self._deviations(rows))) for rows in self._row_ranges())

    def equals_adjoint(self, tolerance: float) -> bool:
        """Whether no entry differs from its mirror by more than a share of both its rows."""
        deviation, found = self.asymmetry(), self._statistics
        if deviation == 0 or (
            found is not None and deviation <= tolerance * float(found.largest.min())
        ):
            return True
        if deviation > tolerance * self.largest:
            return False
        xp = self.xp
        largest = xp.concat([
            xp.max(xp.abs(self.array[rows, :]), axis=1) for rows in self._row_ranges()
        ])
        return all(
            bool(
                xp.all(
                    self._deviations(rows)
                    <= tolerance * xp.minimum(largest[rows, None], largest[None, :])
                )
            )
            for rows in self._row_ranges()
        )

    def _deviations(self, rows: slice) -> Array:
        """Return ``|A - A^H|`` in some rows."""
        mirror = self.xp.matrix_transpose(self.array[:, rows])
        if self.xp.isdtype(self.dtype, "complex floating"):
            mirror = self.xp.conj(mirror)
        return self.xp.abs(self.array[rows, :] - mirror)

    def dense(self) -> Array:
        """Return the array in double precision, cast from what was given."""
        return self._double(self.original)


def _warn_of_long_integers(xp: Any, a: Array) -> None:
    """Warn of integers that double precision cannot hold."""
    if 0 in a.shape or not xp.isdtype(a.dtype, "integral") or xp.iinfo(a.dtype).bits < 64:
        return
    if int(xp.max(a)) > 2**53 or int(xp.min(a)) < -(2**53):
        msg = "A has integers beyond 2**53, which are rounded to double precision. Scale A first."
        warnings.warn(msg, AccuracyWarning, stacklevel=4)
