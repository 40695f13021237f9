"""`aslinearoperator`: every kind of matrix that users have, as a `LinearOperator`."""

from __future__ import annotations

import copy
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from specdens.arrays.libraries import (
    Array,
    as_dense,
    default_namespace,
    device,
    is_array,
    is_dtype_of_torch,
    namespace,
    working_dtype,
)
from specdens.operators.dense import DenseOperator
from specdens.operators.diagonals import diagonals_of_dia, pays_as_diagonals
from specdens.operators.explicit import source_of
from specdens.operators.foreign_products import BlockProduct, by_columns, of_scipy
from specdens.operators.linear_operator import NO_ADJOINT, LinearOperator
from specdens.operators.power_traces import PowerTraces
from specdens.operators.sparse import SparseOperator, TorchSparseOperator

__all__ = ["Claims", "ForeignOperator", "aslinearoperator", "home"]


@dataclass(frozen=True)
class Claims:
    """What a caller says of an operator that only has products."""

    hermitian: bool | None = None
    traces: tuple[float, ...] = ()
    frobenius_norm: float | None = None


class ForeignOperator(LinearOperator):
    """Somebody else's products: an object or callables that map blocks to blocks.

    Attributes
    ----------
    differentiable : bool
        Whether a product so far had an autograd history (Torch): it depends on tensors that require
        a gradient.
    keeps_history : bool
        Whether products keep it. A recurrence does not, so that its memory does not grow.
    """

    differentiable = False
    keeps_history = False

    def __init__(
        self,
        shape: tuple[int, int],
        matmat: Callable[[Array], Array],
        rmatmat: Callable[[Array], Array] | None,
        home: tuple[Any, Any, Any],
        claims: Claims,
    ) -> None:
        xp, device, dtype = home
        super().__init__(shape, dtype=dtype, xp=xp, device=device)
        self._product, self._adjoint_product = matmat, rmatmat
        self.hermitian, self._traces = claims.hermitian, claims.traces
        self._frobenius_norm = claims.frobenius_norm

    def power_traces(self) -> tuple[float, ...]:
        """Return what its maker stated."""
        return self._traces

    def centered_traces(self) -> PowerTraces:
        """Return what its maker stated."""
        return PowerTraces.about_zero(self._traces, self.shape[0], stated=True)

    def frobenius_norm(self) -> float | None:
        """Return what its maker stated."""
        return self._frobenius_norm

    def _matmat(self, x: Array) -> Array:
        return self._received(self._product(x))

    def _rmatmat(self, x: Array) -> Array:
        if self._adjoint_product is None:
            return super()._rmatmat(x)
        return self._received(self._adjoint_product(x))

    def _received(self, y: Any) -> Array:
        """Bring a product to our precision; refuse to drop an imaginary part."""
        xp = self.xp
        y = y if is_array(y) else xp.asarray(y, device=self.device)
        real = not xp.isdtype(self.dtype, "complex floating")
        if real and xp.isdtype(y.dtype, "complex floating"):
            msg = (
                f"a product of the operator is complex but its dtype is {self.dtype}; pass dtype=."
            )
            raise ValueError(msg)
        if getattr(y, "requires_grad", False) and not self.keeps_history:
            self.differentiable, y = True, y.detach()
        return xp.astype(y, self.dtype, copy=False)


def aslinearoperator(
    A: Any,
    *,
    n: int | None = None,
    dtype: Any = None,
    rmatvec: Callable[[Array], Array] | None = None,
    matmat: Callable[[Array], Array] | None = None,
    rmatmat: Callable[[Array], Array] | None = None,
    hermitian: bool | None = None,
    trace: float | None = None,
    frobenius_squared: float | None = None,
    like: Array | None = None,
    compute_dtype: Any = None,
    max_memory: int | None = None,
) -> LinearOperator:
    """Return A as a linear operator on the array library and device where it lives.

    Parameters
    ----------
    A : array, sparse matrix, operator or callable
        A dense array (NumPy, CuPy, Torch, any that follows the array API standard); a SciPy or
        CuPy sparse matrix or array of any format; a Torch sparse tensor; a SciPy `LinearOperator`
        or any object with ``shape`` and ``matmat``, ``matvec`` or ``@``; or a callable that maps a
        vector of shape (n,) to one, which needs `n`.
    n : int, optional
        Order of the square matrix that a callable applies.
    dtype : optional
        Element type of a callable, or of an object that does not state its own. Default float64.
    rmatvec : callable, optional
        For a callable: the product of the adjoint with a vector. Not needed if it is Hermitian.
    matmat, rmatmat : callable, optional
        For a callable: the same products for a block (n, R), which are then used throughout.
    hermitian : bool, optional
        A claim. It is checked on the way, without an extra product.
    trace, frobenius_squared : float, optional
        For a callable or object that is Hermitian: its exact trace and the sum of its squared
        entries, which take the variance of linear and quadratic functions out of every estimate.
        An object may state them as attributes of these names.
    like : array, optional
        For a callable or object: an array of the library and on the device that it works with.
        Default NumPy, or what its dtype and device say. Torch tensors that the products use and
        that require a gradient are found without being named, for `logdet` and `trace_function`.
    compute_dtype : optional
        For a matrix whose entries are at hand: the precision of products with it, single or double
        ("float32", "float64"). Default its own; sums are taken in double precision in any case.
        In single precision products are faster, and an eigenvalue below ``eps |A|`` is noise:
        who needs it is warned.
    max_memory : int, optional
        Bytes that the blocks of vectors may take beside A. Default 2 GiB. Fewer vectors then share
        a product, which is slower; results do not depend on it.

    Returns
    -------
    LinearOperator

    Raises
    ------
    TypeError
        If A is of none of these kinds, or its elements are not numbers.
    ValueError
        If A has not two dimensions, or a sparse matrix has indices out of range.

    Examples
    --------
    >>> import numpy as np
    >>> op = aslinearoperator(lambda v: 2 * v, n=3)
    >>> op @ np.ones(3)
    array([2., 2., 2.])
    """
    for name, value in (("n", n), ("rmatvec", rmatvec), ("matmat", matmat), ("rmatmat", rmatmat)):
        if value is not None and (hasattr(A, "shape") or not callable(A)):
            msg = f"{name}= is for a callable; A is of type {type(A).__name__} and has its own."
            raise TypeError(msg)
    op = A if isinstance(A, LinearOperator) else _explicit(A, compute_dtype)
    if compute_dtype is not None and (op is None or op is A):
        msg = (
            "compute_dtype= is for a matrix whose entries are at hand; A is of type "
            f"{type(A).__name__} and computes as it does. For a callable pass dtype=."
        )
        raise TypeError(msg)
    if op is None:
        claims = Claims(hermitian, **_stated(A, trace, frobenius_squared))
        if hasattr(A, "shape"):
            op = _from_object(A, home(A, dtype, like), claims)
        elif callable(A):
            order = _order(n)
            product = by_columns(A) if matmat is None else BlockProduct(matmat)
            adjoint = by_columns(rmatvec) if rmatvec else None
            adjoint = adjoint if rmatmat is None else BlockProduct(rmatmat)
            op = ForeignOperator((order, order), product, adjoint, home(A, dtype, like), claims)
        else:
            msg = (
                f"A is of type {type(A).__name__}; expected an array, a sparse matrix, an object "
                "with shape and matmat, matvec or @, or a callable with n=."
            )
            raise TypeError(msg)
    return op if max_memory is None else _limited(op, max_memory)


def _explicit(a: Any, compute_dtype: Any) -> LinearOperator | None:
    """Return a matrix whose entries are at hand as an operator, None for anything else."""
    if _is_scipy_sparse(a):
        if a.format == "dia" and compute_dtype is None and pays_as_diagonals(a):
            return diagonals_of_dia(a)
        return SparseOperator(a, default_namespace(), compute_dtype)
    if _is_cupy_sparse(a):
        return SparseOperator(a, namespace(a.data), compute_dtype)
    if _is_torch_sparse(a):
        return TorchSparseOperator(a, compute_dtype)
    if is_array(a) or isinstance(a, (list, tuple)):
        return _dense(a, compute_dtype)
    applied = any(hasattr(a, name) for name in ("matmat", "matvec"))
    if hasattr(a, "shape") and hasattr(a, "__array__") and not applied:
        return _dense(np.asarray(a), compute_dtype)
    return None


def _limited(op: LinearOperator, max_memory: Any) -> LinearOperator:
    """Return an operator with a limit of its own; the one that was given stays as it is."""
    if isinstance(max_memory, bool) or not isinstance(max_memory, (int, np.integer)):
        msg = f"max_memory is {max_memory!r}; expected a number of bytes, an integer."
        raise TypeError(msg)
    if max_memory < 1:
        msg = f"max_memory is {max_memory}; expected a positive number of bytes."
        raise ValueError(msg)
    limited = copy.copy(op)
    limited.max_memory = int(max_memory)
    return limited


def _stated(a: Any, trace: float | None, frobenius_squared: float | None) -> dict[str, Any]:
    """Return what was stated; a number of A's own counts, a method such as NumPy's does not."""
    stated: dict[str, float] = {}
    for name, value in (("trace", trace), ("frobenius_squared", frobenius_squared)):
        found = getattr(a, name, None) if value is None else value
        if not isinstance(found, (int, float, np.integer, np.floating)):
            continue
        if not math.isfinite(found):
            msg = f"{name} is {found}; expected a finite number."
            raise ValueError(msg)
        stated[name] = float(found)
    squares = stated.get("frobenius_squared")
    traces = (stated["trace"],) if "trace" in stated else ()
    return {
        "traces": traces if not traces or squares is None else (*traces, squares),
        "frobenius_norm": None if squares is None else math.sqrt(max(0.0, squares)),
    }


def _dense(a: Any, compute_dtype: Any = None) -> LinearOperator:
    numbers = as_dense(a)
    if numbers.ndim != 2:
        msg = f"A has shape {tuple(numbers.shape)}; expected two dimensions."
        raise ValueError(msg)
    op = DenseOperator(numbers, compute_dtype)
    op.source = source_of(a)
    return op


def _is_scipy_sparse(a: object) -> bool:
    from scipy.sparse import issparse

    return bool(issparse(a))


def _is_cupy_sparse(a: object) -> bool:
    return "cupyx.scipy.sparse" in sys.modules and bool(
        sys.modules["cupyx.scipy.sparse"].issparse(a)
    )


def _is_torch_sparse(a: object) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(a, torch.Tensor) and not is_array(a)


def home(a: Any, dtype: Any, like: Array | None) -> tuple[Any, Any, Any]:
    """Return the namespace, device and working dtype of something that is only applied."""
    dtype = dtype if dtype is not None else getattr(a, "dtype", None)
    if like is not None:
        xp, where = namespace(like), device(like)
        dtype = like.dtype if dtype is None else dtype
    elif is_dtype_of_torch(dtype):
        xp = namespace(sys.modules["torch"].empty(0))
        where = getattr(a, "device", None)
    else:
        xp, where = default_namespace(), "cpu"
    return xp, where, working_dtype(xp, xp.float64 if dtype is None else _as_dtype(xp, dtype))


def _as_dtype(xp: Any, dtype: Any) -> Any:
    """Accept what NumPy takes for a dtype (``float``, ``"complex64"``) where it is NumPy's."""
    if is_dtype_of_torch(dtype) or not (isinstance(dtype, (str, type, np.dtype))):
        return dtype
    return getattr(xp, np.dtype(dtype).name, np.dtype(dtype))


def _from_object(a: Any, where: tuple[Any, Any, Any], claims: Claims) -> LinearOperator:
    shape = tuple(int(side) for side in a.shape)
    if len(shape) != 2:
        msg = f"A has shape {shape}; expected two dimensions."
        raise ValueError(msg)
    product = _product_of(a, "matmat", "matvec")
    if product is None and hasattr(a, "__matmul__"):
        product = BlockProduct(a.__matmul__)
    if product is None:
        msg = f"A of type {type(a).__name__} has a shape but neither matmat, matvec nor @."
        raise TypeError(msg)
    if claims.hermitian is None:
        claims = replace(claims, hermitian=getattr(a, "hermitian", None))
    adjoint = _product_of(a, "rmatmat", "rmatvec")
    return ForeignOperator(shape, product, adjoint, where, claims)


def _product_of(a: Any, block: str, vector: str) -> Callable[[Array], Array] | None:
    """Return the product with blocks that an object has by these names, or None."""
    if hasattr(a, block):
        if _is_scipy(a):
            return _without_none(of_scipy(a, adjoint=block == "rmatmat"))
        return BlockProduct(getattr(a, block))
    return by_columns(getattr(a, vector)) if hasattr(a, vector) else None


def _is_scipy(a: Any) -> bool:
    return any(kind.__module__.startswith("scipy.") for kind in type(a).__mro__)


def _without_none(product: Callable[[Array], Array]) -> Callable[[Array], Array]:
    """Return a product of a SciPy operator that says so where it needs an rmatvec not given."""

    def said(x: Array) -> Array:
        try:
            return product(x)
        except TypeError as error:  # it calls None
            if "'NoneType' object is not callable" not in str(error):
                raise
            raise NotImplementedError(NO_ADJOINT) from None
        except (NotImplementedError, RecursionError):
            raise NotImplementedError(NO_ADJOINT) from None

    return said


def _order(n: Any) -> int:
    """Return the order of a callable, checked."""
    if n is None:
        msg = "A is a callable, whose size is unknown; pass aslinearoperator(A, n=..., dtype=...)."
        raise TypeError(msg)
    if isinstance(n, bool) or not isinstance(n, (int, np.integer)) or n < 0:
        msg = f"n is {n!r}; expected the order of the matrix, an integer, at least 0."
        raise ValueError(msg)
    return int(n)
