r"""Gradients for Torch: ``d tr f(A) = tr(f'(A) dA) = E <f'(A) z, dA z>``, with the value's probes.

The value is computed on numbers alone. Afterwards it is linked to the tensors that A consists of,
or to the products ``A z`` of an operator, by what their derivatives will be: nothing but A is kept
until `backward`, which runs Lanczos on the same probes again, one block at a time. Where the value
owes a part to no probe (deflation, rules for structured matrices), the gradient is estimated on its
own: unbiased, if noisier.

References
----------
Gardner et al., GPyTorch, NeurIPS 2018 (section 4), for log; Hutchinson (1989).
"""

from __future__ import annotations

import math
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any

import numpy as np

from specdens.arrays.libraries import Array, column_dots, is_array, is_complex, namespace, to_host
from specdens.arrays.probes import DEFAULT_COUNT, Probes, gaussian
from specdens.estimation.goal import LEAST_PROBES, Goal
from specdens.estimation.sampling import block_ranges, probes_for
from specdens.exact.factorizations import dense_of
from specdens.gradients.histories import (
    SparseEntries,
    Tensor,
    entries_of,
    has_entries,
    is_on,
    leaves,
    sources_of,
    with_history,
)
from specdens.operators.aslinearoperator import ForeignOperator
from specdens.operators.gram import Gram
from specdens.operators.linear_operator import LinearOperator
from specdens.operators.sparse import TorchSparseOperator
from specdens.problem.prepare import Problem, plain_number
from specdens.recurrences.lanczos import tridiagonalize
from specdens.recurrences.quadrature import gauss
from specdens.results import AccuracyWarning, Estimate
from specdens.scalar_functions import LOG, LOG_ABS, ScalarFunction
from specdens.vectors.krylov_function import function_times

__all__ = ["refusing_gradient", "with_gradient", "with_gradients"]

LARGEST_FORMED = 2048
"""Order up to which the derivative at an operator is formed as a dense matrix."""

DOUBTFUL = 0.1
"""Relative error of ``f'(A) z`` by truncation above which `backward` warns."""


def with_gradient(
    value: Array,
    problem: Problem,
    f: ScalarFunction,
    estimate: Estimate,
    *,
    shift: Any,
    goal: Goal,
    probes: Any,
) -> Array:
    """Return tr f(A + shift I), linked to the tensors that A and the shift depend on.

    Parameters
    ----------
    value : array, 0-d
        Computed already.
    problem, f, estimate
        How it was computed. log and ``log|x|`` mean log|det| of any square matrix.
    shift : number or tensor
        As the caller gave it.
    goal : Goal
        Half of its moments are the Lanczos steps for the derivative. Where a pilot chose the steps,
        each probe gets as many products as it got for the value.
    probes : None, int or array
        As the caller gave them; only an array is looked at.
    """
    if is_complex(value):
        parts = [
            with_gradient(
                getattr(value, part), problem, _part(f, part), estimate,
                shift=shift, goal=goal, probes=probes,
            )
            for part in ("real", "imag")
        ]  # fmt: skip
        return sys.modules["torch"].complex(*parts)
    if estimate.method == "exact" and _is_formed(problem, estimate):
        return _exact(value, problem, f, shift)
    sampled = _Sampled(
        problem, f, _probes(problem, estimate, goal, probes), _steps(estimate, goal, problem)
    )
    if has_entries(problem.op):
        return _by_entries(value, sampled, shift)
    return _by_products(value, sampled, shift)


def _is_formed(problem: Problem, estimate: Estimate) -> bool:
    """Whether the exact derivative may be formed, as a sparse or a dense matrix."""
    explicit = has_entries(problem.op)
    return explicit or problem.n <= max(LARGEST_FORMED, estimate.matvecs)


def _probes(problem: Problem, estimate: Estimate, goal: Goal, probes: Any) -> Probes:
    """Return the probes of the value; of its key, but enough, if it owes a part to none."""
    if is_array(probes):
        return probes_for(problem.shifted, probes, None)
    count = estimate.samples
    if not goal.adaptive:
        count = goal.probes or DEFAULT_COUNT
    elif estimate.deflated or estimate.method == "exact":
        count = max(count, DEFAULT_COUNT)
    elif estimate.steps and goal.steps is None and goal.probes is None:
        # All runs as long as the longest: nothing else corrects the truncation of a derivative.
        count = min(count, max(LEAST_PROBES, estimate.matvecs // estimate.steps))
    return probes_for(problem.shifted, count, estimate.seed or 0)


def _steps(estimate: Estimate, goal: Goal, problem: Problem) -> int:
    """Return the Lanczos steps of each probe."""
    fixed = math.ceil(goal.moments / 2)
    if not goal.adaptive or goal.steps is not None or estimate.deflated or not estimate.samples:
        return fixed
    each = estimate.steps or estimate.matvecs // estimate.samples
    return max(fixed, each if problem.hermitian else each // 2)


def refusing_gradient(value: Array, pencil: tuple[LinearOperator, ...], shift: Any) -> Array:
    """Return a value that says in `backward` that it has no gradient, if one could be expected.

    Parameters
    ----------
    value : array, 0-d
    pencil : tuple of LinearOperator
        What it depends on, by products or factors that autograd cannot follow.
    shift : number or tensor
    """
    if not is_on(namespace(value)):
        return value
    live = [one for op in pencil for one in _tensors_behind(op)]
    live += [shift] if getattr(shift, "requires_grad", False) else []
    if not live:
        return value

    def refuse() -> list[Tensor]:
        msg = (
            "gradients through B are not implemented. For determinants take "
            "logdet(A + shift * B) - logdet(B), of which each has one."
        )
        raise NotImplementedError(msg)

    return _functions()[0].apply(value, refuse, [], *live)


def _tensors_behind(op: LinearOperator) -> list[Tensor]:
    """Return tensors with a history on which op depends, of every leaf that has some."""
    found = [source for leaf in leaves(op) for source in sources_of(leaf)]
    for leaf in leaves(op):
        if isinstance(leaf, ForeignOperator) and leaf.differentiable:
            unit = op.xp.ones((leaf.shape[1], 1), dtype=leaf.dtype, device=leaf.device)
            found.append(with_history(leaf).matmat(unit))
    return found


def with_gradients(values: Array, stack: Array, f: ScalarFunction, *, shift: Any) -> Array:
    """Return exact values of tr f(A + shift I), shape (B,), linked to the stack and the shift."""
    origins = [one for one in (stack, shift) if getattr(one, "requires_grad", False)]
    if not origins or not is_on(namespace(values)):
        return values
    torch = sys.modules["torch"]
    if is_complex(values):
        parts = [
            with_gradients(getattr(values, part), stack, _part(f, part), shift=shift)
            for part in ("real", "imag")
        ]
        return torch.complex(*parts)
    number = plain_number(shift)
    live = _plus(stack, shift) if number or getattr(shift, "requires_grad", False) else stack

    def derivatives() -> list[Tensor]:
        wide = stack.detach().to(torch.complex128 if live.is_complex() else torch.float64)
        return [_slope(_plus(wide, number) if number else wide, f)]

    return _linked(values, derivatives, [live], origins)


def _part(f: ScalarFunction, part: str) -> ScalarFunction:
    """Return the real or imaginary part of a complex function of a real variable."""
    slope = f.derivative
    if slope is None:
        return f
    return replace(f, derivative=lambda xp, x: getattr(np.asarray(slope(xp, x)), part))


# --- Links of the value to what it depends on ------------------------------------------------


@cache
def _functions() -> tuple[Any, Any]:
    import torch

    class TraceOfFunction(torch.autograd.Function):
        """The value itself; its derivatives are computed when they are asked for."""

        @staticmethod
        def forward(
            ctx: Any,
            value: Tensor,
            derivatives: Callable[[], list[Tensor]],
            origins: list[Tensor],
            *tensors: Tensor,
        ) -> Tensor:
            # Saved so that Torch notices if they are changed in place before backward.
            ctx.save_for_backward(*origins)
            ctx.derivatives = derivatives
            ctx.kinds = [(tensor.dtype, tensor.device) for tensor in tensors]
            return value.clone()

        @staticmethod
        def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
            origins, again = ctx.saved_tensors, torch.is_grad_enabled()
            with torch.enable_grad():  # somebody's product may itself be a derivative
                found = ctx.derivatives()
            with torch.no_grad():
                found = [
                    _times(upstream, d if dtype.is_complex else d.real).to(device, dtype)
                    for d, (dtype, device) in zip(found, ctx.kinds, strict=True)
                ]
            if again:
                # Torch does not annotate `apply`.
                found = [Gradient.apply(d, upstream, *origins) for d in found]  # type: ignore[no-untyped-call]
            return upstream, None, None, *found

    class Gradient(torch.autograd.Function):
        """A gradient that says that it has none itself."""

        @staticmethod
        def forward(ctx: Any, gradient: Tensor, *_: Tensor) -> Tensor:
            return gradient.clone()

        @staticmethod
        def backward(ctx: Any, *_: Tensor) -> Any:
            msg = (
                "second derivatives of log|det A| and tr f(A) are not implemented: the gradient "
                "comes from Lanczos or a factorisation that autograd does not see."
            )
            raise NotImplementedError(msg)

    return TraceOfFunction, Gradient


def _times(upstream: Tensor, derivative: Tensor) -> Tensor:
    """Return a derivative, or a stack of them, each times its own number."""
    ones = (1,) * (derivative.ndim - upstream.ndim)
    return upstream.reshape((*upstream.shape, *ones)) * derivative


def _linked(
    value: Tensor,
    derivatives: Callable[[], list[Tensor]],
    tensors: list[Tensor],
    origins: list[Tensor],
) -> Tensor:
    """Return the value with derivatives c: ``d value = Re sum_k <c_k, d tensor_k>``.

    Parameters
    ----------
    value : tensor, 0-d, or shape (B,) for a stack
    derivatives : callable
        Gives them, when they are asked for.
    tensors : list of tensor
    origins : list of tensor
        What is kept until then: the tensors themselves, or smaller ones that depend on the same.
    """
    if not bool(value.isfinite().all()):
        derivatives = _no_derivatives
    return _functions()[0].apply(value, derivatives, origins, *tensors)


def _no_derivatives() -> list[Tensor]:
    msg = (
        "the value is infinite (A is singular to working precision) and has no derivative there. "
        "Add a shift, or leave such a matrix out before backward()."
    )
    raise ValueError(msg)


def _with_shift(live: Tensor | None, shift: Any) -> tuple[list[Tensor], Callable[..., list[Any]]]:
    """Return those of (entries, shift) that have a history, and the same choice of derivatives."""
    wanted = [getattr(tensor, "requires_grad", False) for tensor in (live, shift)]

    def chosen(*pair: Any) -> list[Any]:
        return [one for one, yes in zip(pair, wanted, strict=True) if yes]

    return chosen(live, shift), chosen


# --- Exact derivatives --------------------------------------------------------------------------


def _exact(value: Tensor, problem: Problem, f: ScalarFunction, shift: Any) -> Tensor:
    op = problem.op
    if not has_entries(op):
        live = with_history(op)
        product = _recomputed(lambda: _plus(live.columns(), shift))
        return _of_product(value, lambda: _derivative(problem, f), product, op)
    entries = entries_of(op)
    tensors, chosen = _with_shift(entries.live, shift)

    def derivatives() -> list[Tensor]:
        if isinstance(entries, SparseEntries) and _is_log(f):
            found = _inverse_on_pattern(problem, entries)
            if found is not None:
                return chosen(*found)
        whole = _derivative(problem, f)
        return chosen(entries.of(whole), whole.diagonal().sum())

    return _linked(value, derivatives, tensors, tensors)


def _is_log(f: ScalarFunction) -> bool:
    return f is LOG or f is LOG_ABS


def _plus(a: Tensor, shift: Any) -> Tensor:
    """Return ``A + shift I``, of one matrix or a stack."""
    torch = sys.modules["torch"]
    return a + shift * torch.eye(a.shape[-1], dtype=a.dtype, device=a.device)


def _derivative(problem: Problem, f: ScalarFunction) -> Tensor:
    """Return ``f'(A + shift I)^H`` as a dense matrix."""
    shift = problem.shift if complex(problem.shift).imag else problem.real_shift
    return _slope(dense_of(problem.op, shift), f)


def _slope(a: Tensor, f: ScalarFunction) -> Tensor:
    """Return ``f'(A)^H`` of one matrix or a stack; for log of any sign, of any square A."""
    torch = sys.modules["torch"]
    if _is_log(f):
        return torch.linalg.inv(a).mH
    values, vectors = torch.linalg.eigh(a)
    slopes = f.prime().on_host(to_host(values))
    _require_derivative(slopes, f)
    slopes = torch.asarray(slopes, device=a.device).to(vectors.dtype)
    return (vectors * slopes[..., None, :]) @ vectors.mH


def _require_derivative(slopes: Any, f: ScalarFunction) -> None:
    if not np.all(np.isfinite(slopes)):
        msg = (
            f"the derivative of {f.name} is infinite at an eigenvalue of A (0, up to rounding): "
            "tr f(A) is not differentiable there. Add a shift."
        )
        raise ValueError(msg)


INVERSE_COLUMNS = 64


def _inverse_on_pattern(problem: Problem, entries: SparseEntries) -> tuple[Tensor, Tensor] | None:
    """Return the entries of ``A^-H`` where A has some, and its trace; None on a GPU.

    By n solves with the sparse factors, a few columns of the inverse at a time.
    """
    from scipy.sparse import diags_array
    from scipy.sparse.linalg import splu

    matrix = entries.op.csc_on_host()
    if matrix is None:
        return None
    n = problem.n
    lu: Any = splu((matrix + diags_array(np.full(n, problem.shift))).tocsc())
    torch = sys.modules["torch"]
    rows, columns = entries.rows.numpy(), entries.columns.numpy()
    order = np.argsort(columns, kind="stable")
    starts = np.searchsorted(columns[order], np.arange(0, n + INVERSE_COLUMNS, INVERSE_COLUMNS))
    found = np.empty(len(order), lu.U.dtype)
    diagonal = np.empty(n, lu.U.dtype)
    for block, first in enumerate(range(0, n, INVERSE_COLUMNS)):
        width = min(INVERSE_COLUMNS, n - first)
        units = np.zeros((n, width), lu.U.dtype)
        units[np.arange(first, first + width), np.arange(width)] = 1
        solved = lu.solve(units, trans="H")
        here = order[starts[block] : starts[block + 1]]
        found[here] = solved[rows[here], columns[here] - first]
        diagonal[first : first + width] = solved[np.arange(first, first + width), np.arange(width)]
    return torch.asarray(found), torch.asarray(diagonal.sum())


# --- Estimated derivatives ----------------------------------------------------------------------


@dataclass(frozen=True)
class _Control:
    """The least-squares line through f' on the spectrum: the derivative of a polynomial p.

    tr p(A) is known, and so is its gradient: chance enters only through ``f' - p'``.

    Attributes
    ----------
    constant, slope : float
    size : float
        The root mean square of f' over the spectrum.
    """

    constant: float
    slope: float
    size: float


@dataclass(frozen=True)
class _Sampled:
    """How ``f'(A) z`` comes from the probes z."""

    problem: Problem
    f: ScalarFunction
    probes: Probes
    steps: int

    def blocks(self) -> list[range]:
        """Return blocks of probes as narrow as those of the value."""
        return block_ranges(self.problem.shifted, self.probes)

    def control(self) -> _Control:
        """Fit a line to f' at the Gauss nodes of a probe that is independent of the others."""
        op = self.problem.shifted
        key = 0 if self.probes.key is None else self.probes.key
        start = gaussian(op.shape[1], range(1), key, xp=op.xp, dtype=op.dtype, where=op.device)
        rule = gauss(tridiagonalize(op, start, self.steps)[0])
        slopes, roots = self.f.prime().on_host(rule.nodes), np.sqrt(rule.weights)
        _require_derivative(slopes, self.f)
        scale = float(np.abs(rule.nodes).max()) or 1.0
        lines = np.stack([roots, roots * rule.nodes / scale], axis=1)
        (constant, slope), *_ = np.linalg.lstsq(lines, roots * slopes)
        size = math.sqrt(rule.integrate(slopes**2))
        return _Control(float(constant), float(slope) / scale, size)

    def times(self, columns: range, control: _Control | None) -> tuple[Tensor, Tensor]:
        """Return probes z and ``g = w (f'(A)^H - p'(A)) z``, so that ``sum <g, A z>`` is the mean.

        The weight ``w = n / (R |z|^2)`` is that of the value.
        """
        op, z = self.problem.shifted, self.probes.block(columns)
        hermitian, slope = self.problem.hermitian, _less(self.f.prime(), control)
        # Else A^-H z = A (A^H A)^-1 z, in the Krylov space of Golub and Kahan.
        g, errors = function_times(op if hermitian else Gram(op), slope, z, self.steps)
        mass, squares = np.real(column_dots(z, z)), np.real(column_dots(g, g))
        _require_derivative(squares, self.f)
        self._warn_of_truncation(
            errors, np.sqrt(squares if control is None else mass * control.size**2)
        )
        g = g if hermitian else op.matmat(g)
        weights = self.probes.n / (self.probes.count * mass)
        return z, g * op.xp.asarray(weights, dtype=g.dtype, device=op.device)[None, :]

    def _warn_of_truncation(self, errors: Any, sizes: Any) -> None:
        error, size = float(np.linalg.norm(errors)), float(np.linalg.norm(sizes))
        if error <= DOUBTFUL * size:
            return
        share = f"{error / size:.0%}" if math.isfinite(error) and size > 0 else "any amount"
        msg = (
            f"the gradient of tr {self.f.name}(A) may be off by {share}: "
            f"{self.steps} Lanczos steps do not resolve its derivative. "
            f"Raise moments (now {2 * self.steps}), add a shift, or use method='exact'."
        )
        warnings.warn(msg, AccuracyWarning, stacklevel=2)


def _less(slope: ScalarFunction, control: _Control | None) -> ScalarFunction:
    """Return ``f' - p'``."""
    if control is None:
        return slope

    def difference(xp: Any, x: Any) -> Any:
        return slope.apply(xp, x) - control.constant - control.slope * x

    return replace(slope, apply=difference)


def _by_entries(value: Tensor, sampled: _Sampled, shift: Any) -> Tensor:
    """Link the value to the entries of a matrix: the mean of ``g z^H``, and what p' gives.

    Of a Hermitian matrix the Hermitian part is taken, which is nearer to the truth.
    """
    problem = sampled.problem
    entries = entries_of(problem.op)
    tensors, chosen = _with_shift(entries.live, shift)

    def derivatives() -> list[Tensor]:
        control = sampled.control() if problem.hermitian else None
        total: Tensor = 0
        trace: Tensor = 0
        for columns in sampled.blocks():
            z, g = sampled.times(columns, control)
            found = entries.outer(g, z)
            if problem.hermitian:
                found = (found + entries.outer(z, g)) / 2
            total, trace = total + found, trace + (g * z.conj()).sum()
        if control is not None:
            constant = control.constant + control.slope * problem.real_shift
            total = total + entries.polynomial(constant, control.slope)
            trace = trace + problem.n * constant + control.slope * entries.op.diagonal().sum()
        return chosen(total, trace)

    return _linked(value, derivatives, tensors, tensors)


def _by_products(value: Tensor, sampled: _Sampled, shift: Any) -> Tensor:
    """Link the value to the products ``A z``; autograd itself finds what they depend on."""
    op = sampled.problem.op
    live = with_history(op)

    def product(columns: range) -> Tensor:
        z = sampled.probes.block(columns)
        return live.matmat(z) + shift * z

    def derivative(columns: range) -> Tensor:
        return sampled.times(columns, None)[1]

    for columns in sampled.blocks():
        y = _recomputed(partial(product, columns))
        value = _of_product(value, partial(derivative, columns), y, op)
    return value


def _of_product(
    value: Tensor, derivative: Callable[[], Tensor], product: Tensor, op: LinearOperator
) -> Tensor:
    """Link the value to a product, which is not kept itself."""
    whole = (leaf for leaf in leaves(op) if not isinstance(leaf, TorchSparseOperator))
    origins = [product.sum(), *(source for leaf in whole for source in sources_of(leaf))]
    return _linked(value, lambda: [derivative()], [product], origins)


def _recomputed(product: Callable[[], Tensor]) -> Tensor:
    """Return a product of which nothing is kept: `backward` computes it again."""
    from torch.utils.checkpoint import checkpoint

    return checkpoint(product, use_reentrant=False, preserve_rng_state=False)
