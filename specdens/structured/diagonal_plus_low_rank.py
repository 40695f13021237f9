"""A diagonal and an update of low rank: ``diag(d) + U C V^H`` as an operator."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np

from specdens.arrays.libraries import (
    Array,
    adjoint,
    as_dense,
    device,
    is_array,
    is_complex,
    matmul,
    namespace,
    require_finite,
    result_dtype,
    to_host,
    working_dtype,
)
from specdens.operators.linear_operator import LinearOperator

__all__ = ["DiagonalPlusLowRank"]


class DiagonalPlusLowRank(LinearOperator):
    r"""The matrix ``diag(d) + U C V^H``, never formed.

    Parameters
    ----------
    d : array, shape (n,)
    U : array, shape (n, k)
    V : array, shape (n, k), optional
        Default U.
    C : array, shape (k, k), optional
        Default the identity.

    Raises
    ------
    ValueError
        If shapes, libraries or devices do not fit together, or an entry is not finite.
    TypeError
        If one is not an array.

    Notes
    -----
    A product costs ``n (2 k + 1)`` multiplications. The determinant is exact, for ``n k^2``:
    ``det(D + U C V^H) = det(D) det(I + C V^H D^{-1} U)``. Hermitian if `V` is not given, `d` is
    real, and `C` Hermitian; if `d` is constant besides, all eigenvalues are known.

    References
    ----------
    Harville, Matrix Algebra from a Statistician's Perspective (1997), theorem 18.1.1.

    Examples
    --------
    >>> import numpy as np
    >>> import specdens
    >>> A = DiagonalPlusLowRank(np.ones(1000), np.ones((1000, 1)))
    >>> print(f"{specdens.logdet(A):.6f}")
    6.908755
    """

    def __init__(
        self, d: Array, U: Array, V: Array | None = None, *, C: Array | None = None
    ) -> None:
        named = {"d": d, "left": U, "right": U if V is None else V, "inner": C}
        # The tensors that require a gradient (Torch), by the names of what is made of them.
        self.sources = {k: x for k, x in named.items() if getattr(x, "requires_grad", False)}
        given = {"d": d, "U": U} | ({} if V is None else {"V": V}) | ({} if C is None else {"C": C})
        arrays = {name: self._read(x, name) for name, x in given.items()}
        xp, where = namespace(arrays["d"]), device(arrays["d"])
        for name, x in arrays.items():
            if namespace(x) is not xp or device(x) != where:
                msg = f"{name} is not of the library and on the device of d; bring it there."
                raise ValueError(msg)
        dtype = xp.result_type(*(working_dtype(xp, x.dtype) for x in arrays.values()))
        results = xp.result_type(*(result_dtype(xp, x.dtype) for x in arrays.values()))
        arrays = {name: xp.astype(x, dtype, copy=False) for name, x in arrays.items()}
        self._fit(arrays)
        n, k = arrays["U"].shape
        self.d, self.left, self.right = arrays["d"], arrays["U"], arrays.get("V", arrays["U"])
        identity = xp.eye(k, dtype=dtype, device=where)
        self.inner = arrays.get("C", identity)
        self.rank = k
        super().__init__((n, n), dtype=dtype, xp=xp, device=where, result_dtype=results)
        self.hermitian = True if V is None and self._inner_is_hermitian() else None
        if self.hermitian and n:
            real = self._real_diagonal
            low, high = float(xp.min(real)), float(xp.max(real))
            update = np.linalg.eigvalsh(self.core) if k else np.zeros(1)
            self.lower, self.upper = low + min(0.0, update[0]), high + max(0.0, update[-1])

    @staticmethod
    def _read(x: Any, name: str) -> Array:
        x = as_dense(x, name=name)
        if not is_array(x):
            msg = f"{name} is of type {type(x).__name__}; expected an array."
            raise TypeError(msg)
        require_finite(x, name)
        return x

    @staticmethod
    def _fit(arrays: dict[str, Array]) -> None:
        """Raise a ValueError unless the shapes fit together."""
        shapes = {name: tuple(x.shape) for name, x in arrays.items()}
        n, k = shapes["U"] if len(shapes["U"]) == 2 else (-1, -1)
        expected = {"d": (n,), "U": (n, k), "V": (n, k), "C": (k, k)}
        if any(shape != expected[name] for name, shape in shapes.items()):
            found = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
            msg = f"shapes are {found}; expected d (n,), U and V (n, k), C (k, k)."
            raise ValueError(msg)

    @property
    def _real_diagonal(self) -> Array:
        return self.xp.real(self.d) if is_complex(self.d) else self.d

    def _inner_is_hermitian(self) -> bool:
        xp = self.xp
        c = to_host(self.inner)
        rounding = 10 * float(xp.finfo(self.dtype).eps) * np.abs(c).max(initial=0.0)
        unreal = is_complex(self.d) and bool(xp.any(xp.imag(self.d) != 0))
        return not unreal and bool(np.all(np.abs(c - c.conj().T) <= rounding))

    @cached_property
    def core(self) -> np.ndarray[Any, Any]:
        """``R C R^H`` with ``U = Q R``: the update in the basis Q of its range, on the host."""
        r = to_host(self.xp.linalg.qr(self.left).R)
        found = r @ to_host(self.inner) @ r.conj().T
        return np.asarray((found + found.conj().T) / 2)

    @cached_property
    def level(self) -> float | None:
        """The diagonal of a Hermitian matrix if it is constant, else None."""
        if not self.hermitian or self.shape[0] == 0:
            return None
        low, high = (float(end(self._real_diagonal)) for end in (self.xp.min, self.xp.max))
        return low if low == high else None

    def _matmat(self, x: Array) -> Array:
        update = matmul(self.left, matmul(self.inner, matmul(adjoint(self.right), x)))
        return self.d[:, None] * x + update

    def _rmatmat(self, x: Array) -> Array:
        update = matmul(self.right, matmul(adjoint(self.inner), matmul(adjoint(self.left), x)))
        d = self.xp.conj(self.d) if is_complex(self.d) else self.d
        return d[:, None] * x + update
