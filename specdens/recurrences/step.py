"""The step of a three-term recurrence, ``y = a A x + b x + c y``, in place, with its dot products.

Operators that know a faster way than a product and an update have one of their own
(`LinearOperator.recurrence`); `plain_step` is that of the others.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from specdens.arrays.libraries import (
    Array,
    device,
    dots_in_place,
    namespace,
    on_cpu,
    to_host,
    zero_block,
)
from specdens.kernels.compiled import kernel, padded_width
from specdens.kernels.cpu.step_frame import needs_product
from specdens.operators.linear_operator import LinearOperator, Step

__all__ = ["fast_step", "pair_of_blocks", "plain_step"]

SLAB, DEVICE_SLAB = 2**16, 2**24
"""Numbers that are updated in one go: on the host the temporaries stay in cache."""

LEAST_NUMBERS = 2**18
"""In a block; with fewer, loading compiled code takes longer than what it saves."""


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


def plain_step(op: LinearOperator, *, wait: bool = True) -> Step:
    """Return a step by one product, and an update that reads each part of the blocks once.

    Unless it is to `wait` for a device, the dot products stay there.
    """

    def step(x: Array, y: Array, a: Any, b: Any, c: Any) -> tuple[Any, Any]:
        product, a = (op.matmat(x), a) if needs_product(a) else (x, 0.0)
        compiled = _compiled_update(product, x, y)
        if compiled is not None:
            return compiled(product, x, y, a, b, c)
        dots = _updated(product, x, y, *(_beside(y, k) for k in (a, b, c)))
        return tuple(map(to_host, dots)) if wait else dots  # type: ignore[return-value]

    return step


def _compiled_update(product: Array, *blocks: Array) -> Callable[..., tuple[Any, Any]] | None:
    """Return the update in one pass, if there is one for these blocks and they are worth it."""
    home = namespace(product).__name__
    hosts = home.endswith("numpy") or (home.endswith("torch") and on_cpu(product))
    if not hosts or math.prod(product.shape) < LEAST_NUMBERS:
        return None
    alike = all(x.dtype == product.dtype and _in_c_order(x) for x in (product, *blocks))
    return kernel("cpu.update", "update_step") if alike else None


def _beside(y: Array, number: Any) -> Array:
    return namespace(y).asarray(number, dtype=y.dtype, device=device(y))


def _updated(product: Array, x: Array, y: Array, *abc: Array) -> tuple[Array, Array]:
    """Update y slab by slab; return both dot products by columns, where y is."""
    (n, columns), (a, b, c) = x.shape, abc
    rows = max(1, (SLAB if on_cpu(x) else DEVICE_SLAB) // max(1, columns))
    squares, mixed = dots_in_place(y[:0, :], y[:0, :]), dots_in_place(y[:0, :], y[:0, :])
    for first in range(0, n, rows):
        slab = slice(first, min(first + rows, n))
        old = x[slab, :]
        new = a * product[slab, :] + b * old + c * y[slab, :]
        y[slab, :] = new
        squares, mixed = squares + dots_in_place(new, new), mixed + dots_in_place(new, old)
    return squares, mixed
