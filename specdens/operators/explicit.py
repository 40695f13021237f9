"""Matrices whose entries are at hand, as `LinearOperator`s: what entries tell costs no product."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np

from specdens.arrays.libraries import Array, is_complex, power_of_two
from specdens.operators.linear_operator import LinearOperator
from specdens.operators.power_traces import PowerTraces, is_far

__all__ = [
    "LEAST_ENTRIES",
    "RANGE",
    "SQUARE_FLOPS",
    "ExplicitOperator",
    "source_of",
    "sum_of_squares",
]

SQUARE_FLOPS = 32
"""Multiplications in A^2, as a multiple of A's entries, up to which tr A^3 and tr A^4 are cheap."""

LEAST_ENTRIES = 2**18
"""With fewer, loading compiled code takes longer than what it saves."""

RANGE = (1e-70, 1e70)
"""Norms whose fourth powers are floating-point numbers."""


class ExplicitOperator(LinearOperator):
    """A matrix whose entries can be looked at: what they tell costs no product.

    Attributes
    ----------
    source : tensor or None
        The Torch tensor it was made of, if that requires a gradient; the operator itself computes
        with its numbers alone.
    """

    source: Any = None

    def values(self) -> Array:
        """Return the stored entries, in any order and shape."""
        raise NotImplementedError

    def diagonal(self) -> Array:
        """Return the diagonal, shape (min(shape),), in the working precision."""
        raise NotImplementedError

    def absolute_row_sums(self) -> Array:
        """Return ``sum_j |a_ij|`` in double precision, shape (rows,)."""
        raise NotImplementedError

    def asymmetry(self) -> float:
        """Return ``max |A - A^H|`` over the entries of a square matrix."""
        raise NotImplementedError

    def equals_adjoint(self, tolerance: float) -> bool:
        """Whether no entry differs from its mirror by more than a share of both its rows.

        That is ``|a_ij - conj(a_ji)| <= tolerance min(max |row i|, max |row j|)``: in a graded
        matrix the largest entry says nothing of the others.
        """
        raise NotImplementedError

    def dense(self) -> Array:
        """Return the matrix as a dense array in double precision, on its device.

        It may be A itself: not to be changed.
        """
        raise NotImplementedError

    def csc_on_host(self) -> Any:
        """Return a sparse matrix as a SciPy CSC array in double precision, or None if it is none.

        Also on a GPU, or if it is too large to be formed.
        """
        return None

    @cached_property
    def largest(self) -> float:
        """``max |a_ij|``, 0 for an empty matrix; NaN or infinite if an entry is."""
        parts = [part for part in self._portions() if 0 not in part.shape]
        found = [float(self.xp.max(self.xp.abs(part))) for part in parts]
        return float(np.max(found, initial=0.0))  # which a NaN passes through

    @property
    def nnz(self) -> int:
        """The number of stored entries."""
        return int(np.prod(self.values().shape))

    def frobenius_norm(self) -> float:
        """Return the root of the sum of all squared entries, summed in double precision."""
        return self._frobenius_norm

    @cached_property
    def _frobenius_norm(self) -> float:
        # Divided by a power of two, squares neither overflow nor vanish.
        unit = power_of_two(self.largest)
        return unit * math.sqrt(sum(sum_of_squares(self.xp, v / unit) for v in self._portions()))

    def _portions(self) -> list[Array]:
        """Return the entries in portions, each small enough for a temporary."""
        return [self.values()]

    def power_traces(self) -> tuple[float, ...]:
        """Return tr A and tr A^2 = ||A||_F^2 of a Hermitian matrix."""
        return self._power_traces

    @cached_property
    def _power_traces(self) -> tuple[float, ...]:
        xp, diagonal = self.xp, self.diagonal()
        if is_complex(diagonal):
            diagonal = xp.real(diagonal)
        norm = self.frobenius_norm()
        if not RANGE[0] < norm < RANGE[1]:
            return ()  # its powers may overflow or vanish
        return float(xp.sum(xp.astype(diagonal, xp.float64))), norm**2

    @cached_property
    def _centered_traces(self) -> PowerTraces:
        """Return `power_traces` about 0, or two of them about the mean, taken from the entries."""
        n = float(self.shape[0])
        plain = PowerTraces.about_zero(self.power_traces(), n)
        if plain.degree < 2 or not is_far(n, *plain.values[1:3]):
            return plain
        squares = self._off_diagonal_squares()
        if squares is None:
            return plain
        xp, center = self.xp, plain.values[1] / n
        diagonal = self.diagonal()
        real = xp.real(diagonal) if is_complex(diagonal) else diagonal
        rest = xp.astype(real, xp.float64) - center  # exact where the entries are near the center
        values = (float(xp.sum(rest)), float(xp.sum(rest**2)) + squares)
        taken = PowerTraces.about_zero(values, n)
        return replace(taken, center=center)

    def centered_traces(self) -> PowerTraces:
        """Return `power_traces` with their errors, about a center that is not far."""
        return self._centered_traces

    def _off_diagonal_squares(self) -> float | None:
        """Return the sum of squared moduli beside the diagonal, or None where that is dear."""
        return None

    def _double(self, a: Array) -> Array:
        xp = self.xp
        complex_ = xp.isdtype(self.dtype, "complex floating")
        return xp.astype(a, xp.complex128 if complex_ else xp.float64, copy=False)


def sum_of_squares(xp: Any, values: Array) -> float:
    """Return the sum of squared moduli, in double precision."""
    wide = xp.complex128 if is_complex(values) else xp.float64
    return float(xp.sum(xp.abs(xp.astype(values, wide)) ** 2))


def source_of(a: Any) -> Any:
    """Return a Torch tensor that requires a gradient, and None for anything else."""
    return a if getattr(a, "requires_grad", False) else None
