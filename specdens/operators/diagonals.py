"""`Diagonals`: a matrix of a few diagonals, stored without indices."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np

from specdens.arrays.libraries import (
    Array,
    as_dense,
    default_namespace,
    device,
    is_array,
    namespace,
    result_dtype,
    working_dtype,
)
from specdens.kernels.compiled import kernel
from specdens.operators.explicit import LEAST_ENTRIES, SQUARE_FLOPS
from specdens.operators.sliced import Slice, SlicedOperator

__all__ = ["Diagonals", "diagonals_of_dia", "pays_as_diagonals"]


class Diagonals(SlicedOperator):
    r"""A matrix with entries on a few diagonals only: tridiagonal, banded, or far apart.

    Parameters
    ----------
    diagonals : sequence of array_like, each of shape (length,) or a number
        ``diagonals[k]`` holds the entries ``A[i, i + offsets[k]]`` from the top down, as in
        `scipy.sparse.diags_array`. A number, or one entry, stands for all of its diagonal.
    offsets : int or sequence of int
        Positive above the main diagonal; all different. With one int, `diagonals` is one diagonal.
    shape : tuple of int, optional
        Default: square, as the first diagonal says.

    Raises
    ------
    ValueError
        If there is no diagonal, lengths do not fit, offsets repeat or lie outside the matrix, or
        libraries differ.
    TypeError
        If an offset is not an integer.

    Notes
    -----
    A product reads the diagonals and the block, and no index: a CSR matrix takes half as much
    memory again in double precision, twice as much in single precision. The adjoint product is
    exact. Tensors are taken without their history: no gradients.

    Examples
    --------
    >>> import numpy as np
    >>> import specdens
    >>> A = Diagonals([-1.0, [2.0, 3.0, 4.0], -1.0], [-1, 0, 1], shape=(3, 3))
    >>> A @ np.ones(3)
    array([1., 1., 3.])
    >>> print(f"{specdens.logdet(A):.4f}")
    2.8904
    """

    def __init__(
        self,
        diagonals: Any,
        offsets: int | Sequence[int] = 0,
        *,
        shape: tuple[int, int] | None = None,
    ) -> None:
        if np.ndim(offsets) == 0:
            diagonals, offsets = [diagonals], [offsets]  # type: ignore[list-item]
        lines, places = _lines(diagonals), _integers(offsets)  # type: ignore[arg-type]
        if len(lines) != len(places) or not lines:
            msg = f"got {len(lines)} diagonals and {len(places)} offsets; expected one for each."
            raise ValueError(msg)
        if len(set(places)) != len(places):
            msg = f"offsets are {places}; expected different ones. Add diagonals of one offset."
            raise ValueError(msg)
        if shape is None:
            n = lines[0].shape[0] + abs(places[0])
            shape = (n, n)
        rows, columns = (int(side) for side in shape)
        xp, where = namespace(*lines), device(lines[0])
        given = xp.result_type(*lines)
        dtype = working_dtype(xp, given)
        super().__init__(
            (rows, columns), dtype=dtype, xp=xp, device=where, result_dtype=result_dtype(xp, given)
        )
        self.hermitian, self.grid, self.other_grid = None, (rows,), (columns,)
        self._store(xp.concat([xp.astype(line, dtype, copy=False) for line in lines]))
        slices, first = [], 0
        for line, offset in zip(lines, places, strict=True):
            count = line.shape[0]
            slices.append(_slice(offset, count, first, (rows, columns)))
            first += count
        self.slices = tuple(one for one in slices if one.size)
        self.offsets = tuple(places)

    def diagonal(self) -> Array:
        """Return the diagonal."""
        length = min(self.shape)
        for one in self.slices:
            if one.rows == one.columns:
                return self.xp.broadcast_to(self._entries_of(one), (length,))
        return self.xp.zeros(length, dtype=self.dtype, device=self.device)

    @cached_property
    def _power_traces(self) -> tuple[float, ...]:
        """Return also tr A^3 and tr A^4 = ||A^2||_F^2 where A^2 costs no more than products."""
        first: tuple[float, ...] = super()._power_traces
        if not first or len(self.slices) > SQUARE_FLOPS:
            return first
        xp, n = self.xp, self.shape[0]
        by_offset = {one.columns[0].start - one.rows[0].start: one for one in self.slices}
        third, fourth = 0.0, 0.0
        for offset in {j + k for j in by_offset for k in by_offset}:
            square = self._double(xp.zeros(n, dtype=self.dtype, device=self.device))
            for j, left in by_offset.items():
                right = by_offset.get(offset - j)
                if right is None:
                    continue
                low = max(left.rows[0].start, right.rows[0].start - j)
                high = min(left.rows[0].stop, right.rows[0].stop - j)
                if low < high:
                    square[low:high] += self._part(left, low, high) * self._part(
                        right, low + j, high + j
                    )
            fourth += float(xp.sum(xp.abs(square) ** 2))
            if offset in by_offset:
                one = by_offset[offset]
                own = self._part(one, one.rows[0].start, one.rows[0].stop)
                products = xp.conj(own) * square[one.rows]
                third += float(xp.sum(xp.real(products)))
        return (*first, third, fourth)

    def _part(self, one: Slice, low: int, high: int) -> Array:
        """Return the entries of a slice in some rows, in double precision; a constant as one."""
        entries = self._double(self._entries_of(one))
        start = one.rows[0].start
        return entries if one.constant else entries[low - start : high - start]


def _lines(diagonals: Any) -> list[Array]:
    """Return diagonals as arrays of one library, of one dimension; numbers take theirs."""
    xp = default_namespace()
    found = next((line for line in diagonals if is_array(line) and line.ndim), None)
    where: Any = "cpu"
    if found is not None:
        xp, where = namespace(found), device(found)
    lines = []
    for line in diagonals:
        array = (
            as_dense(line, name="a diagonal") if is_array(line) else xp.asarray(line, device=where)
        )
        if array.ndim > 1:
            msg = f"a diagonal has shape {tuple(array.shape)}; expected one dimension or a number."
            raise ValueError(msg)
        lines.append(xp.reshape(array, (-1,)))
    return lines


def _integers(offsets: Sequence[Any]) -> list[int]:
    for offset in offsets:
        if isinstance(offset, (bool, np.bool_)) or int(offset) != offset:
            msg = f"an offset is {offset!r}; expected an integer."
            raise TypeError(msg)
    return [int(offset) for offset in offsets]


def _slice(offset: int, count: int, first: int, shape: tuple[int, int]) -> Slice:
    """Return the slice of a diagonal; raise a ValueError if its entries do not fill it."""
    row, column = max(0, -offset), max(0, offset)
    length = min(shape[0] - row, shape[1] - column)
    if length < 0 or (length == 0 and shape[0] and shape[1]):
        msg = f"offset {offset} lies outside a matrix of shape {shape}."
        raise ValueError(msg)
    if count not in (1, length):
        msg = (
            f"the diagonal at offset {offset} has {count} entries; expected {length} (or one for "
            f"all) in a matrix of shape {shape}."
        )
        raise ValueError(msg)
    return Slice(
        (slice(row, row + length),), (slice(column, column + length),), first, constant=count == 1
    )


def pays_as_diagonals(a: Any) -> bool:
    """Whether a SciPy array in DIA format is better not made a CSR array, which has no zeros.

    Without compiled code CSR is faster, with many zeros it is smaller, and in single precision a
    step with 8 columns took 1.8 times as long with diagonals (benchmarks/speed/lattice.py).
    """
    square, stored = a.shape[0] == a.shape[1], a.data.size
    double = working_dtype(default_namespace(), a.dtype) in (np.float64, np.complex128)
    if not (square and double) or stored < LEAST_ENTRIES:
        return False
    if kernel("cpu.lattice_step", "lattice_step") is None:
        return False
    return bool(3 * np.count_nonzero(a.data) >= 2 * stored)


def diagonals_of_dia(a: Any) -> Diagonals:
    """Return a SciPy array in DIA format, whose entries are aligned by columns."""
    rows, columns = a.shape
    offsets, lines = [], []
    for offset, stored in zip(a.offsets.tolist(), a.data, strict=True):
        first, length = max(0, offset), min(rows + min(0, offset), columns - max(0, offset))
        if length <= 0:
            continue
        line = stored[first : first + length]
        if line.shape[0] < length:  # what is not stored is zero
            line = np.concatenate([line, np.zeros(length - line.shape[0], line.dtype)])
        offsets.append(offset)
        lines.append(line)
    return Diagonals(lines, offsets, shape=a.shape)
