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
from dataclasses import replace
from typing import Any

import numpy as np

from specdens.arrays.libraries import Array, is_array, is_complex, namespace
from specdens.arrays.probes import DEFAULT_COUNT, Probes
from specdens.estimation.goal import LEAST_PROBES, Goal
from specdens.estimation.sampling import probes_for
from specdens.gradients.exact_derivatives import exact_derivative, plus_shift, slope_of
from specdens.gradients.histories import (
    Tensor,
    has_entries,
    is_on,
    leaves,
    sources_of,
    with_history,
)
from specdens.gradients.links import linked, trace_of_function
from specdens.gradients.sampled_derivatives import (
    SampledDerivative,
    linked_by_entries,
    linked_by_products,
)
from specdens.operators.aslinearoperator import ForeignOperator
from specdens.operators.linear_operator import LinearOperator
from specdens.problem.prepare import Problem, plain_number
from specdens.results import Estimate
from specdens.scalar_functions import ScalarFunction

__all__ = ["refusing_gradient", "with_gradient", "with_gradients"]

LARGEST_FORMED = 2048
"""Order up to which the derivative at an operator is formed as a dense matrix."""


RESOLVED = 1e-3
"""Relative error of ``f'(A) z`` by truncation that no tolerance is too large for."""


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
        return exact_derivative(value, problem, f, shift)
    sampled = SampledDerivative(
        problem,
        f,
        _probes(problem, estimate, goal, probes),
        _steps(estimate, goal, problem),
        share=max(goal.rtol, RESOLVED) if goal.adaptive and goal.steps is None else None,
    )
    if has_entries(problem.op):
        return linked_by_entries(value, sampled, shift)
    return linked_by_products(value, sampled, shift)


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
    if not goal.adaptive or goal.steps is not None or not estimate.samples:
        return fixed
    if estimate.deflated:
        return max(fixed, estimate.steps)
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

    return trace_of_function().apply(value, refuse, [], *live)


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
    live = plus_shift(stack, shift) if number or getattr(shift, "requires_grad", False) else stack

    def derivatives() -> list[Tensor]:
        wide = stack.detach().to(torch.complex128 if live.is_complex() else torch.float64)
        return [slope_of(plus_shift(wide, number) if number else wide, f)]

    return linked(values, derivatives, [live], origins)


def _part(f: ScalarFunction, part: str) -> ScalarFunction:
    """Return the real or imaginary part of a complex function of a real variable."""
    slope = f.derivative
    if slope is None:
        return f
    return replace(f, derivative=lambda xp, x: getattr(np.asarray(slope(xp, x)), part))
