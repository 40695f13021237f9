"""Matrices made of slices: entries times a slice of x go to a slice of y, without indices."""

from __future__ import annotations

import itertools
import math
from abc import abstractmethod
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, TypeAlias

import numpy as np

from specdens.arrays.libraries import Array, is_complex, on_cpu, power_of_two, to_host
from specdens.kernels.compiled import HOST_WIDTHS, kernel, padded_width
from specdens.operators.explicit import LEAST_ENTRIES, RANGE, ExplicitOperator, sum_of_squares
from specdens.operators.linear_operator import Step

__all__ = ["Box", "Slice", "SlicedOperator"]

Host: TypeAlias = np.ndarray[Any, Any]

Box: TypeAlias = tuple[slice, ...]

MOST_FORMED = 2**25
"""Entries up to which a sparse matrix is formed, to be factored."""


@dataclass(frozen=True)
class Slice:
    """Entries in the rows of a box and the columns of another of the same shape.

    Attributes
    ----------
    rows, columns : tuple of slice
        Of the lattice, one slice for each axis, with start and stop.
    first : int
        Where the entries begin in the array of all of them.
    constant : bool
        Whether all of them are the one that stands there; else they follow in C order.
    """

    rows: Box
    columns: Box
    first: int
    constant: bool

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of both boxes."""
        return tuple(s.stop - s.start for s in self.rows)

    @property
    def size(self) -> int:
        """The number of entries of the matrix."""
        return math.prod(self.shape)


class SlicedOperator(ExplicitOperator):
    """A matrix that is a sum of slices, no two of which share an entry.

    Products, sums and copies follow from them. A constant takes no memory.

    Attributes
    ----------
    entries : array, shape (N,)
        All that slices refer to, in the precision of products.
    slices : tuple of Slice
        Each with its mirror image, if the pattern is symmetric.
    grid, other_grid : tuple of int
        The lattices whose sites are rows and columns, in C order.
    """

    entries: Array
    slices: tuple[Slice, ...]
    grid: tuple[int, ...]
    other_grid: tuple[int, ...]

    @abstractmethod
    def diagonal(self) -> Array:
        """Return the diagonal, shape (min(shape),), in the working precision."""

    def _store(self, entries: Array) -> None:
        self.entries = entries
        if self._on_host:
            self.widths = HOST_WIDTHS

    def _entries_of(self, one: Slice) -> Array:
        """Return the entries of a slice, in the shape of its boxes; a constant as one of each."""
        count = 1 if one.constant else one.size
        shape = (1,) * len(one.shape) if one.constant else one.shape
        return self.xp.reshape(self.entries[one.first : one.first + count], shape)

    def values(self) -> Array:
        """Return the stored entries, constants once."""
        parts = self._portions()
        return self.xp.concat(parts) if parts else self.entries[:0]

    def _portions(self) -> list[Array]:
        return [self.entries[first : first + count] for first, count in self._stored]

    @property
    def _stored(self) -> list[tuple[int, int]]:
        """Where entries are, each once: slices of a constant share it."""
        return sorted({(s.first, 1 if s.constant else s.size) for s in self.slices})

    @property
    def nnz(self) -> int:
        """The number of entries of the matrix in its slices."""
        return sum(one.size for one in self.slices)

    @cached_property
    def _frobenius_norm(self) -> float:
        unit = power_of_two(self.largest)
        total = 0.0
        for one in self.slices:
            entries = self._double(self._entries_of(one)) / unit
            squares = float(self.xp.sum(self.xp.abs(entries) ** 2))
            total += squares * (one.size if one.constant else 1)
        return unit * math.sqrt(total)

    @cached_property
    def _power_traces(self) -> tuple[float, ...]:
        """Return tr A and tr A^2, of constants without an array of all sites."""
        norm, total = self.frobenius_norm(), 0.0
        if not RANGE[0] < norm < RANGE[1]:
            return ()
        for one in self.slices:
            if one.rows == one.columns:
                entries = self._double(self._entries_of(one))
                entries = self.xp.real(entries) if is_complex(entries) else entries
                total += float(self.xp.sum(entries)) * (one.size if one.constant else 1)
        return total, norm**2

    def _off_diagonal_squares(self) -> float:
        total = 0.0
        for one in self.slices:
            if one.rows != one.columns:
                squares = sum_of_squares(self.xp, self._entries_of(one))
                total += squares * (one.size if one.constant else 1)
        return total

    def absolute_row_sums(self) -> Array:
        """Return the sums of moduli over rows."""
        sums = self._per_site(self.xp.float64)
        for one in self.slices:
            sums[one.rows] += self.xp.abs(self._double(self._entries_of(one)))
        return self.xp.reshape(sums, (self.shape[0],))

    def _per_site(self, dtype: Any) -> Array:
        return self.xp.zeros(self.grid, dtype=dtype, device=self.device)

    @property
    def _mirrored(self) -> dict[tuple[Any, Any], Slice]:
        """The slices by the boxes of their mirror images."""
        return {(_ends(one.columns), _ends(one.rows)): one for one in self.slices}

    def _deviations(self) -> list[tuple[Slice, Array]]:
        """Return ``|a_ij - conj(a_ji)|`` for all entries."""
        found, mirrored = [], self._mirrored
        for one in self.slices:
            entries = self._entries_of(one)
            mirror = mirrored.get((_ends(one.rows), _ends(one.columns)))
            if mirror is one and not is_complex(entries):
                continue
            if mirror is not None:
                other = self._entries_of(mirror)
                entries = entries - (self.xp.conj(other) if is_complex(other) else other)
            found.append((one, self.xp.abs(entries)))
        return found

    def asymmetry(self) -> float:
        """Return the largest deviation from the adjoint."""
        sizes = [float(self.xp.max(deviation)) for _, deviation in self._deviations()]
        return float(np.max(sizes, initial=0.0))

    def equals_adjoint(self, tolerance: float) -> bool:
        """Whether no entry differs from its mirror by more than a share of both its rows."""
        deviations = [d for d in self._deviations() if bool(self.xp.any(d[1] != 0))]
        if not deviations:
            return True
        xp, largest = self.xp, self._per_site(self.xp.float64)
        for one in self.slices:
            sizes = xp.abs(self._double(self._entries_of(one)))
            largest[one.rows] = xp.maximum(largest[one.rows], sizes)
        return all(
            bool(xp.all(size <= tolerance * xp.minimum(largest[one.rows], largest[one.columns])))
            for one, size in deviations
        )

    # --- Products ---------------------------------------------------------------------------------

    def _matmat(self, x: Array) -> Array:
        if self._compiled is None or x.shape[1] == 0:
            return self._sliced(x, adjoint=False)
        widest = self.widths[-1]
        parts = [self._by_step(x[:, i : i + widest]) for i in range(0, x.shape[1], widest)]
        return parts[0] if len(parts) == 1 else self.xp.concat(parts, axis=1)

    def _rmatmat(self, x: Array) -> Array:
        return self._sliced(x, adjoint=True)

    def _by_step(self, x: Array) -> Array:
        """Return A x by the compiled step, in which A is added to a block of zeros."""
        n, count = x.shape
        width = padded_width(count, self.widths)
        assert width is not None
        assert self._compiled is not None
        padded = self.xp.zeros((n, width), dtype=self.dtype, device=self.device)
        padded[:, :count] = x
        product = self.xp.zeros((n, width), dtype=self.dtype, device=self.device)
        self._compiled(padded, product, 1.0, 0.0, 0.0)
        return product[:, :count]

    def _sliced(self, x: Array, *, adjoint: bool) -> Array:
        """Return A x or A^H x, slice by slice, in the precision of both."""
        xp, count = self.xp, x.shape[1]
        grids = (self.other_grid, self.grid) if adjoint else (self.grid, self.other_grid)
        y = xp.zeros((*grids[0], count), dtype=x.dtype, device=self.device)
        x = xp.reshape(x, (*grids[1], count))
        for one in self.slices:
            entries = self._entries_of(one)[..., None]
            rows, columns = one.rows, one.columns
            if adjoint:
                entries = xp.conj(entries) if is_complex(entries) else entries
                rows, columns = columns, rows
            y[(*rows, slice(None))] += entries * x[(*columns, slice(None))]
        return xp.reshape(y, (math.prod(grids[0]), count))

    def recurrence(self, columns: int) -> Step | None:
        """Return the compiled step, where numba is and the matrix is worth starting it."""
        return self._compiled

    @property
    def _compiled(self) -> Step | None:
        """The compiled step of a square matrix in the memory of the host."""
        if self.shape[0] != self.shape[1] or self.nnz < LEAST_ENTRIES or not self._on_host:
            return None
        step = kernel("cpu.lattice_step", "lattice_step")
        return None if step is None else partial(step, self._boxes, np.asarray(self.entries))

    @property
    def _on_host(self) -> bool:
        """Whether NumPy sees our arrays without a copy."""
        return on_cpu(self.entries) and self.xp.__name__.endswith(("numpy", "torch"))

    @cached_property
    def _boxes(self) -> Any:
        """Which slices there are in each box of the lattice, for the compiled step."""
        from specdens.kernels.cpu.lattice_step import Boxes

        # Constants first: they share one loop. Then as in memory: a sum does not wait for the last
        # row of x at once, and has the bits of a CSR matrix with sorted indices.
        slices = sorted(self.slices, key=lambda one: (not one.constant, self._term(one)[1]))
        own = np.array([self._term(one) for one in slices], dtype=np.int64).reshape(-1, 2)
        ends = np.array([_ends(one.rows) for one in slices], dtype=np.int64)
        ends = ends.reshape(-1, len(self.grid), 2)
        cuts, covered = [], []
        for axis, size in enumerate(self.grid):
            cut = np.unique(np.append(ends[:, axis], [0, size]))
            cuts.append(cut)
            covered.append((ends[:, axis, :1] <= cut[:-1]) & (cut[:-1] < ends[:, axis, 1:]))
        constant = np.array([one.constant for one in slices], dtype=bool)
        terms, first, length = [own[:0]], [], 0
        for box in itertools.product(*(range(len(cut) - 1) for cut in cuts)):
            here = np.all([cover[:, i] for cover, i in zip(covered, box, strict=True)], axis=0)
            count = int(here.sum())
            first.append((length, length + int((here & constant).sum()), length + count))
            terms.append(own[here])
            length += count
        starts = np.cumsum([0, *map(len, cuts)])
        return Boxes(
            np.array(self.grid, dtype=np.int64),
            np.concatenate(cuts),
            np.asarray(starts, dtype=np.int64),
            np.concatenate(terms),
            np.array(first, dtype=np.int64),
        )

    def _term(self, one: Slice) -> tuple[int, int]:
        """Return the place of the entries of row 0 and the distance of columns from rows."""
        row, column = (
            int(np.ravel_multi_index([s.start for s in box], self.grid))
            for box in (one.rows, one.columns)
        )
        return one.first if one.constant else one.first - row, column - row

    # --- Copies -----------------------------------------------------------------------------------

    def dense(self) -> Array:
        """Return the matrix as a dense array in double precision."""
        complex_ = self.xp.isdtype(self.dtype, "complex floating")
        wide = self.xp.complex128 if complex_ else self.xp.float64
        return self._sliced(
            self.xp.eye(self.shape[1], dtype=wide, device=self.device), adjoint=False
        )

    def csc_on_host(self) -> Any:
        """Return a SciPy CSC array in double precision; None on a GPU, or if it is too large."""
        from scipy.sparse import coo_array

        if not on_cpu(self.entries) or self.nnz > MOST_FORMED:
            return None
        rows, columns = (
            np.arange(size).reshape(grid)
            for size, grid in zip(self.shape, (self.grid, self.other_grid), strict=True)
        )
        wide = np.complex128 if is_complex(self.entries) else np.float64
        data, i, j = [np.empty(0, wide)], [rows[:0].ravel()], [columns[:0].ravel()]
        for one in self.slices:
            data.append(np.broadcast_to(to_host(self._entries_of(one)), one.shape).ravel())
            i.append(rows[one.rows].ravel())
            j.append(columns[one.columns].ravel())
        places = np.concatenate(i), np.concatenate(j)
        return coo_array((np.concatenate(data), places), shape=self.shape).tocsc()


def _ends(box: Box) -> tuple[tuple[int, int], ...]:
    return tuple((s.start, s.stop) for s in box)
