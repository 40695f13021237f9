"""What all compiled steps on the host do around their loops: coefficients in, dot products out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np

__all__ = ["needs_product", "stepped"]

Host: TypeAlias = np.ndarray[Any, Any]


def needs_product(a: Any) -> bool:
    """Whether a step with this coefficient reads the matrix; arrays may lie on a device."""
    return not (isinstance(a, float) and a == 0)


def stepped(
    update: Callable[[Host, Host, Host, Host], None], chunk: int, x: Any, y: Any, *abc: Any
) -> tuple[Host, Host]:
    """Run a loop over chunks of rows; return ``<y, y>`` and the real part of ``<y, x>`` by columns.

    Parameters
    ----------
    update : callable
        ``update(x, y, abc, partial)`` sets y to ``a A x + b x + c y``. A complex column is two real
        ones; `abc` has a coefficient for each of these, shape (3, columns). It adds the dot
        products of each chunk to its place in `partial`, shape (chunks, 2, columns).
    chunk : int
        Rows. The sums of chunks are added in their order, whoever computed them.
    x, y : array in the memory of the host, shape (n, R), C order
        Of NumPy or Torch; y is written.
    *abc : float, or ndarray of shape (R,)

    Returns
    -------
    ndarray, ndarray, shape (R,)
        float64.
    """
    x, y = np.asarray(x), np.asarray(y)
    real = np.float32 if x.dtype in (np.float32, np.complex64) else np.float64
    columns, updated = x.view(real), y.view(real)
    width = columns.shape[1]
    coefficients = np.empty((3, x.shape[1], width // x.shape[1]), real)
    for place, coefficient in zip(coefficients, abc, strict=True):
        place[:] = np.reshape(coefficient, (-1, 1))
    partial = np.zeros((-(-len(x) // chunk), 2, width))
    update(columns, updated, coefficients.reshape(3, width), partial)
    squares, mixed = partial.sum(axis=0).reshape(2, x.shape[1], -1).sum(axis=2)
    return squares, mixed
