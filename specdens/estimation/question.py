"""`Question`: what a caller asked, in one value, made and checked where the call comes in."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from specdens.arrays.probes import Probes, key_of
from specdens.estimation.goal import Goal
from specdens.estimation.sampling import probes_for
from specdens.exact.pencils import whitened
from specdens.operators.linear_operator import LinearOperator
from specdens.problem.prepare import METHODS, Problem, prepare, require_method

__all__ = ["Question"]


@dataclass(frozen=True)
class Question:
    """A matrix, what is claimed of it, and how far and by which means to go.

    Where a part of a structured matrix, or one matrix of a stack, is asked, the question is
    ``replace``d; what is found out about the matrix on the way is a `Problem`.

    Attributes
    ----------
    A : matrix
        As the caller gave it.
    goal : Goal
        How accurate, or how dear.
    B : matrix or None
        Of the pencil ``A - lambda B``.
    probes : int, range, array or None
    method : str
        One of `among`.
    shift : number
        Added to the diagonal.
    hermitian : bool or None
        The caller's claim.
    bounds : tuple of float, or None
        The caller's claim.
    rng
        As callers give it.
    among : tuple of str
        The methods that the call has.
    """

    A: Any
    goal: Goal
    B: Any = None
    probes: Any = None
    method: str = "auto"
    shift: Any = 0.0
    hermitian: bool | None = None
    bounds: Any = None
    rng: Any = None
    among: tuple[str, ...] = METHODS

    def __post_init__(self) -> None:
        require_method(self.method, self.among)

    @property
    def moments(self) -> int:
        """Information per probe, where nothing is left to choose."""
        return self.goal.moments

    @property
    def may_be_exact(self) -> bool:
        """Whether the caller leaves room for an answer without chance."""
        return self.method in {"auto", "exact"}

    @property
    def is_plain(self) -> bool:
        """Whether matrices of a stack may be answered together, by what is exact."""
        special = (self.B, self.bounds, self.probes)
        return self.may_be_exact and all(x is None for x in special)

    def with_key(self) -> Question:
        """Return the question with the key of its probes, the same however often it is asked."""
        return replace(self, rng=key_of(self.rng))

    def of(self, matrix: Any) -> Question:
        """Return the same question of another matrix."""
        return replace(self, A=matrix)

    def by(self, key: int | None) -> Question:
        """Return the same question with probes of a key."""
        return replace(self, rng=key)

    def problem(self) -> Problem:
        """Look at A, or at the one matrix that has the eigenvalues of the pencil."""
        matrix = self.A if self.B is None else whitened(self.A, self.B)
        return prepare(matrix, shift=self.shift, hermitian=self.hermitian, bounds=self.bounds)

    def vectors(self, op: LinearOperator) -> Probes:
        """Return the probes, as columns that an operator can take."""
        return probes_for(op, self.probes, self.rng)

    def is_exhaustive(self, problem: Problem, vectors: Probes) -> bool:
        """Whether the probes are all unit vectors and each is followed to its end."""
        return vectors.exhaustive and self.moments >= 2 * problem.n

    def pays_for_all(self, problem: Problem, vectors: Probes) -> bool:
        """Whether what the caller would spend gives the exact answer, too."""
        return self.is_exhaustive(problem, vectors) or self.goal.pays_for_all(problem.n)
