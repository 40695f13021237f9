"""Whether an operator is Hermitian: known without a product, beyond doubt, up to rounding."""

from __future__ import annotations

import math

from specdens.operators.explicit import ExplicitOperator
from specdens.operators.linear_operator import LinearOperator

__all__ = [
    "asymmetry_tolerance",
    "is_known_hermitian",
    "is_surely_hermitian",
    "rounding_of_adjoint",
]

NUMBERS = ("shift", "factor")
"""Attributes of an operator that has to be real to be Hermitian."""


def is_known_hermitian(op: LinearOperator) -> bool:
    """Whether op is Hermitian by its entries or its word, without a product."""
    if not isinstance(op, ExplicitOperator):
        return bool(op.hermitian)
    if op.shape[0] != op.shape[1]:
        return False
    return op.shape[0] == 0 or op.equals_adjoint(rounding_of_adjoint(op))


def is_surely_hermitian(op: LinearOperator) -> bool:
    """Whether op equals its adjoint by its entries or its construction, and not by a claim.

    Products with it may be far from symmetric all the same: ``P^(-1/2) A P^(-1/2)`` magnifies the
    rounding of an ill-conditioned A.
    """
    if isinstance(op, ExplicitOperator):
        return is_known_hermitian(op)
    if op.hermitian_by_construction:
        return True
    if op.hermitian is False or any(complex(getattr(op, name, 0)).imag for name in NUMBERS):
        return False
    parts = [getattr(op, "base", None), *(getattr(op, "terms", None) or ())]
    parts += [*(getattr(op, "factors", None) or ()), *(getattr(op, "blocks", None) or ())]
    operators = [part for part in parts if isinstance(part, LinearOperator)]
    return bool(operators) and all(map(is_surely_hermitian, operators))


def rounding_of_adjoint(op: LinearOperator) -> float:
    """Return the relative asymmetry that rounding alone can cause."""
    return asymmetry_tolerance(op.unit, op.shape[0])


def asymmetry_tolerance(unit: float, n: int) -> float:
    """Return the same for any precision and order."""
    return 10 * unit * (1 + math.sqrt(n))
