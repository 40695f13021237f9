"""What is found out about A before any work: is it finite, Hermitian, bounded by what."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from specdens.arrays.libraries import Array, column_dots, magnitude, scalar
from specdens.arrays.probes import gaussian
from specdens.operators.algebra import Shifted, finite_number
from specdens.operators.aslinearoperator import aslinearoperator
from specdens.operators.explicit import ExplicitOperator
from specdens.operators.hermitian import is_known_hermitian, rounding_of_adjoint
from specdens.operators.linear_operator import LinearOperator
from specdens.problem.bounds import known_bounds, stated_bounds
from specdens.results import UNBOUNDED, SpectralBounds

__all__ = [
    "METHODS",
    "Problem",
    "as_result",
    "checked_count",
    "finite_operator",
    "plain_number",
    "prepare",
    "require_hermitian",
    "require_method",
    "require_states",
    "square_operator",
]

METHODS = ("auto", "exact", "lanczos", "chebyshev")


@dataclass(frozen=True)
class Problem:
    """A square matrix ``A + shift I`` with what is known of it before any work.

    Attributes
    ----------
    op : LinearOperator
        A itself.
    shift : float or complex
    hermitian : bool
        Whether ``A + shift I`` is.
    assumed : bool
        Whether that is nobody's claim: an operator without adjoint, until its products contradict.
    known : SpectralBounds
        Of ``A + shift I``, without a product; ends may be infinite.
    stated : bool
        Whether the caller gave them.
    matvecs : int
        Products spent so far.
    """

    op: LinearOperator
    shift: complex
    hermitian: bool
    assumed: bool
    known: SpectralBounds
    stated: bool
    matvecs: int

    @property
    def n(self) -> int:
        """The order of the matrix."""
        return self.op.shape[1]

    @property
    def shifted(self) -> LinearOperator:
        """``A + shift I`` as an operator."""
        return Shifted(self.op, self.shift) if self.shift else self.op

    @property
    def real_shift(self) -> float:
        """The shift of a Hermitian matrix."""
        return complex(self.shift).real

    def result(self, value: complex) -> Array:
        """Return a number as a 0-d value of A's namespace, device and precision."""
        return as_result(self.op, value)


def as_result(op: LinearOperator, value: complex) -> Array:
    """Return a number as a 0-d value in the namespace, device and precision of an operator."""
    xp, dtype = op.xp, op.result_dtype
    if isinstance(value, complex):
        dtype = xp.complex64 if dtype == xp.float32 else xp.complex128
    return scalar(value, xp, dtype, op.device)


def require_method(method: str, among: tuple[str, ...] = METHODS) -> None:
    """Raise a ValueError if there is no such method."""
    if method not in among:
        msg = f"method is {method!r}; expected one of {among}."
        raise ValueError(msg)


def checked_count(value: Any, name: str, *, least: int = 1) -> int:
    """Return an option that counts something, as an int."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
        msg = f"{name} is {value!r}; expected an integer, at least {least}."
        raise ValueError(msg)
    return int(value)


def finite_operator(A: Any) -> LinearOperator:
    """Return A as an operator; raise a ValueError if an entry that can be seen is not finite."""
    op = aslinearoperator(A)
    if isinstance(op, ExplicitOperator) and not math.isfinite(op.largest):
        msg = "A contains NaN or infinity; expected finite numbers. Remove or impute them."
        raise ValueError(msg)
    return op


def square_operator(A: Any) -> LinearOperator:
    """Return A as a square, finite operator."""
    op = finite_operator(A)
    if op.shape[0] != op.shape[1]:
        msg = (
            f"A has shape {op.shape}; expected a square matrix. "
            "For a rectangular one, logpdet(A) gives the sum of log singular values."
        )
        raise ValueError(msg)
    return op


def prepare(
    A: Any,
    *,
    shift: complex = 0.0,
    hermitian: bool | None = None,
    bounds: Any = None,
) -> Problem:
    """Look at a square matrix: shape, finiteness, symmetry, known bounds.

    An operator that does not say whether it is Hermitian is asked by one product with it and one
    with its adjoint, if it has one; otherwise it counts as Hermitian until its products contradict.
    """
    op = square_operator(A)
    shift = finite_number(plain_number(shift), "shift")
    if hermitian not in (None, True, False):
        msg = f"hermitian is {hermitian!r}; expected True, False or None."
        raise TypeError(msg)
    real, assumed, matvecs = _symmetry(op, hermitian)
    symmetric = real and complex(shift).imag == 0
    known = known_bounds(op) if symmetric else UNBOUNDED
    if bounds is not None:
        known = stated_bounds(bounds)
    if symmetric:
        offset = complex(shift).real
        known = replace(known, low=known.low + offset, high=known.high + offset)
    elif bounds is not None:
        known = _of_singular_values(known, complex(shift), real=real)
    return Problem(op, shift, symmetric, assumed, known, bounds is not None, matvecs)


def plain_number(shift: Any) -> complex:
    """Return a number, or a 0-d array or tensor, as a Python number."""
    scalar_like = getattr(shift, "ndim", None) == 0 and hasattr(shift, "item")
    found: complex = shift.item() if scalar_like else shift
    return found


def _of_singular_values(stated: SpectralBounds, shift: complex, *, real: bool) -> SpectralBounds:
    """Return bounds of the singular values of ``A + shift I`` from those of A.

    If A is Hermitian (``real``) they are ``|lambda + shift|``, else they move by ``|shift|`` at
    most.
    """
    low, high = stated
    if real:
        near = max(0.0, low + shift.real, -(high + shift.real))
        far = max(abs(low + shift.real), abs(high + shift.real))
        return replace(stated, low=math.hypot(near, shift.imag), high=math.hypot(far, shift.imag))
    if high < 0:
        msg = f"bounds are ({low}, {high}), but A is not Hermitian: its singular values are >= 0."
        raise ValueError(msg)
    return replace(stated, low=max(0.0, low - abs(shift)), high=high + abs(shift))


def require_hermitian(problem: Problem, what: str) -> None:
    """Raise a ValueError where only a Hermitian matrix makes sense."""
    if complex(problem.shift).imag:
        msg = f"shift is {problem.shift}; {what} needs a real one, or eigenvalues are not real."
        raise ValueError(msg)
    if not problem.hermitian:
        msg = (
            f"A is not Hermitian; {what} needs real eigenvalues. For singular values pass Gram(A), "
            "whose eigenvalues are their squares; logdet(A) takes any square matrix."
        )
        raise ValueError(msg)


def require_states(problem: Problem, what: str = "a density of states") -> None:
    """Raise a ValueError where what describes eigenvalues makes no sense: there are none."""
    require_hermitian(problem, what)
    if problem.n == 0:
        msg = f"A is empty (0 x 0); {what} needs one eigenvalue at least."
        raise ValueError(msg)


def _symmetry(op: LinearOperator, claimed: bool | None) -> tuple[bool, bool, int]:
    """Return whether op is Hermitian, whether that is assumed, and the products that it took."""
    if isinstance(op, ExplicitOperator):
        if claimed is None:
            return is_known_hermitian(op), False, 0
        # Who claims it may have rounding in small entries that come from large ones.
        if claimed and op.shape[0] and op.asymmetry() > rounding_of_adjoint(op) * op.largest:
            msg = (
                f"hermitian=True, but A and its adjoint differ by {op.asymmetry():.3g}. "
                "Pass hermitian=None, or (A + A.conj().T) / 2 if that is meant."
            )
            raise ValueError(msg)
        return claimed, False, 0
    stated = op.hermitian if claimed is None else claimed
    if stated is not None or op.shape[0] == 0:
        return bool(stated) or op.shape[0] == 0, False, 0
    probe = gaussian(op.shape[0], range(1), 0, xp=op.xp, dtype=op.dtype, where=op.device)
    adjoint = op.rmatmat_or_none(probe)
    if adjoint is None:
        return True, True, 0
    product = op.matmat(probe)
    unit = magnitude(product, adjoint)
    product, adjoint = product / unit, adjoint / unit
    difference = product - adjoint
    distance = float(np.real(column_dots(difference, difference))[0]) ** 0.5
    norm = float(np.real(column_dots(product, product))[0]) ** 0.5
    return distance <= rounding_of_adjoint(op) * norm, False, 2
