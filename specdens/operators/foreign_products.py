"""Somebody else's products, made safe: they change no argument and share no memory with a result.

An operator may write each product into the same buffer, give a view of its argument, or work in
place. A copy is made wherever that cannot be excluded, before anything else happens.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Hashable
from functools import reduce
from typing import Any

import numpy as np
from array_api_compat import is_numpy_array, is_torch_array

from specdens.arrays.libraries import (
    Array,
    device,
    host_view,
    is_array,
    namespace,
)

__all__ = ["BlockProduct", "by_columns", "of_scipy"]

COPIED = 2**14
"""Numbers of a block up to which a copy costs nothing beside the call."""

SAMPLED = 64
"""Numbers of a larger block that are compared before and after a product."""


def by_columns(apply: Callable[[Array], Array]) -> Callable[[Array], Array]:
    """Return the product with a block by those with its columns, each copied on both ways."""

    def block(x: Array) -> Array:
        xp = namespace(x)
        columns = []
        for r in range(x.shape[1]):
            column = apply(_copied(x[:, r]))
            column = column if is_array(column) else xp.asarray(column, device=device(x))
            columns.append(_copied(xp.reshape(column, (-1,))))
        return xp.stack(columns, axis=1)

    return block


class BlockProduct:
    """A product with blocks that leaves its argument as it was, and whose results are nobody's.

    Small arguments are copied. Large ones are until a product has been seen to leave its copy
    alone; a sample of them, or Torch's count of versions, then shows that the next ones do, too.
    """

    def __init__(self, product: Callable[[Array], Array]) -> None:
        self._product = product
        self._harmless: set[Hashable] = set()

    def __call__(self, x: Array) -> Array:
        """Return the product, in memory that nothing else refers to."""
        layout = _layout(x)
        if layout is None or math.prod(x.shape) <= COPIED:
            return _result_of(self._product, _copied(x), x)
        if layout in self._harmless:
            before = _marks(x)
            y = _result_of(self._product, x, x)
            if _marks(x) != before:
                msg = (
                    "the product of the operator changed its argument, which it had left alone "
                    "before; it must multiply a copy."
                )
                raise ValueError(msg)
            return y
        argument, xp = _copied(x), namespace(x)
        y = _result_of(self._product, argument, x)
        if bool(xp.all(argument == x)) and bool(xp.any(x != 0)):
            self._harmless.add(layout)
        return y


def _layout(x: Array) -> Hashable:
    """Return what may decide how a product treats a block; None where no change would be seen."""
    if is_numpy_array(x):
        return ("numpy", x.dtype.str, x.flags.c_contiguous, x.flags.f_contiguous)
    if is_torch_array(x) and not x.is_inference():
        return ("torch", str(x.dtype), x.is_contiguous(), x.requires_grad)
    return None


def _marks(x: Array) -> tuple[int, bytes]:
    """Return Torch's count of changes, and the bytes of a sample of a block on the host."""
    versions = x._version if is_torch_array(x) else 0
    host = host_view(x)
    if host is None:
        return versions, b""
    rows, columns = host.shape
    index = np.linspace(0, rows - 1, min(rows, SAMPLED)).astype(np.int64)
    return versions, host[index, np.arange(len(index)) % columns].tobytes()


def _copied(x: Array) -> Array:
    if is_torch_array(x):
        return x.clone()  # a history stays
    return x.copy() if is_numpy_array(x) else namespace(x).asarray(x, copy=True)


def _result_of(product: Callable[[Array], Array], argument: Array, like: Array) -> Array:
    """Return a product, copied unless it is known that nothing else refers to its memory."""
    y = product(argument)
    if not is_array(y):
        return namespace(like).asarray(y, device=device(like), copy=True)
    references = sys.getrefcount(y)  # counted here, where exactly one variable names it
    return y if _is_nobodys(y, references) else _copied(y)


def _is_nobodys(y: Array, references: int) -> bool:
    """Whether an array owns its memory, and has no more references than a fresh one."""
    if references > _FRESH:
        return False
    if type(y) is np.ndarray:
        return y.base is None and bool(y.flags.owndata)
    if not is_torch_array(y) or y._base is not None:
        return False
    import torch  # loaded already: y is a tensor

    count = getattr(torch._C, "_storage_Use_Count", None)
    storage = y.untyped_storage()
    # One use is the tensor's, one that of the variable; memory of NumPy cannot be resized.
    return count is not None and storage.resizable() and count(storage._cdata) <= 2


def _references_of_a_fresh_array(make: Callable[[int], Array]) -> int:
    y = make(1)
    return sys.getrefcount(y)


_FRESH = _references_of_a_fresh_array(np.empty)


def of_scipy(a: Any, *, adjoint: bool = False) -> Callable[[Array], Array]:
    """Return the product of a SciPy operator, or of its adjoint, with blocks.

    Sums, products and the like are taken apart: SciPy hands one argument to several functions, and
    adds up what they give without a copy.
    """
    inner, other = (*getattr(a, "args", ()), None, None)[:2]
    match type(a).__name__:
        case "_SumLinearOperator":
            p, q = of_scipy(inner, adjoint=adjoint), of_scipy(other, adjoint=adjoint)
            return lambda x: p(x) + q(x)
        case "_ProductLinearOperator":
            last, first = (other, inner) if adjoint else (inner, other)
            p, q = of_scipy(last, adjoint=adjoint), of_scipy(first, adjoint=adjoint)
            return lambda x: p(q(x))
        case "_ScaledLinearOperator":
            p, scale = of_scipy(inner, adjoint=adjoint), np.conj(other) if adjoint else other
            return lambda x: scale * p(x)
        case "_PowerLinearOperator":
            p = of_scipy(inner, adjoint=adjoint)
            return lambda x: reduce(lambda y, _: p(y), range(other), x)
        case "_AdjointLinearOperator":
            return of_scipy(inner, adjoint=not adjoint)
        case "_TransposedLinearOperator":
            p = of_scipy(inner, adjoint=not adjoint)
            return lambda x: np.conj(p(np.conj(x)))
    block, vector = ("rmatmat", "rmatvec") if adjoint else ("matmat", "matvec")
    own = _multiplies_blocks(a, block)
    return BlockProduct(getattr(a, block)) if own else by_columns(getattr(a, vector))


def _multiplies_blocks(a: Any, name: str) -> bool:
    """Whether a SciPy operator has a block product of its own, of this name (matmat or rmatmat).

    SciPy's default collects the products with all columns before it copies any of them.
    """
    from scipy.sparse.linalg import LinearOperator

    made_of_functions = f"_CustomLinearOperator__{name}_impl"
    if hasattr(a, made_of_functions):
        return getattr(a, made_of_functions) is not None
    own = getattr(type(a), f"_{name}", None)
    return own is not None and own is not getattr(LinearOperator, f"_{name}")
