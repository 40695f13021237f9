"""Make the run that a `Spectrum` is asked from: of a Hermitian matrix, or of singular values."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from specdens.arrays.libraries import is_array, to_host
from specdens.arrays.probes import Probes
from specdens.estimation.goal import moments_alone
from specdens.estimation.question import Question
from specdens.estimation.sampling import by_blocks, known_traces, probes_for
from specdens.exact.factorizations import dense_of
from specdens.operators.algebra import Adjoint, Counting
from specdens.operators.linear_operator import LinearOperator
from specdens.problem.prepare import Problem, checked_count
from specdens.recurrences.lanczos import bidiagonalize, tridiagonalize
from specdens.results import UNBOUNDED
from specdens.spectra.spectral_run import SpectralRun
from specdens.structured.spectrum_union import (
    eigenvalues,
    eigenvalues_are_cheap,
    singular_values,
    union,
)

__all__ = ["EXACT_OR_LANCZOS", "extended", "record", "record_singular"]

EXACT_OR_LANCZOS = ("auto", "exact", "lanczos")


def record(problem: Problem, question: Question) -> SpectralRun:
    """Run on a Hermitian matrix, without eigenvalues that are known to be multiple.

    Parameters
    ----------
    problem : Problem
        What is known of the matrix.
    question : Question
        Moments, probes, method and key count.
    """
    moments, method = question.moments, question.method
    empty = SpectralRun(
        n=problem.n,
        shift=problem.real_shift,
        moments=moments,
        unit=problem.op.unit,
        known=problem.known,
        stated=problem.stated,
        eigenvalues=np.zeros(0),
    )
    if problem.n == 0:
        return empty
    rest, atoms = (problem, ()) if is_array(question.probes) else _without_atoms(problem)
    vectors, first = _vectors(rest.op, question)
    full = question.is_exhaustive(rest, vectors)
    if method == "exact" or (method == "auto" and (full or eigenvalues_are_cheap(problem.op))):
        values, matvecs = eigenvalues(problem.op)
        values = np.asarray(to_host(values), dtype=float) + problem.real_shift
        return replace(empty, eigenvalues=values, matvecs=problem.matvecs + matvecs)
    op = Counting(rest.shifted)
    steps = math.ceil(moments / 2)
    factors = by_blocks(op, vectors, lambda x: tridiagonalize(op, x, steps), first=first)
    return replace(
        empty,
        eigenvalues=None,
        known=rest.known,
        stated=rest.stated,
        traces=known_traces(op, vectors).about(0.0).values[1:],
        factors=tuple(factors),
        sources=_sources(vectors, first),
        exhaustive=vectors.exhaustive,
        atoms=atoms,
        matvecs=problem.matvecs + op.count,
    )


def record_singular(op: LinearOperator, question: Question) -> SpectralRun:
    """Run on a matrix of any shape, whose ``min(m, n)`` singular values are the spectrum.

    By Golub-Kahan steps and not by those of ``A^H A``, whose eigenvalues are squares, of which the
    small ones drown in rounding.

    Raises
    ------
    ValueError
        If the adjoint product is missing.
    """
    moments, method = question.moments, question.method
    narrow = op if op.shape[0] >= op.shape[1] else Adjoint(op)
    n = narrow.shape[1]
    known = replace(UNBOUNDED, low=0.0, low_rigorous=True, how="construction")
    empty = SpectralRun(
        n=n, shift=0.0, moments=moments, unit=op.unit, known=known, stated=False,
        eigenvalues=np.zeros(0), singular=True,
    )  # fmt: skip
    if n == 0:
        return empty
    vectors, first = _vectors(narrow, question)
    full = vectors.exhaustive and moments >= 2 * n
    values = singular_values(op) if method != "lanczos" else None
    if values is not None:
        found = np.sort(to_host(values))
        return replace(empty, eigenvalues=np.concatenate([np.zeros(n - len(found)), found]))
    if method == "exact" or (method == "auto" and full):
        found = np.sort(to_host(op.xp.linalg.svdvals(dense_of(op))))
        return replace(empty, eigenvalues=found, matvecs=op.shape[1])
    counted = Counting(narrow)
    steps = math.ceil(moments / 2)
    try:
        factors = by_blocks(
            counted, vectors, lambda x: bidiagonalize(counted, x, steps), first=first
        )
    except NotImplementedError as error:
        raise ValueError(str(error)) from None
    return replace(
        empty,
        eigenvalues=None,
        factors=tuple(factors),
        sources=_sources(vectors, first),
        exhaustive=vectors.exhaustive,
        matvecs=counted.count,
    )


def extended(
    run: SpectralRun, problem: Problem, probes: int | None, moments: int | None
) -> SpectralRun:
    """Return a run with more random probes, or more moments of all of them."""
    if not run.sources or run.singular:
        msg = f"nothing to extend: {'singular values' if run.singular else 'no random probes'}."
        raise ValueError(msg)
    if problem.n != run.n:
        msg = f"A has order {problem.n}; expected the matrix of the run, of order {run.n}."
        raise ValueError(msg)
    moments = run.moments if moments is None else checked_count(moments, "moments")
    count = len(run.factors)
    probes = count if probes is None else checked_count(probes, "probes")
    if moments < run.moments or probes < count or (moments, probes) == (run.moments, count):
        msg = (
            f"probes={probes} and moments={moments} are no more than the {count} and {run.moments} "
            "of this run."
        )
        raise ValueError(msg)
    if run.stated:
        problem = replace(problem, known=run.known, stated=True)
    goal = moments_alone(moments)

    def again(key: int, numbers: range) -> Question:
        return Question(problem.op, goal, probes=numbers, method="lanczos", rng=key)

    total = run
    if moments > run.moments:
        longer = [record(problem, again(key, numbers)) for key, numbers in run.sources]
        total = longer[0]
        for part in longer[1:]:
            total = total.merged(part)
        total = replace(total, matvecs=total.matvecs + run.matvecs)
    if probes > count:
        key, numbers = run.sources[-1]
        added = range(numbers.stop, numbers.stop + probes - count)
        total = total.merged(record(problem, again(key, added)))
    return total


def _without_atoms(problem: Problem) -> tuple[Problem, tuple[tuple[float, int], ...]]:
    """Return what is left of a matrix without the eigenvalue that is known to be multiple."""
    found = union(problem)
    if found is None or len(found.parts) != 1 or not found.known or found.parts[0].n == 0:
        return problem, ()
    return found.parts[0], tuple((complex(x).real, times) for x, times in found.known)


def _vectors(op: LinearOperator, question: Question) -> tuple[Probes, int]:
    """Return the probes that were asked for, and the number of the first to be run."""
    probes = question.probes
    if not isinstance(probes, range):
        return question.vectors(op), 0
    if probes.step != 1 or probes.start < 0 or not probes:
        msg = f"probes is {probes}; expected range(start, stop) with 0 <= start < stop."
        raise ValueError(msg)
    made = probes_for(op, 1, question.rng)
    return replace(made, count=probes.stop, exhaustive=False), probes.start


def _sources(vectors: Probes, first: int) -> tuple[tuple[int, range], ...]:
    """Return the key and the numbers of random probes."""
    if vectors.key is None or vectors.exhaustive:
        return ()
    return ((vectors.key, range(first, vectors.count)),)
