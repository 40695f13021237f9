"""The spectrum of a structured matrix: the union of smaller spectra and known eigenvalues."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from specdens.arrays.libraries import Array, is_complex
from specdens.exact.factorizations import dense_of, spectrum_is_small
from specdens.operators.algebra import Scaled, Shifted
from specdens.operators.aslinearoperator import aslinearoperator
from specdens.operators.explicit import ExplicitOperator
from specdens.operators.gram import Gram
from specdens.operators.linear_operator import LinearOperator
from specdens.operators.stencil import Stencil
from specdens.problem.prepare import Problem, prepare
from specdens.structured.block_diagonal import BlockDiagonal
from specdens.structured.diagonal_plus_low_rank import DiagonalPlusLowRank
from specdens.structured.gram_nullspace import without_zeros
from specdens.structured.kronecker import Kronecker
from specdens.structured.permuted import Permuted

__all__ = ["Union", "eigenvalues", "eigenvalues_are_cheap", "singular_values", "union"]

MOST_EIGENVALUES = 2**26
"""Eigenvalues of a Kronecker product or of a lattice that are formed: half a gigabyte."""


@dataclass(frozen=True)
class Union:
    """A spectrum as the union of those of other matrices, and of known eigenvalues.

    Attributes
    ----------
    parts : tuple of Problem
    known : tuple of (number, int)
        Eigenvalues and how often they occur.
    """

    parts: tuple[Problem, ...]
    known: tuple[tuple[complex, int], ...] = ()


def union(problem: Problem) -> Union | None:
    """Return the spectrum of ``A + shift I`` as a union, or None if there is no rule for A."""
    op, shift = problem.op, problem.shift
    if isinstance(op, Shifted):
        return Union((_part(problem, op.base, shift + op.shift, alike=not complex(op.shift).imag),))
    if isinstance(op, Permuted) and op.keeps_spectrum:
        return Union((_part(problem, op.base, shift, alike=True),))
    if isinstance(op, BlockDiagonal):
        return Union(tuple(_part(problem, block, shift) for block in op.blocks if block.shape[0]))
    if isinstance(op, Gram):
        rest, zeros = without_zeros(op)
        part = _part(problem, rest, shift)
        return Union((part,), ((op.shift + shift, zeros),)) if zeros else None
    if isinstance(op, DiagonalPlusLowRank) and op.level is not None:
        core = aslinearoperator(op.xp.asarray(op.core, device=op.device))
        others = op.shape[0] - core.shape[0]
        return Union((_part(problem, core, op.level + shift),), ((op.level + shift, others),))
    return None


def _part(whole: Problem, op: LinearOperator, shift: complex, *, alike: bool = False) -> Problem:
    """Return a part whose spectrum lies in that of the whole, which lends it its stated bounds.

    The parts of a Hermitian matrix are Hermitian; one that is `alike` is so only if the whole is.
    """
    hermitian = None
    if not whole.assumed and (alike or whole.hermitian):
        hermitian = whole.hermitian
    part = prepare(op, shift=shift, hermitian=hermitian)
    return replace(part, known=whole.known, stated=True) if whole.stated else part


def _sources(op: LinearOperator) -> list[LinearOperator] | None:
    """Return the matrices whose eigenvalues make all of those of a Hermitian op, if there are."""
    if isinstance(op, Shifted) and not complex(op.shift).imag:
        return [op.base]
    if isinstance(op, Scaled) and not complex(op.factor).imag:
        return [op.base]
    if isinstance(op, Permuted) and op.keeps_spectrum:
        return [op.base]
    if isinstance(op, BlockDiagonal) and op.hermitian:
        return op.blocks
    if isinstance(op, Kronecker) and op.hermitian and op.shape[0] <= MOST_EIGENVALUES:
        return op.factors
    return None


def eigenvalues_are_cheap(op: LinearOperator) -> bool:
    """Whether all eigenvalues of a Hermitian op follow from those of small matrices."""
    if isinstance(op, DiagonalPlusLowRank):
        return op.level is not None
    sources = _sources(op)
    if sources is None:
        return spectrum_is_small(op) or _has_symbol(op)
    return all(eigenvalues_are_cheap(source) for source in sources)


def _has_symbol(op: LinearOperator) -> bool:
    """Whether plane waves are eigenvectors of op."""
    return isinstance(op, Stencil) and op.circulant and op.shape[0] <= MOST_EIGENVALUES


def eigenvalues(op: LinearOperator) -> tuple[Array, int]:
    """Return all eigenvalues of a Hermitian op in ascending order, and the products they took.

    Those of a structured matrix come from its parts; of anything else from a dense matrix.
    """
    found, matvecs = _unsorted(op)
    return op.xp.sort(found), matvecs


def _unsorted(op: LinearOperator) -> tuple[Array, int]:
    xp = op.xp
    if isinstance(op, DiagonalPlusLowRank) and op.level is not None:
        core = xp.linalg.eigvalsh(xp.asarray(op.core, device=op.device))
        return _filled(op, op.level + core, op.level), 0
    if isinstance(op, Gram):
        rest, _ = without_zeros(op)
        return _filled(op, xp.linalg.eigvalsh(dense_of(rest)), op.shift), rest.shape[0]
    if isinstance(op, Stencil) and _has_symbol(op):
        symbol = xp.reshape(op.symbol(), (-1,))
        return xp.real(symbol) if is_complex(symbol) else symbol, 0  # Hermitian up to rounding
    sources = _sources(op)
    if sources is None:
        explicit = isinstance(op, ExplicitOperator)
        return xp.linalg.eigvalsh(dense_of(op)), 0 if explicit else op.shape[0]
    found = [_unsorted(source) for source in sources]
    values, matvecs = [x for x, _ in found], sum(count for _, count in found)
    if isinstance(op, BlockDiagonal):
        return xp.concat(values), matvecs
    if isinstance(op, Kronecker):
        return _outer(op, values), matvecs
    if isinstance(op, Shifted):
        return values[0] + complex(op.shift).real, matvecs
    return (complex(op.factor).real if isinstance(op, Scaled) else 1.0) * values[0], matvecs


def _filled(op: LinearOperator, found: Array, value: float) -> Array:
    """Return eigenvalues together with as many equal to `value` as are missing."""
    xp = op.xp
    others = xp.full(op.shape[0] - found.shape[0], value, dtype=found.dtype, device=op.device)
    return xp.concat([found, others])


def singular_values(op: LinearOperator) -> Array | None:
    """Return the singular values of op that are not 0 by its structure; None if they are dear."""
    xp = op.xp
    if spectrum_is_small(op):
        return xp.linalg.svdvals(dense_of(op))
    if isinstance(op, Stencil) and _has_symbol(op):
        return xp.abs(xp.reshape(op.symbol(), (-1,)))
    if isinstance(op, (Permuted, Scaled)):
        values = singular_values(op.base)
        return values if values is None or isinstance(op, Permuted) else abs(op.factor) * values
    if isinstance(op, (BlockDiagonal, Kronecker)) and min(op.shape) <= MOST_EIGENVALUES:
        parts = op.blocks if isinstance(op, BlockDiagonal) else op.factors
        found = [values for part in parts if (values := singular_values(part)) is not None]
        if len(found) == len(parts):
            return xp.concat(found) if isinstance(op, BlockDiagonal) else _outer(op, found)
    return None


def _outer(op: LinearOperator, factors: list[Array]) -> Array:
    """Return all products of one number of each array."""
    xp = op.xp
    values = xp.ones(1, dtype=xp.float64, device=op.device)
    for others in factors:
        table = values[:, None] * others[None, :]
        values = xp.reshape(table, (math.prod(table.shape),))
    return values
