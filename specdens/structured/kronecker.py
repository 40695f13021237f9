"""Kronecker products: ``A_1 (x) A_2 (x) ...`` as an operator, applied factor by factor."""

from __future__ import annotations

import math
from typing import Any

from specdens.arrays.libraries import Array
from specdens.operators.hermitian import is_known_hermitian
from specdens.operators.linear_operator import LinearOperator
from specdens.problem.bounds import known_bounds
from specdens.structured.parts import common_home, operators_together

__all__ = ["Kronecker"]


class Kronecker(LinearOperator):
    r"""The Kronecker product :math:`A_1 \otimes A_2 \otimes \dots`, never formed.

    Parameters
    ----------
    *factors : anything that `aslinearoperator` takes
        One at least, of one library and device; rectangular ones too.

    Raises
    ------
    ValueError
        If there is none, one is not finite, or libraries or devices differ.

    Notes
    -----
    A product costs, for each factor of n_i columns, n / n_i products with it. If the factors are
    Hermitian and small, all eigenvalues are known; determinant and trace follow from those of the
    factors in any case.

    References
    ----------
    Van Loan, J. Comput. Appl. Math. 123, 85 (2000).

    Examples
    --------
    >>> import numpy as np
    >>> import specdens
    >>> A = Kronecker(np.diag([1.0, 2.0]), np.eye(3))
    >>> A @ np.ones(6)
    array([1., 1., 1., 2., 2., 2.])
    >>> print(f"{specdens.logdet(A):.6f}")
    2.079442
    """

    def __init__(self, *factors: Any) -> None:
        self.factors = operators_together(list(factors), "factors")
        shape = (
            math.prod(op.shape[0] for op in self.factors),
            math.prod(op.shape[1] for op in self.factors),
        )
        super().__init__(shape, **common_home(self.factors))
        self.hermitian = True if all(is_known_hermitian(op) for op in self.factors) else None
        if self.hermitian:
            self.lower, self.upper = self._ends()

    def _ends(self) -> tuple[float, float]:
        """Return the extreme products of what bounds the spectra of the factors."""
        ends = [1.0, 1.0]
        for op in self.factors:
            # An infinite end stands for finite eigenvalues: with 0 it makes 0.
            found = [a * b if a and b else 0.0 for a in ends for b in list(known_bounds(op))]
            ends = [min(found), max(found)]
        return ends[0], ends[1]

    def _matmat(self, x: Array) -> Array:
        return self._applied(x, [(op.shape, op.matmat) for op in self.factors])

    def _rmatmat(self, x: Array) -> Array:
        return self._applied(x, [(op.shape[::-1], op.rmatmat) for op in self.factors])

    def _applied(self, x: Array, factors: list[Any]) -> Array:
        """Apply each factor to the leading axis, and let that axis go to the end."""
        xp, count = self.xp, x.shape[1]
        axes = [columns for (_, columns), _ in factors]
        done: list[int] = []
        for (rows, _), product in factors:
            rest = math.prod(axes[1:]) * count * math.prod(done)
            x = xp.matrix_transpose(product(xp.reshape(x, (axes[0], rest))))
            axes, done = axes[1:], [*done, rows]
        x = xp.matrix_transpose(xp.reshape(x, (count, math.prod(done))))
        return xp.astype(x, self.dtype, copy=False)
