"""The step of a three-term recurrence, ``y = a A x + b x + c y``, in place, with its dot products.

Operators that know a faster way than a product and an update have one of their own
(`LinearOperator.recurrence`); `plain_step` is that of the others.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from specdens._arrays import Array, column_dots, device, namespace, on_cpu, zero_block
from specdens._kernels import padded_width
from specdens._kernels.steps import needs_product
from specdens.linear_operator import LinearOperator, Step

__all__ = ["fast_step", "pair_of_blocks", "plain_step"]

SLAB = 2**16
"""Numbers that are updated in one go: the temporaries stay in cache."""


def fast_step(op: LinearOperator, start: Array) -> tuple[Step, int] | None:
    """Return the step that an operator has of its own, and how wide it wants the blocks."""
    width = padded_width(start.shape[1], op.widths)
    if width is None or start.dtype != op.dtype or _too_wide(op, width):
        return None
    step = op.recurrence(start.shape[1])
    return None if step is None else (step, width)


def _too_wide(op: LinearOperator, width: int) -> bool:
    """Whether padding would take more memory than was allowed."""
    return op.max_memory is not None and 2 * width * op.shape[1] * op.itemsize > op.max_memory


def pair_of_blocks(start: Array, width: int, dtype: Any, *, overwrite: bool) -> tuple[Array, Array]:
    """Return a block to start from, padded with zero columns, and one of zeros to work in.

    With `overwrite` the first is `start` itself, if that will do.
    """
    xp, (n, count) = namespace(start), start.shape
    zeros = partial(zero_block, xp, (n, width), dtype, device(start))
    if overwrite and width == count and start.dtype == dtype and _in_c_order(start):
        return start, zeros()
    x = zeros()
    x[:, :count] = xp.astype(start, dtype, copy=False)
    return x, zeros()


def _in_c_order(x: Array) -> bool:
    if isinstance(x, np.ndarray):
        return x.flags.c_contiguous and x.flags.writeable
    return bool(x.is_contiguous()) if hasattr(x, "is_contiguous") else True


def plain_step(op: LinearOperator) -> Step:
    """Return a step by one product, and an update that reads each part of the blocks once."""

    def step(x: Array, y: Array, a: Any, b: Any, c: Any) -> tuple[Any, Any]:
        xp, (n, columns) = op.xp, x.shape
        product = op.matmat(x) if needs_product(a) else xp.zeros_like(x)
        a, b, c = (xp.asarray(k, dtype=y.dtype, device=op.device) for k in (a, b, c))
        rows = max(1, SLAB // max(1, columns)) if on_cpu(x) else n
        dots = np.zeros((2, columns))
        for first in range(0, n, max(1, rows)):
            slab = slice(first, min(first + rows, n))
            old = x[slab, :]
            new = a * product[slab, :] + b * old + c * y[slab, :]
            y[slab, :] = new
            dots += [np.real(column_dots(new, other)) for other in (new, old)]
        return dots[0], dots[1]

    return step
