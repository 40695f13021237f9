"""Matrices with rows and columns in another order: ``P A Q`` as an operator."""

from __future__ import annotations

from typing import Any

import numpy as np

from specdens.arrays.libraries import Array, is_array, to_host
from specdens.operators.hermitian import is_known_hermitian
from specdens.operators.linear_operator import LinearOperator
from specdens.problem.bounds import known_bounds
from specdens.problem.prepare import finite_operator
from specdens.structured.parts import common_home

__all__ = ["Permuted"]


class Permuted(LinearOperator):
    """The matrix ``P A Q`` with the entry ``a[rows[i], columns[j]]`` in row i and column j.

    Parameters
    ----------
    A : anything that `aslinearoperator` takes, shape (n, n)
    rows : sequence of int, shape (n,)
        A permutation of 0 .. n - 1.
    columns : sequence of int, shape (n,), optional
        Default `rows`: then ``Q = P^T``, and the eigenvalues stay.

    Raises
    ------
    ValueError
        If A is not square or not finite, or an index array is no permutation.

    Examples
    --------
    >>> import numpy as np
    >>> import specdens
    >>> A = Permuted(np.diag([1.0, 2.0]), [1, 0], [0, 1])
    >>> A @ np.array([3.0, 5.0])
    array([10.,  3.])
    >>> print(specdens.slogdet(A)[0])
    -1.0
    """

    def __init__(self, A: Any, rows: Any, columns: Any = None) -> None:
        self.base = finite_operator(A)
        n = self.base.shape[0]
        if self.base.shape[1] != n:
            msg = f"A has shape {self.base.shape}; expected a square matrix to permute."
            raise ValueError(msg)
        self.row_order = _permutation(rows, n, "rows")
        self.column_order = (
            self.row_order if columns is None else _permutation(columns, n, "columns")
        )
        super().__init__((n, n), **common_home([self.base]))
        self.keeps_spectrum = bool(np.array_equal(self.row_order, self.column_order))
        if self.keeps_spectrum:
            self.hermitian = True if is_known_hermitian(self.base) else self.base.hermitian
            known = known_bounds(self.base)
            self.lower, self.upper = (
                (known.low, known.high) if self.hermitian else (-np.inf, np.inf)
            )
        else:
            self.hermitian = None

    def _taken(self, x: Array, index: Any) -> Array:
        return self.xp.take(x, self.xp.asarray(index, device=self.device), axis=0)

    def _matmat(self, x: Array) -> Array:
        return self._taken(
            self.base.matmat(self._taken(x, np.argsort(self.column_order))), self.row_order
        )

    def _rmatmat(self, x: Array) -> Array:
        return self._taken(
            self.base.rmatmat(self._taken(x, np.argsort(self.row_order))), self.column_order
        )


def _permutation(given: Any, n: int, name: str) -> np.ndarray[Any, Any]:
    """Return index numbers as NumPy int64, checked to be a permutation of 0 .. n - 1."""
    found = np.asarray(to_host(given) if is_array(given) else given)
    if found.shape != (n,) or not np.array_equal(np.sort(found), np.arange(n)):
        msg = (
            f"{name} of shape {found.shape} is no permutation; expected each of 0 .. {n - 1} once."
        )
        raise ValueError(msg)
    return found.astype(np.int64)
