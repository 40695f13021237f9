"""`aslinearoperator`: every kind of matrix that users have, as a `LinearOperator`."""

from __future__ import annotations

import itertools
import math
import sys
import warnings
from collections.abc import Callable
from functools import cached_property
from typing import Any

import numpy as np

from specdens._arrays import (
    Array,
    as_dense,
    default_namespace,
    device,
    is_array,
    is_complex,
    is_dtype_of_torch,
    namespace,
    on_cpu,
    power_of_two,
    result_dtype,
    to_host,
    working_dtype,
)
from specdens.linear_operator import NO_ADJOINT, LinearOperator
from specdens.results import AccuracyWarning

__all__ = ["ExplicitOperator", "aslinearoperator"]

SQUARE_FLOPS = 32
"""Multiplications in A^2, as a multiple of A's entries, up to which tr A^3 and tr A^4 are cheap."""

SQUARED_AT_ONCE = 2**24

RANGE = (1e-70, 1e70)
"""Norms whose fourth powers are floating-point numbers."""

ROWS_AT_ONCE = 2**24
"""Entries of a dense matrix that a reduction looks at in one go: its temporaries stay small."""


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
        """Return the matrix as a dense array in double precision, on its device."""
        raise NotImplementedError

    @cached_property
    def largest(self) -> float:
        """``max |a_ij|``, 0 for an empty matrix; NaN or infinite if an entry is."""
        values = self.values()
        if 0 in values.shape:
            return 0.0
        return float(self.xp.max(self.xp.abs(values)))

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
        return unit * math.sqrt(sum(_sum_of_squares(self.xp, v / unit) for v in self._portions()))

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

    def _double(self, a: Array) -> Array:
        xp = self.xp
        complex_ = xp.isdtype(self.dtype, "complex floating")
        return xp.astype(a, xp.complex128 if complex_ else xp.float64)


def _sum_of_squares(xp: Any, values: Array) -> float:
    wide = xp.complex128 if is_complex(values) else xp.float64
    return float(xp.sum(xp.abs(xp.astype(values, wide)) ** 2))


def _warn_of_long_integers(xp: Any, a: Array) -> None:
    """Warn of integers that double precision cannot hold."""
    if 0 in a.shape or not xp.isdtype(a.dtype, "integral") or xp.iinfo(a.dtype).bits < 64:
        return
    if int(xp.max(a)) > 2**53 or int(xp.min(a)) < -(2**53):
        msg = "A has integers beyond 2**53, which are rounded to double precision. Scale A first."
        warnings.warn(msg, AccuracyWarning, stacklevel=4)


class DenseOperator(ExplicitOperator):
    """A dense array."""

    def __init__(self, a: Array) -> None:
        xp = namespace(a)
        self.original = a
        _warn_of_long_integers(xp, a)
        self.array = xp.astype(a, working_dtype(xp, a.dtype), copy=False)
        super().__init__(
            tuple(a.shape), dtype=self.array.dtype, xp=xp, device=device(a),
            result_dtype=result_dtype(xp, a.dtype),
        )  # fmt: skip
        self.hermitian = None

    def _matmat(self, x: Array) -> Array:
        return self.array @ x

    def _rmatmat(self, x: Array) -> Array:
        xp = self.xp
        transposed = xp.matrix_transpose(self.array)
        if not xp.isdtype(self.dtype, "complex floating"):
            return transposed @ x
        return xp.conj(transposed @ xp.conj(x))

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

    def absolute_row_sums(self) -> Array:
        """Return the sums of moduli over rows."""
        xp = self.xp
        blocks = [xp.abs(self.array[rows, :]) for rows in self._row_ranges()]
        return xp.concat([xp.sum(block, axis=1, dtype=xp.float64) for block in blocks])

    def asymmetry(self) -> float:
        """Return the largest deviation from the adjoint."""
        return max(float(self.xp.max(self._deviations(rows))) for rows in self._row_ranges())

    def equals_adjoint(self, tolerance: float) -> bool:
        """Whether no entry differs from its mirror by more than a share of both its rows."""
        if self.asymmetry() == 0:
            return True
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


class SparseOperator(ExplicitOperator):
    """A SciPy or CuPy sparse matrix or array, of any format."""

    def __init__(self, a: Any, xp: Any) -> None:
        if a.ndim != 2:
            msg = f"A is a sparse array of shape {a.shape}; expected two dimensions."
            raise ValueError(msg)
        if xp.__name__.endswith("numpy") and a.format in {"csr", "csc", "bsr"}:
            a.check_format(full_check=True)  # an index out of range would read foreign memory
        dtype = working_dtype(xp, a.dtype)
        csr = a.tocsr()
        if csr.dtype != dtype:
            csr = csr.astype(dtype)
        if not csr.has_canonical_format:
            csr = csr.copy()
            csr.sum_duplicates()
        self.array = csr
        super().__init__(
            tuple(csr.shape), dtype=csr.dtype, xp=xp, device=device(csr.data),
            result_dtype=result_dtype(xp, a.dtype),
        )  # fmt: skip
        self.hermitian = None

    def _matmat(self, x: Array) -> Array:
        return self.array @ x

    def _rmatmat(self, x: Array) -> Array:
        if not self.xp.isdtype(self.dtype, "complex floating"):
            return self.array.T @ x
        return self.xp.conj(self.array.T @ self.xp.conj(x))

    def values(self) -> Array:
        """Return the stored entries, shape (nnz,)."""
        return self.array.data

    def diagonal(self) -> Array:
        """Return the diagonal."""
        return self.array.diagonal()

    def absolute_row_sums(self) -> Array:
        """Return the sums of moduli over rows."""
        sums = abs(self.array).astype(self.xp.float64).sum(axis=1)
        return self.xp.reshape(self.xp.asarray(sums), (-1,))

    def asymmetry(self) -> float:
        """Return the largest deviation from the adjoint."""
        difference = (self.array - self.array.conj().T).data
        return float(self.xp.max(self.xp.abs(difference))) if difference.size else 0.0

    @cached_property
    def _power_traces(self) -> tuple[float, ...]:
        """Return also tr A^3 and tr A^4 = ||A^2||_F^2 where A^2 costs no more than products."""
        first = super()._power_traces
        host = self.xp.__name__.endswith("numpy")
        if not host or not first or self._square_flops() > SQUARE_FLOPS * self.nnz:
            return first
        third, fourth = 0.0, 0.0
        for rows in self._row_ranges():
            a = self.array[rows]
            square = (a @ self.array).astype(np.result_type(self.array.dtype, np.float64))
            third += float(square.multiply(a.conj()).sum().real)
            fourth += _sum_of_squares(self.xp, square.data)
        return (*first, third, fourth)

    def _square_flops(self) -> int:
        """Return the multiplications in A^2 of a matrix with a symmetric pattern."""
        return int(np.sum(np.diff(self.array.indptr).astype(np.int64) ** 2))

    def _row_ranges(self) -> list[slice]:
        count = math.ceil(self._square_flops() / SQUARED_AT_ONCE)
        edges = np.linspace(0, self.shape[0], count + 1).astype(int)
        return [slice(a, b) for a, b in itertools.pairwise(edges) if a < b]

    def equals_adjoint(self, tolerance: float) -> bool:
        """Whether no entry differs from its mirror by more than a share of both its rows."""
        xp, difference = self.xp, (self.array - self.array.conj().T).tocoo()
        largest = abs(self.array).max(axis=1).toarray().ravel()
        least = xp.minimum(largest[difference.row], largest[difference.col])
        return bool(xp.all(xp.abs(difference.data) <= tolerance * least))

    def dense(self) -> Array:
        """Return the matrix as a dense array."""
        return self._double(self.array.toarray())

    def csc_on_host(self) -> Any:
        """Return a SciPy CSC array in double precision, or None if the matrix lies on a GPU."""
        from scipy.sparse import csc_array

        if not on_cpu(self.array.data):
            return None
        complex_ = np.iscomplexobj(self.array.data)
        return csc_array(self.array, dtype=np.complex128 if complex_ else np.float64)


class TorchSparseOperator(ExplicitOperator):
    """A Torch sparse tensor (COO, CSR or any other layout), kept as COO."""

    def __init__(self, a: Any) -> None:
        xp = namespace(a)
        if a.ndim != 2:
            msg = f"A is a sparse tensor of shape {tuple(a.shape)}; expected two dimensions."
            raise ValueError(msg)
        if a.dense_dim():
            msg = "A is a hybrid tensor, with dense rows of a sparse one. Pass A.to_dense()."
            raise ValueError(msg)
        coo = a.detach().to_sparse_coo().coalesce()
        self.array = coo.to(working_dtype(xp, coo.dtype))
        super().__init__(
            tuple(coo.shape), dtype=self.array.dtype, xp=xp, device=coo.device,
            result_dtype=result_dtype(xp, a.dtype),
        )  # fmt: skip
        self.hermitian = None
        self.source = _source(a)

    def _matmat(self, x: Array) -> Array:
        return self.array @ x

    def _rmatmat(self, x: Array) -> Array:
        return self._adjoint @ x

    @cached_property
    def _adjoint(self) -> Any:
        return self.array.transpose(0, 1).conj().coalesce()

    def values(self) -> Array:
        """Return the stored entries, shape (nnz,)."""
        return self.array.values()

    def _gather(self, index: Array, values: Array, size: int) -> Array:
        sums = self.xp.zeros(size, dtype=values.dtype, device=self.device)
        return sums.index_add_(0, index, values)

    def diagonal(self) -> Array:
        """Return the diagonal."""
        rows, columns = self.array.indices()
        on = rows == columns
        return self._gather(rows[on], self.values()[on], min(self.shape))

    def absolute_row_sums(self) -> Array:
        """Return the sums of moduli over rows."""
        sizes = self.values().abs().to(self.xp.float64)
        return self._gather(self.array.indices()[0], sizes, self.shape[0])

    def asymmetry(self) -> float:
        """Return the largest deviation from the adjoint."""
        difference = (self.array - self._adjoint).coalesce().values()
        return float(difference.abs().max()) if difference.numel() else 0.0

    def equals_adjoint(self, tolerance: float) -> bool:
        """Whether no entry differs from its mirror by more than a share of both its rows."""
        difference = (self.array - self._adjoint).coalesce()
        rows, columns = difference.indices()
        sizes = self.values().abs()
        largest = self.xp.zeros(self.shape[0], dtype=sizes.dtype, device=self.device)
        largest = largest.scatter_reduce_(0, self.array.indices()[0], sizes, "amax")
        least = self.xp.minimum(largest[rows], largest[columns])
        return bool((difference.values().abs() <= tolerance * least).all())

    def dense(self) -> Array:
        """Return the matrix as a dense tensor."""
        return self._double(self.array.to_dense())

    def csc_on_host(self) -> Any:
        """Return a SciPy CSC array in double precision, or None if the matrix lies on a GPU."""
        from scipy.sparse import coo_array

        if not on_cpu(self.array):
            return None
        indices = self.array.indices().numpy()
        return coo_array((to_host(self.values()), indices), shape=self.shape).tocsc()


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
        *,
        dtype: Any,
        xp: Any,
        device: Any,
        hermitian: bool | None,
        traces: tuple[float, ...] = (),
        frobenius_norm: float | None = None,
    ) -> None:
        super().__init__(shape, dtype=dtype, xp=xp, device=device)
        self._product, self._adjoint_product = matmat, rmatmat
        self.hermitian, self._traces, self._frobenius_norm = hermitian, traces, frobenius_norm

    def power_traces(self) -> tuple[float, ...]:
        """Return what its maker stated."""
        return self._traces

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
    if isinstance(A, LinearOperator):
        return A
    if _is_scipy_sparse(A):
        return SparseOperator(A, default_namespace())
    if _is_cupy_sparse(A):
        return SparseOperator(A, namespace(A.data))
    if _is_torch_sparse(A):
        return TorchSparseOperator(A)
    if is_array(A) or isinstance(A, (list, tuple)):
        return _dense(A)
    if hasattr(A, "shape"):
        if not any(hasattr(A, name) for name in ("matmat", "matvec")) and hasattr(A, "__array__"):
            return _dense(np.asarray(A))
        facts = _stated(A, trace, frobenius_squared)
        return _from_object(A, dtype=dtype, hermitian=hermitian, like=like, facts=facts)
    if callable(A):
        return _from_callable(
            A, n, dtype=dtype, rmatvec=rmatvec, matmat=matmat, rmatmat=rmatmat,
            hermitian=hermitian, like=like, facts=_stated(A, trace, frobenius_squared),
        )  # fmt: skip
    msg = (
        f"A is of type {type(A).__name__}; expected an array, a sparse matrix, an object with "
        "shape and matmat, matvec or @, or a callable with n=."
    )
    raise TypeError(msg)


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


def _dense(a: Any) -> LinearOperator:
    numbers = as_dense(a)
    if numbers.ndim != 2:
        msg = f"A has shape {tuple(numbers.shape)}; expected two dimensions."
        raise ValueError(msg)
    op = DenseOperator(numbers)
    op.source = _source(a)
    return op


def _source(a: Any) -> Any:
    """Return a Torch tensor that requires a gradient, and None for anything else."""
    return a if getattr(a, "requires_grad", False) else None


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


def _home(a: Any, dtype: Any, like: Array | None) -> tuple[Any, Any, Any]:
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


def _from_object(
    a: Any,
    *,
    dtype: Any,
    hermitian: bool | None,
    like: Array | None,
    facts: dict[str, Any],
) -> LinearOperator:
    shape = tuple(int(side) for side in a.shape)
    if len(shape) != 2:
        msg = f"A has shape {shape}; expected two dimensions."
        raise ValueError(msg)
    xp, where, working = _home(a, dtype, like)
    if hasattr(a, "matmat"):
        product = _of_scipy(a.matmat) if _is_scipy(a) else a.matmat
    elif hasattr(a, "matvec"):
        product = _by_columns(a.matvec)
    elif hasattr(a, "__matmul__"):
        product = a.__matmul__
    else:
        msg = f"A of type {type(a).__name__} has a shape but neither matmat, matvec nor @."
        raise TypeError(msg)
    claimed = getattr(a, "hermitian", None) if hermitian is None else hermitian
    return ForeignOperator(
        shape, product, _adjoint_of(a),
        dtype=working, xp=xp, device=where, hermitian=claimed, **facts,
    )  # fmt: skip


def _adjoint_of(a: Any) -> Callable[[Array], Array] | None:
    """Return the adjoint product of an object, or None where it has none."""
    if hasattr(a, "rmatmat"):
        return _of_scipy(a.rmatmat) if _is_scipy(a) else a.rmatmat
    return _by_columns(a.rmatvec) if hasattr(a, "rmatvec") else None


def _is_scipy(a: Any) -> bool:
    return any(kind.__module__.startswith("scipy.") for kind in type(a).__mro__)


def _of_scipy(product: Callable[[Array], Array]) -> Callable[[Array], Array]:
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


def _by_columns(apply: Callable[[Array], Array]) -> Callable[[Array], Array]:
    def block(x: Array) -> Array:
        xp = namespace(x)
        columns = [apply(x[:, r]) for r in range(x.shape[1])]
        columns = [c if is_array(c) else xp.asarray(c, device=device(x)) for c in columns]
        return xp.stack([xp.reshape(c, (-1,)) for c in columns], axis=1)

    return block


def _from_callable(
    a: Callable[[Array], Array],
    n: int | None,
    *,
    dtype: Any,
    rmatvec: Callable[[Array], Array] | None,
    matmat: Callable[[Array], Array] | None,
    rmatmat: Callable[[Array], Array] | None,
    hermitian: bool | None,
    like: Array | None,
    facts: dict[str, Any],
) -> LinearOperator:
    if n is None:
        msg = "A is a callable, whose size is unknown; pass aslinearoperator(A, n=..., dtype=...)."
        raise TypeError(msg)
    if isinstance(n, bool) or not isinstance(n, (int, np.integer)) or n < 0:
        msg = f"n is {n!r}; expected the order of the matrix, an integer, at least 0."
        raise ValueError(msg)
    xp, where, working = _home(a, dtype, like)
    adjoint = rmatmat if rmatmat is not None else (_by_columns(rmatvec) if rmatvec else None)
    return ForeignOperator(
        (n, n), matmat or _by_columns(a), adjoint,
        dtype=working, xp=xp, device=where, hermitian=hermitian, **facts,
    )  # fmt: skip
