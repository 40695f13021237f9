"""Exact rules: what is asked of a structured matrix follows from what is asked of its parts.

Each part is treated by the method that suits it, with probes of its own; the errors of independent
estimates then add in quadrature, the bounds of bias plainly, and every doubt is kept.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeAlias, TypeVar

import numpy as np

from specdens.arrays.libraries import adjoint, is_complex, to_host
from specdens.arrays.probes import key_of, key_of_part
from specdens.estimation.estimate import SINGULAR
from specdens.exact.factorizations import UNIT, parity, spectrum_is_small
from specdens.exact.factorizations import slogdet as dense_slogdet
from specdens.operators.algebra import Scaled, Shifted, Sum
from specdens.operators.linear_operator import LinearOperator
from specdens.operators.stencil import Stencil
from specdens.problem.bounds import known_bounds
from specdens.problem.prepare import Problem, prepare
from specdens.recurrences.quadrature import noise_of
from specdens.results import Estimate
from specdens.scalar_functions import LOG, ScalarFunction
from specdens.structured.block_diagonal import BlockDiagonal
from specdens.structured.diagonal_plus_low_rank import DiagonalPlusLowRank
from specdens.structured.kronecker import Kronecker
from specdens.structured.permuted import Permuted
from specdens.structured.spectrum_union import eigenvalues, eigenvalues_are_cheap, union

__all__ = [
    "Rule",
    "by_parts",
    "determinant_by_parts",
    "trace_by_parts",
    "trace_function_by_parts",
]

P = TypeVar("P")

Signed: TypeAlias = tuple[complex, Estimate]


@dataclass(frozen=True)
class Rule(Generic[P]):
    """``constant + sum_i weight_i x_i`` over the parts, and the sign that goes with a determinant.

    Attributes
    ----------
    parts : tuple of (float, P)
        Weights and what they weigh.
    constant : float or complex
    sign : float or complex
        Times the sign of each part to the power of its weight.
    """

    parts: tuple[tuple[float, P], ...] = ()
    constant: complex = 0.0
    sign: complex = 1.0


def by_parts(rule: Rule[P], solve: Callable[[P, int], Signed], rng: Any) -> Signed:
    """Return sign and estimate of the whole by a rule.

    Parameters
    ----------
    rule : Rule
    solve : callable
        Maps a part and the key of its probes to its sign and estimate.
    rng
        As users give it. A sole part gets the key itself, several get keys of their own.
    """
    key = key_of(rng)
    count = len(rule.parts)
    keys = [key] if count == 1 else [key_of_part(key, index) for index in range(count)]
    found = [solve(part, k) for (_, part), k in zip(rule.parts, keys, strict=True)]
    weights = [weight for weight, _ in rule.parts]
    sign = rule.sign
    for weight, (factor, _) in zip(weights, found, strict=True):
        sign = sign * _power(factor, weight)
    estimates = [estimate for _, estimate in found]
    value = rule.constant + sum(w * e.value for w, e in zip(weights, estimates, strict=True))
    return sign, _joined(
        estimates,
        value,
        stderr=math.hypot(*(w * e.stderr for w, e in zip(weights, estimates, strict=True))),
        bias=sum(abs(w) * e.bias_bound for w, e in zip(weights, estimates, strict=True)),
        key=key,
    )


def _power(sign: complex, weight: float) -> complex:
    """Return a sign to an integer power; an unknown real sign has a known even one."""
    if isinstance(sign, float) and math.isnan(sign) and weight % 2 == 0:
        return 1.0
    return sign ** int(weight)


def _joined(
    estimates: list[Estimate], value: complex, *, stderr: float, bias: float, key: int
) -> Estimate:
    """Return one estimate for what was found by several, of known value and errors."""
    flags = tuple(dict.fromkeys(flag for e in estimates for flag in e.flags))
    sampled = [e for e in estimates if e.samples] or estimates
    most = max((e.samples for e in estimates), default=0)
    small = bias <= max(stderr, 1e-8 * abs(value))
    return Estimate(
        value=complex(value) if isinstance(value, complex) else float(value),
        stderr=stderr,
        bias_bound=bias,
        bias_rigorous=all(e.bias_rigorous for e in sampled),
        converged=not flags and (all(e.converged for e in estimates) or small),
        flags=flags,
        matvecs=sum(e.matvecs for e in estimates),
        samples=min((e.samples for e in estimates if e.stderr > 0), default=most),
        method=next((e.method for e in estimates if e.method != "exact"), "exact"),
        bounds=estimates[0].bounds if len(estimates) == 1 else None,
        seed=key if any(e.seed is not None for e in estimates) else None,
    )


def determinant_by_parts(
    problem: Problem, solve: Callable[[Problem, int], Signed], *, exact: bool, rng: Any
) -> Signed | None:
    """Return sign and log|det| of ``A + shift I`` by a rule, or None if there is none.

    Parameters
    ----------
    problem : Problem
    solve : callable
        Maps a part and a key to its sign and log|det|.
    exact : bool
        Whether closed forms are wanted, and not only those of which the parts are sampled.
    rng
        As users give it.
    """
    if exact and isinstance(problem.op, DiagonalPlusLowRank):
        sign, estimate = _low_rank_determinant(problem, problem.op)
    elif exact and (_is_shifted_product(problem) or _is_periodic(problem)):
        sign, estimate = _product_of_eigenvalues(problem)
    else:
        rule = _determinant_rule(problem)
        if rule is None:
            return None
        if rule.constant == -math.inf:
            sign, estimate = 0.0, Estimate(value=-math.inf)
        else:
            sign, estimate = by_parts(rule, solve, rng)
    return sign, replace(estimate, matvecs=problem.matvecs + estimate.matvecs)


def _determinant_rule(problem: Problem) -> Rule[Problem] | None:
    op, n = problem.op, problem.n
    found = union(problem)
    if found is not None:
        return Rule(
            tuple((1, part) for part in found.parts),
            sum(times * _log_abs(value) for value, times in found.known if times),
            math.prod(_phase(value) ** times for value, times in found.known),
        )
    if isinstance(op, Scaled):
        return _multiple(problem, op)
    if problem.shift:
        return None
    if isinstance(op, Permuted):
        return Rule(((1, prepare(op.base)),), sign=parity(op.row_order) * parity(op.column_order))
    if isinstance(op, Kronecker):
        if any(factor.shape[0] != factor.shape[1] for factor in op.factors):
            return Rule(constant=-math.inf)  # products of rectangles lose rank
        return Rule(tuple((n // factor.shape[0], prepare(factor)) for factor in op.factors))
    return None


def _multiple(problem: Problem, op: Scaled) -> Rule[Problem]:
    """``det(c A + s I) = c^n det(A + s/c I)``."""
    n, c = problem.n, op.factor
    if c == 0:
        return Rule(constant=n * _log_abs(problem.shift), sign=_phase(problem.shift) ** n)
    return Rule(((1, _divided(problem, op)),), n * _log_abs(c), _phase(c) ** n)


def _divided(problem: Problem, op: Scaled) -> Problem:
    """Return the base of a multiple ``c A + s I`` as the problem ``A + s/c I``."""
    c, shift = complex(op.factor), problem.shift / op.factor
    alike = not c.imag and not problem.assumed
    hermitian = problem.hermitian if alike and not complex(shift).imag else None
    part = prepare(op.base, shift=shift, hermitian=hermitian)
    if not (problem.stated and alike):
        return part
    low, high = sorted(end / c.real for end in problem.known)
    return replace(part, known=replace(problem.known, low=low, high=high), stated=True)


def _log_abs(value: complex) -> float:
    return math.log(abs(value)) if value else -math.inf


def _phase(value: complex) -> complex:
    return value / abs(value) if value else 0.0


def _is_shifted_product(problem: Problem) -> bool:
    """Whether A is a Kronecker product of known eigenvalues, shifted, so that none is a product."""
    op = problem.op
    product = isinstance(op, Kronecker) and bool(op.hermitian)
    return product and bool(problem.shift) and eigenvalues_are_cheap(op)


def _is_periodic(problem: Problem) -> bool:
    """Whether A is a periodic lattice whose eigenvalues cost less than a factorisation."""
    op = problem.op
    large = isinstance(op, Stencil) and not spectrum_is_small(op)
    return large and bool(op.hermitian) and eigenvalues_are_cheap(op)


def _product_of_eigenvalues(problem: Problem) -> Signed:
    """Return sign and log|det| from all eigenvalues of a Hermitian A; the shift may be complex."""
    xp = problem.op.xp
    spectrum, matvecs = eigenvalues(problem.op)
    noise = noise_of(problem.n, UNIT, 0.0, float(xp.max(xp.abs(spectrum))))
    if complex(problem.shift).imag:
        spectrum = xp.astype(spectrum, xp.complex128) + problem.shift
    else:
        spectrum = spectrum + problem.real_shift
    size = xp.abs(spectrum)
    if float(xp.min(size)) <= noise:
        return 0.0, Estimate(value=-math.inf, flags=(SINGULAR,), converged=False)
    return to_host(xp.prod(spectrum / size)).item(), Estimate(
        value=float(xp.sum(xp.log(size))),
        bias_bound=noise * float(xp.sum(1 / size)),
        matvecs=matvecs,
    )


def _low_rank_determinant(problem: Problem, op: DiagonalPlusLowRank) -> Signed:
    r"""Return sign and log|det| of ``D + U C V^H`` by eliminating D from a bordered matrix.

    ``det(D + U C V^H) = det [[D, U], [-C V^H, I]]``; zeros of D stay in the Schur complement.
    """
    xp = op.xp
    complex_ = is_complex(op.d) or bool(complex(problem.shift).imag)
    wide = xp.complex128 if complex_ else xp.float64
    d, left, right, inner = (xp.astype(x, wide) for x in (op.d, op.left, op.right, op.inner))
    d = d + (problem.shift if complex_ else problem.real_shift)
    lower = inner @ adjoint(right)
    zero = d == 0
    pivots = xp.where(zero, xp.ones_like(d), d)
    upper = xp.where(zero[:, None], xp.zeros_like(left), left / pivots[:, None])
    schur = xp.eye(op.rank, dtype=wide, device=op.device) + lower @ upper
    zeros = int(xp.sum(xp.astype(zero, xp.int64)))
    if zeros > op.rank:
        return 0.0, Estimate(value=-math.inf)
    if zeros:
        (index,) = xp.nonzero(zero)
        corner = xp.zeros((zeros, zeros), dtype=wide, device=op.device)
        top = xp.concat([corner, xp.take(left, index, axis=0)], axis=1)
        bottom = xp.concat([-xp.take(lower, index, axis=1), schur], axis=1)
        schur = xp.concat([top, bottom], axis=0)
    size = xp.abs(pivots)
    sign, logabsdet = to_host(xp.prod(pivots / size)).item(), float(xp.sum(xp.log(size)))
    if schur.shape[0] == 0:
        return sign, Estimate(value=logabsdet)
    found = dense_slogdet(schur, hermitian=False)
    estimate = Estimate(
        value=logabsdet + found.logabsdet,
        bias_bound=0.0 if found.doubtful else found.rounding,
        bias_rigorous=False,
        converged=not found.doubtful,
        flags=(SINGULAR,) if found.doubtful else (),
    )
    return sign * found.sign, estimate


def trace_function_by_parts(
    problem: Problem,
    f: ScalarFunction,
    solve: Callable[[Problem, ScalarFunction, int], Estimate],
    *,
    exact: bool,
    rng: Any,
) -> Estimate | None:
    """Return ``tr f(A + shift I)`` of a Hermitian A by a rule, or None if there is none.

    As `determinant_by_parts`; `solve` gets the function too.
    """
    op = problem.op
    if f is LOG and exact and _is_positive_update(problem):
        assert isinstance(op, DiagonalPlusLowRank)
        _, estimate = _low_rank_determinant(problem, op)
        return replace(estimate, matvecs=problem.matvecs)
    rule, f = _trace_function_rule(problem, f)
    if rule is None:
        return None
    _, found = by_parts(rule, lambda part, key: (1.0, solve(part, f, key)), rng)
    return replace(found, matvecs=problem.matvecs + found.matvecs)


def _is_positive_update(problem: Problem) -> bool:
    """Whether A is a low-rank update that is positive definite by construction."""
    return isinstance(problem.op, DiagonalPlusLowRank) and (
        problem.op.lower + problem.real_shift > 0
    )


def _trace_function_rule(
    problem: Problem, f: ScalarFunction
) -> tuple[Rule[Problem] | None, ScalarFunction]:
    """Return the rule, and the function that is asked of the parts."""
    op, n = problem.op, problem.n
    found = union(problem)
    if found is not None:
        known = sum(times * _known(f, complex(x).real) for x, times in found.known if times)
        return Rule(tuple((1, part) for part in found.parts), known), f
    if isinstance(op, Scaled) and not complex(op.factor).imag and complex(op.factor).real > 0:
        c = complex(op.factor).real
        part = (1.0, _divided(problem, op))
        if f is LOG:
            return Rule((part,), n * math.log(c)), f
        # Positive multiples change neither the domain nor the signs of derivatives.
        return Rule((part,)), replace(f, apply=lambda xp, x: f.apply(xp, c * x))
    if isinstance(op, Kronecker) and f is LOG and _all_nonnegative(problem, op):
        factors = [(n // a.shape[0], prepare(a, hermitian=True)) for a in op.factors]
        return Rule(tuple(factors)), f
    return None, f


def _all_nonnegative(problem: Problem, op: Kronecker) -> bool:
    """Whether no factor of an unshifted product can have a negative eigenvalue."""
    return not problem.shift and all(known_bounds(factor).low >= 0 for factor in op.factors)


def _known(f: ScalarFunction, x: float) -> complex:
    """Return f of an eigenvalue that is known."""
    y: complex = f.on_host(np.array([x])).item()
    if y != y:
        msg = f"A has the eigenvalue {x:.6g}, where {f.name} is not defined. shift= moves it."
        raise ValueError(msg)
    return y


def trace_by_parts(
    op: LinearOperator, solve: Callable[[LinearOperator, int], Estimate], rng: Any
) -> Estimate | None:
    """Return the trace of A by a rule, or None if there is none."""
    if isinstance(op, Kronecker) and all(a.shape[0] == a.shape[1] for a in op.factors):
        return _product(op.factors, solve, key_of(rng))
    rule = _trace_rule(op)
    if rule is None:
        return None
    return by_parts(rule, lambda part, key: (1.0, solve(part, key)), rng)[1]


def _trace_rule(op: LinearOperator) -> Rule[LinearOperator] | None:
    if isinstance(op, Shifted):
        return Rule(((1.0, op.base),), op.shape[0] * op.shift)
    if isinstance(op, Scaled) and not complex(op.factor).imag:
        return Rule(((complex(op.factor).real, op.base),))
    if isinstance(op, Sum):
        return Rule(tuple((1.0, term) for term in op.terms))
    if isinstance(op, BlockDiagonal):
        return Rule(tuple((1.0, block) for block in op.blocks))
    if isinstance(op, Permuted) and op.keeps_spectrum:
        return Rule(((1.0, op.base),))
    if isinstance(op, DiagonalPlusLowRank):
        adjoint = op.xp.matrix_transpose(op.right)
        adjoint = op.xp.conj(adjoint) if is_complex(adjoint) else adjoint
        update = np.trace(to_host(op.inner) @ to_host(adjoint @ op.left)).item()
        wide = op.xp.complex128 if is_complex(op.d) else op.xp.float64
        return Rule(constant=to_host(op.xp.sum(op.xp.astype(op.d, wide))).item() + update)
    return None


def _product(
    factors: list[LinearOperator], solve: Callable[[LinearOperator, int], Estimate], key: int
) -> Estimate:
    """Return the product of the traces of the factors; probes of their own keep it unbiased."""
    found = [solve(op, key_of_part(key, index)) for index, op in enumerate(factors)]
    squares = [abs(e.value) ** 2 for e in found]
    spread = math.prod(s + e.stderr**2 for s, e in zip(squares, found, strict=True))
    stderr = math.sqrt(max(0.0, spread - math.prod(squares)))
    return _joined(found, math.prod(e.value for e in found), stderr=stderr, bias=0.0, key=key)
