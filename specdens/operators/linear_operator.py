"""What the algorithms know of a matrix: its shape, its precision, and its product with a block."""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from specdens.arrays.libraries import Array, is_complex, to_host
from specdens.arrays.libraries import result_dtype as real_result
from specdens.kernels.compiled import WIDTHS
from specdens.operators.power_traces import PowerTraces

if TYPE_CHECKING:
    from scipy.sparse.linalg import LinearOperator as ScipyOperator

__all__ = ["NO_ADJOINT", "LinearOperator", "Step"]

Step: TypeAlias = Callable[[Array, Array, Any, Any, Any], tuple[Any, Any]]

NO_ADJOINT = (
    "the operator is not Hermitian and has no adjoint product; pass rmatvec= to aslinearoperator."
)


class LinearOperator(ABC):
    """A matrix that is only applied, on the array library and device where it lives.

    Made by `aslinearoperator`, `Gram`, `Shifted`, `Scaled` and `Sum`.

    Attributes
    ----------
    shape : tuple of int
    dtype
        The precision of products: single or double, real or complex, of the namespace `xp`.
    xp, device
        Array API namespace and device of the blocks it takes and gives.
    result_dtype
        The real dtype of results: float64 unless the matrix was given in single precision.
    hermitian : bool or None
        Whether it equals its adjoint; None where that is not known.
    hermitian_by_construction : bool
        Whether that needs nobody's word, so that products that differ only show rounding.
    lower, upper : float
        Bounds of the spectrum that hold by construction, if it is Hermitian; else infinite.
    max_memory : int or None
        Bytes that the blocks of vectors of a recurrence may take; None leaves it to the library.
    widths : tuple of int
        Columns of a block that there is a `recurrence` for, ascending: others are padded.
    """

    # Products with a Python sequence or NumPy array on the left come to us.
    __array_ufunc__ = None

    hermitian: bool | None
    hermitian_by_construction = False
    lower = -np.inf
    upper = np.inf
    max_memory: int | None = None
    widths: tuple[int, ...] = WIDTHS

    def __init__(
        self, shape: tuple[int, int], *, dtype: Any, xp: Any, device: Any, result_dtype: Any = None
    ) -> None:
        self.shape, self.dtype, self.xp, self.device = shape, dtype, xp, device
        self.result_dtype = real_result(xp, dtype) if result_dtype is None else result_dtype

    @property
    def unit(self) -> float:
        """The unit roundoff of products."""
        return float(self.xp.finfo(self.dtype).eps)

    @property
    def stored_unit(self) -> float:
        """The unit roundoff of the precision in which the matrix was given."""
        return float(self.xp.finfo(self.result_dtype).eps)

    @property
    def itemsize(self) -> int:
        """The bytes of one number of a block."""
        complex_ = self.xp.isdtype(self.dtype, "complex floating")
        return int(self.xp.finfo(self.dtype).bits) // 8 * (2 if complex_ else 1)

    def power_traces(self) -> tuple[float, ...]:
        """Return tr A, tr A^2, ... of a Hermitian A as far as they are known without a product."""
        return ()

    def centered_traces(self) -> PowerTraces:
        """Return `power_traces` with what rounding did to them, about a center that is not far."""
        return PowerTraces.about_zero(self.power_traces(), self.shape[0])

    def frobenius_norm(self) -> float | None:
        """Return the root of the sum of all squared entries, if it is known without a product."""
        return None

    def recurrence(self, columns: int) -> Step | None:
        """Return ``step(x, y, a, b, c)``, or None where products are all there is.

        It sets y to ``a A x + b x + c y`` and returns ``<y, y>`` and the real part of ``<y, x>`` by
        columns, in one pass over memory; ``a``, ``b`` and ``c`` are real numbers or one for each
        column, and the number ``a = 0.0`` costs no product. Blocks have our dtype, C order, and
        `padded_width(columns, widths)` columns. A is Hermitian.
        """
        return None

    @abstractmethod
    def _matmat(self, x: Array) -> Array: ...

    def _rmatmat(self, x: Array) -> Array:
        raise NotImplementedError(NO_ADJOINT)

    def matmat(self, x: Array) -> Array:
        """Return A x for a block x of shape (columns of A, R)."""
        return self._checked(self._in_precision(self._matmat, x), (self.shape[0], x.shape[1]))

    def rmatmat(self, x: Array) -> Array:
        """Return A^H x for a block x of shape (rows of A, R).

        Raises
        ------
        NotImplementedError
            If A is not Hermitian and nobody said how to apply its adjoint.
        """
        product = self._matmat if self.hermitian else self._rmatmat
        return self._checked(self._in_precision(product, x), (self.shape[1], x.shape[1]))

    def rmatmat_or_none(self, x: Array) -> Array | None:
        """Return A^H x, or None if nobody said how to compute it."""
        try:
            return self.rmatmat(x)
        except NotImplementedError:  # what SciPy's operators raise, too
            return None

    def _in_precision(self, product: Callable[[Array], Array], x: Array) -> Array:
        """Apply a product that takes blocks of our own dtype to a block of any dtype."""
        xp = self.xp
        if x.dtype == self.dtype:
            return product(x)
        if xp.isdtype(self.dtype, "complex floating") or not is_complex(x):
            return product(xp.astype(x, self.dtype))
        real = product(xp.astype(xp.real(x), self.dtype))
        imaginary = product(xp.astype(xp.imag(x), self.dtype))
        return xp.astype(real, x.dtype) + 1j * xp.astype(imaginary, x.dtype)

    def _checked(self, y: Array, shape: tuple[int, int]) -> Array:
        if tuple(y.shape) != shape:
            msg = (
                f"a product with the {self.shape[0]} x {self.shape[1]} operator has shape "
                f"{tuple(y.shape)}; expected {shape}. Its matmat must map (n, R) to (m, R)."
            )
            raise ValueError(msg)
        return y

    def matvec(self, x: Array) -> Array:
        """Return A x for one vector x."""
        return self.matmat(x[:, None])[:, 0]

    def rmatvec(self, x: Array) -> Array:
        """Return A^H x for one vector x."""
        return self.rmatmat(x[:, None])[:, 0]

    def __matmul__(self, x: Array) -> Array:
        """Return A x for a vector or a block."""
        return self.matvec(x) if x.ndim == 1 else self.matmat(x)

    def columns(self) -> Array:
        """Return the matrix itself, by its products with the unit vectors (n of them)."""
        return self.matmat(self.xp.eye(self.shape[1], dtype=self.dtype, device=self.device))

    def to_scipy(self) -> ScipyOperator:
        """Return a SciPy `LinearOperator` on NumPy arrays, for SciPy's own iterations.

        Every product then passes through the host.
        """
        from scipy.sparse.linalg import LinearOperator as ScipyLinearOperator

        def product(apply: Any) -> Any:
            def on_host(x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
                block = self.xp.asarray(x, dtype=self.dtype, device=self.device)
                return to_host(apply(block))

            return on_host

        dtype = to_host(self.xp.empty(0, dtype=self.dtype, device=self.device)).dtype
        return ScipyLinearOperator(
            self.shape,
            dtype=dtype,
            matvec=product(lambda x: self.matmat(self.xp.reshape(x, (-1, 1)))),
            matmat=product(self.matmat),
            rmatvec=product(lambda x: self.rmatmat(self.xp.reshape(x, (-1, 1)))),
            rmatmat=product(self.rmatmat),
        )

    def __getstate__(self) -> dict[str, Any]:
        """Return what is pickled: modules are not, the namespace goes by its name."""
        return {**self.__dict__, "xp": self.xp.__name__}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Find the namespace again."""
        self.__dict__.update(state, xp=importlib.import_module(state["xp"]))

    def __repr__(self) -> str:
        rows, columns = self.shape
        return f"<{rows} x {columns} {type(self).__name__} of {self.dtype}>"
