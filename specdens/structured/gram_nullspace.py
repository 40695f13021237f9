"""The eigenvalues of a Gram matrix that are its shift exactly, and the smaller matrix of the rest.

``X^H X`` of a d x K matrix has K - d zeros if K > d; centring adds one: the deviations from a mean
over d numbers span only d - 1 dimensions.
"""

from __future__ import annotations

import math

from specdens.arrays.libraries import Array
from specdens.operators.algebra import Adjoint
from specdens.operators.gram import Gram
from specdens.operators.linear_operator import LinearOperator

__all__ = ["without_zeros"]


class Deviations(LinearOperator):
    r"""``W^T X`` with an orthonormal basis W, shape (d, d - 1), of the vectors of mean zero.

    W is the last d - 1 columns of the reflection that exchanges the first unit vector and
    ``1/sqrt(d)``, so that ``W W^T = I - 11^T/d`` and applying it costs O(d).
    """

    def __init__(self, base: LinearOperator) -> None:
        self.base = base
        d = base.shape[0]
        super().__init__(
            (max(0, d - 1), base.shape[1]),
            dtype=base.dtype,
            xp=base.xp,
            device=base.device,
            result_dtype=base.result_dtype,
        )
        self.hermitian = None
        self.root = math.sqrt(d)

    def _matmat(self, x: Array) -> Array:
        y = self.base.matmat(x)
        if self.shape[0] == 0:
            return y[1:, :]
        excess = self.xp.sum(y, axis=0, keepdims=True) - self.root * y[:1, :]
        return y[1:, :] - excess / (self.root * (self.root - 1))

    def _rmatmat(self, x: Array) -> Array:
        total = self.xp.sum(x, axis=0, keepdims=True)
        if self.shape[0]:
            x = x - total / (self.root * (self.root - 1))
        first = total / self.root if self.root else total
        return self.base.rmatmat(self.xp.concat([first, x], axis=0)[: self.base.shape[0], :])


def without_zeros(gram: Gram) -> tuple[Gram, int]:
    """Return a Gram matrix of the same other eigenvalues, and how many equal to the shift it lacks.

    The latter is 0 where none is known to be.
    """
    factor = gram.factor
    if gram.center == "features":
        factor = Deviations(factor)
    elif gram.center == "samples":
        factor = Adjoint(Deviations(Adjoint(factor)))
    rows, columns = factor.shape
    zeros = gram.shape[0] - min(rows, columns)
    if zeros == 0:
        return gram, 0
    return Gram(factor if columns <= rows else Adjoint(factor), shift=gram.shift), zeros
