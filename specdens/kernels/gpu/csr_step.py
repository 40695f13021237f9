"""The step of a CSR matrix of Torch or CuPy on a CUDA device: Triton's, else cuSPARSE's."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any, TypeAlias

import numpy as np
import torch

from specdens.kernels.compiled import kernel, padded_width
from specdens.kernels.cpu.step_frame import needs_product
from specdens.kernels.gpu.cuda_graph import BELOW, replayed

__all__ = ["csr_recurrence", "library_recurrence", "of_cupy"]

Tensor = torch.Tensor
Step: TypeAlias = Callable[[Any, Any, Any, Any, Any], tuple[Any, Any]]

LONGEST_ROW = 2**12
"""Entries of a row: Triton's step reads a row in one program, for which the others would wait."""

MOST_ENTRIES = 2**31 - 1
"""That 32 bits can count: the compiler of Triton 3.7 fails on some blocks with wider indices."""


def csr_recurrence(crow: Tensor, col: Tensor, values: Tensor, columns: int) -> Step:
    """Return ``step(x, y, a, b, c)``, as `LinearOperator.recurrence` describes it.

    The dot products stay on the device, and no step waits for it: a whole run may be under way.

    Parameters
    ----------
    crow, col, values : tensor
        Of A, n x n, in CSR form on a CUDA device.
    columns : int
        Of the blocks that are to come, before they are padded.
    """
    update = kernel("gpu.triton_csr", "csr_step")
    if update is None or len(col) > MOST_ENTRIES or _longest_row(crow) > LONGEST_ROW:
        return library_recurrence(crow, col, values)
    crow, col = crow.to(torch.int32), col.to(torch.int32)
    step = _with_constants(partial(update, crow, col, values))
    width = padded_width(columns) or columns
    blocks = 3 * (len(crow) - 1) * width * values.itemsize
    matrix = len(col) * (values.itemsize + col.itemsize)
    return replayed(step) if blocks + matrix < BELOW else step


def _longest_row(crow: Tensor) -> int:
    return int(crow.diff().max()) if len(crow) > 1 else 0


def _with_constants(update: Callable[..., tuple[Tensor, Tensor]]) -> Step:
    """Return a step that takes coefficients as they come; numbers are sent to the device once."""
    constants: dict[tuple[float, ...], Tensor] = {}

    def step(x: Tensor, y: Tensor, a: Any, b: Any, c: Any) -> tuple[Tensor, Tensor]:
        if any(np.ndim(number) for number in (a, b, c)):
            abc = _by_real_columns(x, a, b, c)
        else:
            key = (x.shape[1], float(a), float(b), float(c))
            if key not in constants:
                constants[key] = _by_real_columns(x, a, b, c)
            abc = constants[key]
        return update(x, y, abc, needs_product(a))

    return step


def _by_real_columns(x: Tensor, *abc: Any) -> Tensor:
    real = x.real if x.is_complex() else x
    rows = torch.stack([_on_device(number, real).expand(x.shape[1]) for number in abc])
    return rows.repeat_interleave(2, dim=1) if x.is_complex() else rows


def _on_device(number: Any, like: Tensor) -> Tensor:
    """Return a number, or one for each column, beside a block; the host does not wait."""
    if not np.ndim(number):
        return torch.full((1,), float(number), dtype=like.dtype, device=like.device)
    columns = number if isinstance(number, Tensor) else torch.from_numpy(np.asarray(number))
    return columns.to(like.device, like.dtype, non_blocking=True)


def library_recurrence(crow: Tensor, col: Tensor, values: Tensor) -> Step:
    """Return the step by the sparse product of the library, in place, and its dot products.

    Where Triton is missing, and for rows of very many entries. The blocks are read and written some
    times more.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that CSR tensors are new, and that nobody checks these
        n = len(crow) - 1
        matrix = torch.sparse_csr_tensor(crow, col, values, (n, n))

    def step(x: Tensor, y: Tensor, a: Any, b: Any, c: Any) -> tuple[Tensor, Tensor]:
        y.mul_(_on_device(c, x)).addcmul_(x, _on_device(b, x))
        if np.ndim(a):
            torch.addmm(y, matrix, x * _on_device(a, x), out=y)
        elif needs_product(a):
            torch.addmm(y, matrix, x, alpha=float(a), out=y)
        return _dots(y, y), _dots(y, x)

    return step


def _dots(y: Tensor, x: Tensor) -> Tensor:
    """Return the real parts of ``<y, x>`` by columns, in double precision."""
    if y.is_complex():
        return _dots(y.real, x.real) + _dots(y.imag, x.imag)
    return (y.double() * x.double()).sum(dim=0)


def of_cupy(indptr: Any, indices: Any, data: Any, columns: int) -> Step | None:
    """Return the step of a CuPy CSR matrix: Torch sees the same memory, and works on CuPy's stream.

    None where Torch is built for CPUs alone.
    """
    import cupy

    if not torch.cuda.is_available():
        return None

    def shared(x: Any) -> Any:
        return torch.utils.dlpack.from_dlpack(x) if isinstance(x, cupy.ndarray) else x

    step = csr_recurrence(shared(indptr), shared(indices), shared(data), columns)

    def on_cupy(x: Any, y: Any, a: Any, b: Any, c: Any) -> tuple[Any, Any]:
        with torch.cuda.stream(_stream(cupy.cuda.get_current_stream().ptr)):
            dots = step(*(shared(part) for part in (x, y, a, b, c)))
            return cupy.from_dlpack(dots[0]), cupy.from_dlpack(dots[1])

    return on_cupy


def _stream(pointer: int) -> Any:
    """Return a stream of CuPy's as one of Torch's; that of both by default has no pointer."""
    if not pointer:
        return torch.cuda.default_stream()
    return torch.cuda.ExternalStream(pointer)  # type: ignore[no-untyped-call]  # Torch's
