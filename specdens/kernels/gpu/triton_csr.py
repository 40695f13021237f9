"""A step of a recurrence with a CSR matrix on a GPU, and its dot products, in one Triton kernel.

As `cpu.csr_step`: memory traffic is that of A once, x once and y twice. A program updates
a chunk of rows, some at once, with threads along the columns, so that a row of x is read in one
piece. Dot products are added by programs first and then over programs, in a fixed order and without
atomic operations: two runs on one device give the same bits.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

__all__ = ["csr_step"]

Tensor = torch.Tensor

WARPS = 8
"""Of 32 threads, in a program."""

VECTOR = 16
"""Bytes that a thread reads at once."""

UNROLLED = 4
"""Entries of a row that are under way at once."""

CHUNKS = 2**12
"""Programs, about: several for each place on the largest GPUs, but few sums to add in the end."""

LONGEST_CHUNK = 512
"""Rows."""


def csr_step(
    crow: Tensor, col: Tensor, values: Tensor, x: Tensor, y: Tensor, abc: Tensor, product: bool
) -> tuple[Tensor, Tensor]:
    """Set y to ``a A x + b x + c y``; return ``<y, y>`` and the real part of ``<y, x>`` by columns.

    Parameters
    ----------
    crow, col, values : tensor
        Of A, n x n, in CSR form: int32, and of the dtype of x. A row is read by one program alone.
    x, y : tensor, shape (n, R), C order
        R a power of two, 4 at least; y is written.
    abc : tensor, shape (3, R), or (3, 2 R) for complex blocks
        The coefficients of each real column.
    product : bool
        Whether A is read at all.

    Returns
    -------
    tensor, tensor, shape (R,)
        float64, on the device: nothing waits for them.
    """
    n, columns = x.shape
    parts = 2 if x.is_complex() else 1
    width = columns * parts
    rows = max(1, WARPS * 32 * VECTOR // abc.itemsize // width)
    chunk = _chunk(n, rows)
    programs = max(1, -(-n // chunk))
    partial = torch.empty((programs, 2, width), dtype=torch.float64, device=x.device)
    with torch.cuda.device_of(x):  # type: ignore[no-untyped-call]  # Torch's, as below
        _update_rows[programs,](
            crow, col, _real(values), _real(x), _real(y), abc, partial, n, chunk,
            ROWS=rows, WIDTH=width, PARTS=parts, PRODUCT=product, UNROLL=UNROLLED,
            num_warps=WARPS,
        )  # fmt: skip
    sums = partial.sum(dim=0)
    squares, mixed = sums.reshape(2, columns, parts).sum(dim=2) if parts == 2 else sums
    return squares, mixed


def _chunk(n: int, rows: int) -> int:
    """Return the rows of a program, a power of two: of `rows` and n alone, not of the device."""
    wanted = 1 << max(0, (n // CHUNKS).bit_length() - 1)
    return max(rows, min(wanted, LONGEST_CHUNK))


def _real(x: Tensor) -> Tensor:
    """Return a view of complex numbers as real and imaginary parts, side by side."""
    return torch.view_as_real(x) if x.is_complex() else x


@triton.jit  # type: ignore[untyped-decorator]  # types of Triton are not looked at
def _update_rows(  # type: ignore[no-untyped-def]  # compiled for the types it is called with
    crow, col, values, x, y, abc, partial, n, chunk,
    ROWS: tl.constexpr, WIDTH: tl.constexpr, PARTS: tl.constexpr, PRODUCT: tl.constexpr,
    UNROLL: tl.constexpr,
):  # fmt: skip
    """Update the rows of one chunk; store its dot products in ``partial[program]``.

    Only x is read more than once: the caches are asked to give up the rest first.
    """
    program = tl.program_id(0).to(tl.int64)
    lanes = tl.arange(0, WIDTH)
    a = tl.load(abc + lanes)[None, :]
    b = tl.load(abc + WIDTH + lanes)[None, :]
    c = tl.load(abc + 2 * WIDTH + lanes)[None, :]
    squares = tl.zeros((ROWS, WIDTH), tl.float64)
    mixed = tl.zeros((ROWS, WIDTH), tl.float64)
    for tile in range(0, chunk, ROWS):
        row = program * chunk + tile + tl.arange(0, ROWS)
        inside = row < n
        place = row[:, None] * WIDTH + lanes[None, :]
        old = tl.load(x + place, mask=inside[:, None], other=0.0)
        new = tl.load(y + place, mask=inside[:, None], other=0.0, eviction_policy="evict_first")
        new = b * old + c * new
        if PRODUCT:
            start = tl.load(crow + row, mask=inside, other=0)
            length = tl.load(crow + row + 1, mask=inside, other=0) - start
            total = tl.zeros((ROWS, WIDTH), new.dtype)
            turned = tl.zeros((ROWS, WIDTH), new.dtype)
            for first in range(0, tl.max(length, axis=0), UNROLL):
                for k in tl.static_range(UNROLL):
                    entry = start.to(tl.int64) + (first + k)
                    there = first + k < length
                    column = tl.load(
                        col + entry, mask=there, other=0, eviction_policy="evict_first"
                    ).to(tl.int64)
                    v = tl.load(
                        x + column[:, None] * WIDTH + lanes[None, :],
                        mask=there[:, None],
                        other=0.0,
                    )
                    real = tl.load(
                        values + entry * PARTS, mask=there, other=0.0,
                        eviction_policy="evict_first",
                    )  # fmt: skip
                    total += real[:, None] * v
                    if PARTS == 2:
                        imaginary = tl.load(
                            values + entry * PARTS + 1, mask=there, other=0.0,
                            eviction_policy="evict_first",
                        )  # fmt: skip
                        turned += imaginary[:, None] * v
            if PARTS == 2:  # times i: real and imaginary parts (re, im) become (-im, re)
                re, im = tl.split(tl.reshape(turned, (ROWS, WIDTH // 2, 2)))
                total += tl.reshape(tl.join(-im, re), (ROWS, WIDTH))
            new += a * total
        tl.store(y + place, new, mask=inside[:, None], eviction_policy="evict_first")
        wide = new.to(tl.float64)
        squares += wide * wide
        mixed += wide * old.to(tl.float64)
    sums = partial + program * 2 * WIDTH + lanes
    tl.store(sums, tl.sum(squares, axis=0))
    tl.store(sums + WIDTH, tl.sum(mixed, axis=0))
