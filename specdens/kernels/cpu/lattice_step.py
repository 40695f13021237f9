"""A step of a recurrence with a matrix of diagonals on a lattice, ``y = a A x + b x + c y``.

Along each axis the lattice is cut into segments; in a box of segments all sites have the same
neighbours. Only entries and vectors are read: no indices. As in `cpu.csr_step`, results do
not depend on the number of threads.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numba import njit, prange

from specdens.kernels.cpu.csr_step import CHUNK
from specdens.kernels.cpu.row_tiles import update_rows
from specdens.kernels.cpu.step_frame import needs_product, stepped

__all__ = ["Boxes", "lattice_step"]

Host: TypeAlias = np.ndarray[Any, Any]


class Boxes(NamedTuple):
    """Which terms there are in each box of a lattice.

    Attributes
    ----------
    shape : ndarray of int64, shape (d,)
        Sites along each axis.
    edges, first_edge : ndarray of int64
        Where the segments of each axis begin, and the last ends, one axis after the other; and
        where each axis begins in this list.
    terms : ndarray of int64, shape (N, 2)
        A constant term ``(place, shift)`` of row i is ``entries[place] x[i + shift]``, a varying
        one ``entries[place + i] x[i + shift]``.
    first_term : ndarray of int64, shape (boxes, 3)
        Where in this list the constant terms of each box begin, boxes in C order, where the varying
        ones follow, and where these end.
    """

    shape: Host
    edges: Host
    first_edge: Host
    terms: Host
    first_term: Host


def lattice_step(
    boxes: Boxes, entries: Host, x: Any, y: Any, a: Any, b: Any, c: Any
) -> tuple[Host, Host]:
    """Set y to ``a A x + b x + c y``; return ``<y, y>`` and the real part of ``<y, x>`` by columns.

    Parameters
    ----------
    boxes : Boxes
        Not checked: what they name is read.
    entries : ndarray
        Of the dtype of x.
    x, y : array in the memory of the host, shape (n, R), C order
        Each R is compiled for itself; y is written.
    a, b, c : float, or ndarray of shape (R,)
        For the number ``a = 0.0`` A is not read.

    Returns
    -------
    ndarray, ndarray, shape (R,)
        float64.
    """
    if not needs_product(a):
        boxes = boxes._replace(first_term=np.zeros_like(boxes.first_term))

    def update(x: Host, y: Host, abc: Host, partial: Host) -> None:
        _all_rows(x.shape[1])(*boxes, entries, x, y, abc, partial)

    return stepped(update, CHUNK, x, y, a, b, c)


@lru_cache
def _all_rows(width: int) -> Callable[..., None]:
    """Return the loop over rows for a number of real columns, compiled for its arguments."""

    @njit(parallel=True, nogil=True, cache=True)
    def loop(  # type: ignore[no-untyped-def]
        shape, edges, first_edge, terms, first_term, entries, x, y, abc, partial
    ):
        n, last = len(y), len(shape) - 1
        length = shape[last]
        for chunk in prange(len(partial)):
            row, end = chunk * CHUNK, min(n, (chunk + 1) * CHUNK)
            while row < end:
                line = row // length
                box, boxes = 0, first_edge[last + 1] - first_edge[last] - 1
                rest = line
                for axis in range(last - 1, -1, -1):
                    site = rest % shape[axis]
                    rest //= shape[axis]
                    segment = first_edge[axis]
                    while edges[segment + 1] <= site:
                        segment += 1
                    box += boxes * (segment - first_edge[axis])
                    boxes *= first_edge[axis + 1] - first_edge[axis] - 1
                segment = first_edge[last]
                stop = min(end, (line + 1) * length)
                while row < stop:
                    until = min(stop, line * length + edges[segment + 1])
                    update_rows(
                        entries, terms, first_term[box, 0], first_term[box, 1], first_term[box, 2],
                        x, y, row, until, abc, partial[chunk], width,
                    )  # fmt: skip
                    row = max(row, until)
                    segment += 1
                    box += 1

    return loop  # type: ignore[no-any-return]  # numba has no types
