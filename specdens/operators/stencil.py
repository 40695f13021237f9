"""`Stencil`: the same few couplings at every site of a lattice, without storing a matrix."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np

from specdens.arrays.libraries import Array, as_dense, is_complex, to_host
from specdens.operators.algebra import finite_number
from specdens.operators.aslinearoperator import home
from specdens.operators.explicit import SQUARE_FLOPS
from specdens.operators.sliced import Slice, SlicedOperator

__all__ = ["Stencil"]

Offset: TypeAlias = tuple[int, ...]


class Stencil(SlicedOperator):
    r"""A matrix with the same couplings at every site of a lattice, and an optional diagonal.

    ``(A x)[i] = sum_o coefficients[o] x[i + o] + diagonal[i] x[i]`` for sites i and offsets o of
    any dimension: finite differences, tight-binding Hamiltonians, disorder. Sites are numbered in
    C order, the last axis fastest.

    Parameters
    ----------
    shape : int or tuple of int
        Sites along each axis.
    coefficients : mapping of offsets to numbers
        Offsets are tuples of d integers (an int on a chain). Hermitian if that of ``-o`` is the
        conjugate of that of ``o``; both are to be given.
    periodic : bool or sequence of bool
        Whether the lattice closes upon itself, along all axes or along each. Couplings that arrive
        at one site then add. Along an open axis, nothing lies outside (Dirichlet).
    diagonal : array_like, shape `shape` or (n,), optional
        Added to the diagonal: an on-site potential. Its library and device are those of products.
    dtype : optional
        Of products; default that of `diagonal` or float64, complex if a coefficient is.
    like : array, optional
        Without `diagonal`: an array of the library and on the device of products.

    Attributes
    ----------
    circulant : bool
        Whether all axes are periodic and all sites alike: `symbol` gives all eigenvalues.

    Raises
    ------
    ValueError
        If an axis has no site, an offset not as many integers as there are axes, a coefficient is
        not finite, or complex though `dtype` is not, or the diagonal has another shape.
    TypeError
        If an offset or the number of sites is not an integer.

    Notes
    -----
    A product reads and writes blocks only (and the diagonal): its memory traffic is that of adding
    vectors. Nothing of the size of the matrix is stored. Bounds of the spectrum hold by
    construction (Gershgorin), traces of the powers up to four of a stencil without `diagonal` are
    counted, and if it is periodic, too, then determinants, traces of functions, densities and
    counts are exact, by one Fourier transform, up to 2^26 sites. Tensors are taken without their
    history: no gradients.

    Examples
    --------
    A square lattice with an on-site potential:

    >>> import numpy as np
    >>> import specdens
    >>> hop = {(0, 1): -1.0, (0, -1): -1.0, (1, 0): -1.0, (-1, 0): -1.0}
    >>> disorder = np.random.default_rng(0).uniform(-1, 1, (300, 300))
    >>> H = Stencil((300, 300), hop, diagonal=disorder)
    >>> rho = specdens.density(H, moments=64, probes=4, rng=0)
    >>> print(f"{rho.count(-np.inf, 0) / H.shape[0]:.2f}")
    0.50

    A magnetic flux through a ring, by the phase of the hopping; all eigenvalues are known:

    >>> ring = Stencil(10**6, {1: np.exp(0.1j), -1: np.exp(-0.1j), 0: 3.0}, periodic=True)
    >>> print(f"{specdens.logdet(ring):.1f}")
    962423.7
    """

    def __init__(
        self,
        shape: int | Sequence[int],
        coefficients: Mapping[Any, complex],
        *,
        periodic: bool | Sequence[bool] = False,
        diagonal: Any = None,
        dtype: Any = None,
        like: Array | None = None,
    ) -> None:
        grid = _sites(shape)
        self.periodic = _by_axis(periodic, len(grid))
        numbers = {
            _offset(o, len(grid)): finite_number(c, "a coefficient")
            for o, c in coefficients.items()
        }
        complex_ = any(isinstance(c, complex) for c in numbers.values())
        if diagonal is not None:
            diagonal = as_dense(diagonal, name="diagonal")
            if tuple(diagonal.shape) not in (grid, (math.prod(grid),)):
                msg = (
                    f"diagonal has shape {tuple(diagonal.shape)}; expected {grid}, as the lattice."
                )
                raise ValueError(msg)
            like, complex_ = diagonal, complex_ or is_complex(diagonal)
        xp, where, working = home(None, dtype, like)
        if complex_ and not xp.isdtype(working, "complex floating"):
            if dtype is not None:
                msg = f"a coefficient or the diagonal is complex, but dtype is {dtype}."
                raise ValueError(msg)
            working = xp.complex64 if working == xp.float32 else xp.complex128
        n = math.prod(grid)
        super().__init__((n, n), dtype=working, xp=xp, device=where)
        self.grid = self.other_grid = grid
        self._coefficients = self._merged(numbers)
        self._lay_out(diagonal)
        self.hermitian = True if self.asymmetry() == 0 else None
        if self.hermitian:
            self.lower, self.upper = self._gershgorin()

    def _merged(self, numbers: dict[Offset, complex]) -> dict[Offset, complex]:
        """Return coefficients by offsets that reach a site, periodic ones in [0, sites)."""
        found: dict[Offset, complex] = {}
        for offset, number in numbers.items():
            kept = self._wrapped(offset)
            if all(abs(o) < size for o, size in zip(kept, self.grid, strict=True)):
                found[kept] = found.get(kept, 0.0) + number
        return found

    def _wrapped(self, offset: Offset) -> Offset:
        axes = zip(offset, self.grid, self.periodic, strict=True)
        return tuple(o % size if closed else o for o, size, closed in axes)

    def _lay_out(self, diagonal: Array | None) -> None:
        """Set the entries and their slices; a diagonal comes first, with what all sites have."""
        xp, slices = self.xp, []
        around, first = dict(self._coefficients), 0
        parts: list[Array] = []
        if diagonal is not None:
            own = around.pop((0,) * len(self.grid), 0.0)
            parts.append(xp.astype(xp.reshape(diagonal, (-1,)), self.dtype) + own)
            whole = tuple(slice(0, size) for size in self.grid)
            slices.append(Slice(whole, whole, 0, constant=False))
            first = self.shape[0]
        parts.append(xp.asarray(list(around.values()), dtype=self.dtype, device=self.device))
        self._store(xp.concat(parts))
        for place, offset in enumerate(around, first):
            slices += [Slice(*boxes, place, constant=True) for boxes in self._boxes_of(offset)]
        self.slices = tuple(slices)

    def _boxes_of(self, offset: Offset) -> Iterator[tuple[tuple[slice, ...], tuple[slice, ...]]]:
        """Give the rows and columns that an offset couples, in two parts around a periodic axis.

        Yields
        ------
        tuple of slice, tuple of slice
        """
        axes = []
        for o, size, closed in zip(offset, self.grid, self.periodic, strict=True):
            low, high = max(0, -o), size - max(0, o)
            ways = [(slice(low, high), slice(low + o, high + o))]
            if closed and o:
                ways.append((slice(size - o, size), slice(0, o)))
            axes.append(ways)
        for pairs in itertools.product(*axes):
            yield tuple(rows for rows, _ in pairs), tuple(columns for _, columns in pairs)

    @property
    def _rounded(self) -> dict[Offset, complex]:
        """The coefficients, in the precision of products."""
        kept = self.xp.asarray(
            list(self._coefficients.values()), dtype=self.dtype, device=self.device
        )
        return dict(zip(self._coefficients, to_host(kept).tolist(), strict=True))

    def _gershgorin(self) -> tuple[float, float]:
        """Return bounds of the spectrum: each site has at most all couplings."""
        rounded = self._rounded
        centre = complex(rounded.pop((0,) * len(self.grid), 0.0)).real
        radius = sum(abs(c) for c in rounded.values())
        low = high = centre
        if self._is_sitewise:
            sites = self.entries[: self.shape[0]]
            sites = self.xp.real(sites) if is_complex(sites) else sites
            low, high = float(self.xp.min(sites)), float(self.xp.max(sites))
        return low - radius, high + radius

    @property
    def _is_sitewise(self) -> bool:
        """Whether sites have entries of their own."""
        return bool(self.slices) and not self.slices[0].constant

    @property
    def circulant(self) -> bool:
        """Whether all axes are periodic and all sites alike."""
        return all(self.periodic) and not self._is_sitewise

    def diagonal(self) -> Array:
        """Return the diagonal."""
        n = self.shape[0]
        if self._is_sitewise:
            return self.entries[:n]
        own = self._rounded.get((0,) * len(self.grid), 0.0)
        one = self.xp.asarray(own, dtype=self.dtype, device=self.device)
        return self.xp.broadcast_to(one, (n,))

    def symbol(self) -> Array:
        r"""Return all eigenvalues ``sum_o c_o exp(i k o)``, in double precision, of shape `shape`.

        The wave vectors k are those of a Fourier transform: ``2 pi j / sites`` for j = 0, 1, ...
        along each axis.

        Returns
        -------
        array, of the shape of the lattice
            Real if the matrix is Hermitian, else complex.

        Raises
        ------
        ValueError
            If the matrix is not `circulant`.
        """
        xp = self.xp
        if not self.circulant:
            msg = "an axis is open or sites differ: no plane wave is an eigenvector."
            raise ValueError(msg)
        kernel = xp.zeros(self.grid, dtype=xp.complex128, device=self.device)
        for offset, number in self._rounded.items():
            kernel[tuple(-o % size for o, size in zip(offset, self.grid, strict=True))] = number
        found = xp.fft.fftn(kernel)
        return xp.real(found) if self.hermitian else found

    @cached_property
    def _power_traces(self) -> tuple[float, ...]:
        """Return also tr A^3 and tr A^4 where all sites are alike: closed walks are counted."""
        first: tuple[float, ...] = super()._power_traces
        if not first or self._is_sitewise or len(self._coefficients) > SQUARE_FLOPS:
            return first
        return (*first, self._closed_walks(3), self._closed_walks(4))

    def _closed_walks(self, steps: int) -> float:
        """Return the sum over all closed walks on the lattice of the products of coefficients."""
        numbers, total = self._rounded, 0.0
        for walk in itertools.product(numbers, repeat=steps - 1):
            back = self._wrapped(tuple(-sum(o) for o in zip(*walk, strict=True)))
            if back in numbers:
                product = math.prod(numbers[o] for o in (*walk, back))
                total += complex(product).real * self._starts(walk)
        return total

    def _starts(self, walk: tuple[Offset, ...]) -> int:
        """Return the number of sites from which a walk does not leave the lattice."""
        count = 1
        for size, closed, *steps in zip(self.grid, self.periodic, *walk, strict=True):
            places = [0, *itertools.accumulate(steps)]
            count *= size if closed else max(0, size - (max(places) - min(places)))
        return count


def _sites(shape: int | Sequence[int]) -> tuple[int, ...]:
    sizes = tuple(shape) if isinstance(shape, Sequence) else (shape,)
    for size in sizes:
        if isinstance(size, bool) or not isinstance(size, (int, np.integer)):
            msg = f"shape is {shape!r}; expected an integer for each axis."
            raise TypeError(msg)
    if not sizes or min(sizes) < 1:
        msg = f"shape is {shape!r}; expected at least one axis, of at least one site each."
        raise ValueError(msg)
    return tuple(int(size) for size in sizes)


def _by_axis(periodic: bool | Sequence[bool], count: int) -> tuple[bool, ...]:
    if isinstance(periodic, (bool, np.bool_)):
        return (bool(periodic),) * count
    closed = tuple(periodic)
    if len(closed) != count or not all(isinstance(one, (bool, np.bool_)) for one in closed):
        msg = f"periodic is {periodic!r}; expected True or False, or one for each of {count} axes."
        raise ValueError(msg)
    return tuple(bool(one) for one in closed)


def _offset(offset: Any, count: int) -> Offset:
    steps = tuple(offset) if isinstance(offset, Sequence) else (offset,)
    for step in steps:
        if isinstance(step, bool) or not isinstance(step, (int, np.integer)):
            msg = f"an offset is {offset!r}; expected {count} integers."
            raise TypeError(msg)
    if len(steps) != count:
        msg = f"the offset {offset!r} has {len(steps)} integers; the lattice has {count} axes."
        raise ValueError(msg)
    return tuple(int(step) for step in steps)
