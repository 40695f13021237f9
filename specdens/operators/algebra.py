"""Shifts, multiples, sums and adjoints of operators, never formed; and products, counted."""

from __future__ import annotations

import cmath
import math
import reprlib
from typing import Any

import numpy as np

from specdens.arrays.libraries import Array
from specdens.kernels.cpu.step_frame import needs_product
from specdens.operators.aslinearoperator import aslinearoperator
from specdens.operators.linear_operator import LinearOperator, Step
from specdens.operators.power_traces import PowerTraces

__all__ = [
    "Adjoint",
    "Counting",
    "Scaled",
    "Shifted",
    "Sum",
    "finite_number",
    "finite_real",
]


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
