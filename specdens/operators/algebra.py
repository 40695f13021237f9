"""Operators that are applied but never formed: Gram matrices, shifts, multiples and sums."""

from __future__ import annotations

import cmath
import math
import reprlib
from collections.abc import Callable
from functools import cached_property, partial
from typing import Any

import numpy as np

from specdens.arrays.libraries import Array, column_dots
from specdens.kernels.compiled import kernel
from specdens.kernels.cpu.step_frame import needs_product
from specdens.operators.aslinearoperator import aslinearoperator
from specdens.operators.dense import DenseOperator
from specdens.operators.explicit import LEAST_ENTRIES, RANGE
from specdens.operators.linear_operator import LinearOperator, Step
from specdens.operators.power_traces import PowerTraces

__all__ = [
    "Adjoint",
    "Counting",
    "Gram",
    "Scaled",
    "Shifted",
    "Sum",
    "finite_number",
    "finite_real",
]

CENTERS = ("features", "samples", "none")

WIDEST = 2**14
"""Columns of X up to which a block of vectors stays in the cache while rows of X pass by."""


def finite_number(value: Any, name: str) -> float | complex:
    """Return a number of any library as a Python float, or complex if it is of a complex type."""
    shown = f"{name} is {reprlib.repr(value)}"
    if isinstance(value, (str, bytes)) or getattr(value, "ndim", 0) != 0:
        msg = f"{shown}; expected a number."
        raise TypeError(msg)
    try:
        number = complex(value)
    except (TypeError, ValueError):
        msg = f"{shown}; expected a number."
        raise TypeError(msg) from None
    except OverflowError:
        number = complex(np.inf)
    if not cmath.isfinite(number):
        msg = f"{shown}; expected a finite number."
        raise ValueError(msg)
    complex_ = isinstance(value, complex) or "complex" in str(getattr(value, "dtype", ""))
    return number if complex_ else number.real


def finite_real(value: Any, name: str) -> float:
    """Return a real number of any library as a Python float."""
    number = finite_number(value, name)
    if isinstance(number, complex):
        msg = f"{name} is {number}; expected a real number."
        raise ValueError(msg)
    return number


def _dtype_with(op: LinearOperator, value: complex) -> Any:
    """Return the dtype of op, made complex if value is."""
    xp = op.xp
    if not isinstance(value, complex) or xp.isdtype(op.dtype, "complex floating"):
        return op.dtype
    return xp.complex64 if op.dtype == xp.float32 else xp.complex128


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
        self.hermitian = True
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


class Shifted(LinearOperator):
    """``A + shift I``.

    Parameters
    ----------
    A : anything that `aslinearoperator` takes, shape (n, n)
    shift : number
        Finite; a complex one makes the operator complex.

    Raises
    ------
    ValueError
        If A is not square or `shift` not finite.

    Examples
    --------
    >>> import numpy as np
    >>> Shifted(np.eye(2), 3.0) @ np.array([1.0, 2.0])
    array([4., 8.])
    """

    def __init__(self, A: Any, shift: complex) -> None:
        self.base, self.shift = aslinearoperator(A), finite_number(shift, "shift")
        if self.base.shape[0] != self.base.shape[1]:
            msg = f"A has shape {self.base.shape}; only a square matrix can be shifted."
            raise ValueError(msg)
        base = self.base
        super().__init__(
            base.shape,
            dtype=_dtype_with(base, self.shift),
            xp=base.xp,
            device=base.device,
            result_dtype=base.result_dtype,
        )
        self.max_memory, self.widths = base.max_memory, base.widths
        real = complex(self.shift).imag == 0
        self.hermitian = base.hermitian if real else (False if base.hermitian else None)
        if real:
            offset = complex(self.shift).real
            self.lower, self.upper = base.lower + offset, base.upper + offset

    def power_traces(self) -> tuple[float, ...]:
        """Return those of the base, expanded by the binomial theorem."""
        powers = (float(self.shape[0]), *self.base.power_traces())
        return shifted_traces(powers, complex(self.shift).real)[1:]

    def centered_traces(self) -> PowerTraces:
        """Return those of the base about a center that moves along."""
        return self.base.centered_traces().shifted(complex(self.shift).real)

    def recurrence(self, columns: int) -> Step | None:
        """Return that of the base, for a real shift."""
        step = self.base.recurrence(columns) if self.dtype == self.base.dtype else None
        if step is None:
            return None
        shift = complex(self.shift).real
        return lambda x, y, a, b, c: step(x, y, a, b + a * shift, c)

    def _matmat(self, x: Array) -> Array:
        return self.base.matmat(x) + self.shift * x

    def _rmatmat(self, x: Array) -> Array:
        return self.base.rmatmat(x) + complex_conjugate(self.shift) * x


class Scaled(LinearOperator):
    """``factor A``.

    Parameters
    ----------
    A : anything that `aslinearoperator` takes
    factor : number
        Finite; a complex one makes the operator complex.

    Raises
    ------
    ValueError
        If `factor` is not finite.

    Examples
    --------
    >>> import numpy as np
    >>> Scaled(np.eye(2), 3.0) @ np.array([1.0, 2.0])
    array([3., 6.])
    """

    def __init__(self, A: Any, factor: complex) -> None:
        self.base, self.factor = aslinearoperator(A), finite_number(factor, "factor")
        base = self.base
        super().__init__(
            base.shape,
            dtype=_dtype_with(base, self.factor),
            xp=base.xp,
            device=base.device,
            result_dtype=base.result_dtype,
        )
        self.max_memory, self.widths = base.max_memory, base.widths
        real = complex(self.factor).imag == 0
        self.hermitian = base.hermitian if real else None
        if real and complex(self.factor).real:
            ends = (base.lower * complex(self.factor).real, base.upper * complex(self.factor).real)
            self.lower, self.upper = min(ends), max(ends)

    def power_traces(self) -> tuple[float, ...]:
        """Return those of the base, times powers of the factor."""
        s = complex(self.factor).real
        return tuple(s**k * t for k, t in enumerate(self.base.power_traces(), 1))

    def centered_traces(self) -> PowerTraces:
        """Return those of the base, times powers of the factor."""
        return self.base.centered_traces().scaled(complex(self.factor).real)

    def frobenius_norm(self) -> float | None:
        """Return that of the base, times the modulus of the factor."""
        norm = self.base.frobenius_norm()
        return None if norm is None else abs(self.factor) * norm

    def recurrence(self, columns: int) -> Step | None:
        """Return that of the base, for a real factor."""
        step = self.base.recurrence(columns) if self.dtype == self.base.dtype else None
        if step is None:
            return None
        factor = complex(self.factor).real
        return lambda x, y, a, b, c: step(x, y, a * factor, b, c)

    def _matmat(self, x: Array) -> Array:
        return self.factor * self.base.matmat(x)

    def _rmatmat(self, x: Array) -> Array:
        return complex_conjugate(self.factor) * self.base.rmatmat(x)


class Sum(LinearOperator):
    """``A_1 + A_2 + ...``.

    Parameters
    ----------
    *operators : anything that `aslinearoperator` takes
        One at least, of one shape, library and device.

    Raises
    ------
    ValueError
        If there is none, or shapes, libraries or devices differ.

    Examples
    --------
    >>> import numpy as np
    >>> Sum(np.eye(2), np.ones((2, 2))) @ np.array([1.0, 2.0])
    array([4., 5.])
    """

    def __init__(self, *operators: Any) -> None:
        self.terms = [aslinearoperator(a) for a in operators]
        homes = {(op.shape, op.xp.__name__, str(op.device)) for op in self.terms}
        if len(homes) != 1:
            found = "; ".join(f"{s} of {x} on {d}" for s, x, d in sorted(homes)) or "none"
            msg = f"expected operators of one shape, library and device; got {found}."
            raise ValueError(msg)
        first = self.terms[0]
        dtype = first.xp.result_type(*(op.dtype for op in self.terms))
        results = first.xp.result_type(*(op.result_dtype for op in self.terms))
        super().__init__(
            first.shape, dtype=dtype, xp=first.xp, device=first.device, result_dtype=results
        )
        self.hermitian = True if all(op.hermitian for op in self.terms) else None
        self.lower = sum(op.lower for op in self.terms)
        self.upper = sum(op.upper for op in self.terms)

    def power_traces(self) -> tuple[float, ...]:
        """Return the trace if that of each term is known."""
        known = [op.power_traces() for op in self.terms]
        return (sum(t[0] for t in known),) if all(known) else ()

    def _matmat(self, x: Array) -> Array:
        return self._added([op.matmat(x) for op in self.terms])

    def _rmatmat(self, x: Array) -> Array:
        return self._added([op.rmatmat(x) for op in self.terms])

    @staticmethod
    def _added(parts: list[Array]) -> Array:
        total = parts[0]
        for part in parts[1:]:
            total = total + part
        return total


class Adjoint(LinearOperator):
    """``A^H``."""

    def __init__(self, base: LinearOperator) -> None:
        self.base = base
        super().__init__(
            (base.shape[1], base.shape[0]),
            dtype=base.dtype,
            xp=base.xp,
            device=base.device,
            result_dtype=base.result_dtype,
        )
        self.hermitian, self.max_memory = base.hermitian, base.max_memory

    def _matmat(self, x: Array) -> Array:
        return self.base.rmatmat(x)

    def _rmatmat(self, x: Array) -> Array:
        return self.base.matmat(x)


class Counting(LinearOperator):
    """An operator that counts the vectors it multiplies, by itself or its adjoint."""

    def __init__(self, base: LinearOperator) -> None:
        self.base, self.count = base, 0
        super().__init__(
            base.shape, dtype=base.dtype, xp=base.xp, device=base.device,
            result_dtype=base.result_dtype,
        )  # fmt: skip
        self.hermitian, self.max_memory = base.hermitian, base.max_memory
        self.widths = base.widths

    def power_traces(self) -> tuple[float, ...]:
        """Return those of the base."""
        return self.base.power_traces()

    def centered_traces(self) -> PowerTraces:
        """Return those of the base."""
        return self.base.centered_traces()

    def recurrence(self, columns: int) -> Step | None:
        """Return that of the base, counted."""
        step = self.base.recurrence(columns)
        if step is None:
            return None

        def counted(x: Array, y: Array, a: Any, b: Any, c: Any) -> tuple[Any, Any]:
            self.count += columns if needs_product(a) else 0
            return step(x, y, a, b, c)

        return counted

    def _matmat(self, x: Array) -> Array:
        self.count += x.shape[1]
        return self.base.matmat(x)

    def _rmatmat(self, x: Array) -> Array:
        self.count += x.shape[1]
        return self.base.rmatmat(x)


def shifted_traces(powers: tuple[float, ...], shift: float) -> tuple[float, ...]:
    """Return ``tr (A + shift I)^k`` from ``tr A^k``, both from k = 0 on (the binomial theorem)."""
    return tuple(
        sum(math.comb(k, j) * shift ** (k - j) * powers[j] for j in range(k + 1))
        for k in range(len(powers))
    )


def complex_conjugate(value: complex) -> complex:
    """Return the conjugate of a Python number, real ones unchanged."""
    return value.conjugate() if isinstance(value, complex) else value
