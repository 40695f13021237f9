"""The Gram matrix ``X^H J X + shift I`` as an operator that is never formed."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property, partial
from typing import Any

import numpy as np

from specdens.arrays.libraries import Array, column_dots
from specdens.kernels.compiled import kernel
from specdens.operators.algebra import finite_real
from specdens.operators.aslinearoperator import aslinearoperator
from specdens.operators.dense import DenseOperator
from specdens.operators.explicit import LEAST_ENTRIES, RANGE
from specdens.operators.linear_operator import LinearOperator

__all__ = ["Gram"]

CENTERS = ("features", "samples", "none")

WIDEST = 2**14
"""Columns of X up to which a block of vectors stays in the cache while rows of X pass by."""


class Gram(LinearOperator):
    r"""The Gram matrix ``X^H J X + shift I`` of the columns of X, never formed.

    Parameters
    ----------
    X : array, sparse matrix or operator, shape (d, K)
        Features along the rows, samples along the columns: the operator is K x K.
    shift : float
        Added to the diagonal, at least 0. Then no eigenvalue is smaller than it: a rigorous bound.
    center : {"none", "features", "samples"}
        ``J = I - 11^T/d`` subtracts from each column its mean over the d features; ``"samples"``
        subtracts from each row its mean over the K columns (``P X^H X P + shift I``).

    Raises
    ------
    ValueError
        If `shift` is negative or not finite, or `center` is unknown.

    Notes
    -----
    One product costs one with X and one with X^H. A dense real X of NumPy, in C order, is read once
    for both, by compiled code, and centred entry by entry: a large mean costs no accuracy.

    Examples
    --------
    >>> import numpy as np
    >>> X = np.array([[1.0, 2.0], [3.0, 4.0]])
    >>> Gram(X, shift=1.0) @ np.array([1.0, 0.0])
    array([11., 14.])
    """

    def __init__(self, X: Any, *, shift: float = 0.0, center: str = "none") -> None:
        if center not in CENTERS:
            msg = f"center is {center!r}; expected one of {CENTERS}."
            raise ValueError(msg)
        shift = finite_real(shift, "shift")
        if shift < 0:
            msg = f"shift is {shift}; expected a finite number, at least 0."
            raise ValueError(msg)
        self.factor, self.shift, self.center = aslinearoperator(X), shift, center
        columns, xp = self.factor.shape[1], self.factor.xp
        super().__init__(
            (columns, columns),
            dtype=self.factor.dtype,
            xp=xp,
            device=self.factor.device,
            result_dtype=self.factor.result_dtype,
        )
        self.hermitian = self.hermitian_by_construction = True
        self.lower = self.shift
        self.max_memory = self.factor.max_memory

    def power_traces(self) -> tuple[float, ...]:
        """Return the trace, ``||J X||_F^2 + K shift``, of an X whose entries can be looked at."""
        return self._power_traces

    @cached_property
    def _power_traces(self) -> tuple[float, ...]:
        (d, count) = self.factor.shape
        if self._compiled is not None:
            total = self._compiled[1]
            return (total + count * self.shift,) if RANGE[0] < total < RANGE[1] else ()
        norm = self.factor.frobenius_norm()
        if norm is None or not RANGE[0] < norm < RANGE[1]:
            return ()
        total = norm**2
        if self.center != "none":
            xp, rows = self.xp, self.center == "samples"
            ones = xp.ones((count if rows else d, 1), dtype=self.dtype, device=self.device)
            sums = self.factor.matmat(ones) if rows else self.factor.rmatmat(ones)
            total -= float(np.real(column_dots(sums, sums))[0]) / (count if rows else d)
        return (max(0.0, total) + count * self.shift,)

    @property
    def is_compiled(self) -> bool:
        """Whether products read X once, by compiled code."""
        return self._compiled is not None

    @cached_property
    def _compiled(self) -> tuple[Callable[[Array], Array], float] | None:
        """The product and ``||J X||_F^2`` by compiled code, where it is and X is worth it."""
        if not isinstance(self.factor, DenseOperator) or self.center == "samples":
            return None
        x = self.factor.array
        if not isinstance(x, np.ndarray) or np.iscomplexobj(x) or not x.flags.c_contiguous:
            return None
        if x.size < LEAST_ENTRIES or x.shape[1] > WIDEST or 0 in x.shape:
            return None
        product, statistics = (
            kernel("cpu.gram_product", name) for name in ("gram_product", "column_statistics")
        )
        if product is None or statistics is None:
            return None
        means, squares = statistics(x, self.center == "features")
        return partial(product, x, means.astype(x.dtype)), squares

    def _centered(self, x: Array) -> Array:
        return x - self.xp.mean(x, axis=0, keepdims=True)

    def _matmat(self, x: Array) -> Array:
        if self._compiled is not None:
            y = self._compiled[0](x)
        elif self.center == "samples":
            y = self.factor.rmatmat(self.factor.matmat(self._centered(x)))
            y = self._centered(y)
        else:
            y = self.factor.matmat(x)
            y = self.factor.rmatmat(self._centered(y) if self.center == "features" else y)
        return y + self.shift * x if self.shift else y
