"""Block-diagonal matrices: the direct sum of square matrices as an operator."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from specdens.arrays.libraries import Array
from specdens.operators.hermitian import is_known_hermitian
from specdens.operators.linear_operator import LinearOperator
from specdens.problem.bounds import known_bounds
from specdens.structured.parts import common_home, operators_together

__all__ = ["BlockDiagonal"]


class BlockDiagonal(LinearOperator):
    r"""The direct sum :math:`A_1 \oplus A_2 \oplus \dots`: blocks along the diagonal.

    Parameters
    ----------
    *blocks : anything that `aslinearoperator` takes, shape (n_i, n_i)
        One at least, square, of one library and device.

    Raises
    ------
    ValueError
        If there is none, one is not square or not finite, or libraries or devices differ.

    Notes
    -----
    A product costs one with each block. Every function of the spectrum is the sum of those of the
    blocks, each by the method that suits it.

    Examples
    --------
    >>> import numpy as np
    >>> import specdens
    >>> A = BlockDiagonal(np.array([[2.0]]), np.array([[0.0, 1.0], [1.0, 0.0]]))
    >>> A @ np.array([1.0, 2.0, 3.0])
    array([2., 3., 2.])
    >>> sign, value = specdens.slogdet(A)
    >>> print(f"{sign:.0f} {value:.6f}")
    -1 0.693147
    """

    def __init__(self, *blocks: Any) -> None:
        self.blocks = operators_together(list(blocks), "blocks")
        for op in self.blocks:
            if op.shape[0] != op.shape[1]:
                msg = f"a block has shape {op.shape}; expected square ones."
                raise ValueError(msg)
        order = sum(op.shape[0] for op in self.blocks)
        super().__init__((order, order), **common_home(self.blocks))
        self.hermitian = True if all(is_known_hermitian(op) for op in self.blocks) else None
        if self.hermitian:
            ends = [known_bounds(op) for op in self.blocks if op.shape[0]]
            self.lower = min((end.low for end in ends), default=-math.inf)
            self.upper = max((end.high for end in ends), default=math.inf)

    def _matmat(self, x: Array) -> Array:
        return self._applied(x, [op.matmat for op in self.blocks])

    def _rmatmat(self, x: Array) -> Array:
        return self._applied(x, [op.rmatmat for op in self.blocks])

    def _applied(self, x: Array, products: list[Any]) -> Array:
        ends = np.cumsum([0, *(op.shape[0] for op in self.blocks)]).tolist()
        parts = [
            self.xp.astype(product(x[low:high, :]), self.dtype, copy=False)
            for product, low, high in zip(products, ends[:-1], ends[1:], strict=True)
        ]
        return self.xp.concat(parts, axis=0)
