"""Matrices made of smaller ones: Kronecker products, blocks, low-rank updates, permutations.

What is known of the parts is known of the whole: products, symmetry, bounds of the spectrum; and
the determinant, the trace and the eigenvalues follow by exact rules (`exact_rules`).
"""

from __future__ import annotations

import math
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
from specdens.problem.bounds import known_bounds
from specdens.problem.prepare import finite_operator, is_known_hermitian

__all__ = ["BlockDiagonal", "DiagonalPlusLowRank", "Kronecker", "Permuted"]


def _at_one_home(parts: list[Any], what: str) -> list[LinearOperator]:
    """Return parts as finite operators; raise a ValueError unless they share library and device."""
    operators = [finite_operator(part) for part in parts]
    homes = {(op.xp.__name__, str(op.device)) for op in operators}
    if len(homes) != 1:
        found = "; ".join(f"{x} on {d}" for x, d in sorted(homes)) or "none"
        msg = f"expected {what} of one library and device, one at least; got {found}."
        raise ValueError(msg)
    return operators


def _home(parts: list[LinearOperator]) -> dict[str, Any]:
    """Return namespace, device and precision of what is made of parts."""
    xp = parts[0].xp
    return {
        "xp": xp,
        "device": parts[0].device,
        "dtype": xp.result_type(*(op.dtype for op in parts)),
        "result_dtype": xp.result_type(*(op.result_dtype for op in parts)),
    }


class Kronecker(LinearOperator):
    r"""The Kronecker product :math:`A_1 \otimes A_2 \otimes \dots`, never formed.

    Parameters
    ----------
    *factors : anything that `aslinearoperator` takes
        One at least, of one library and device; rectangular ones too.

    Raises
    ------
    ValueError
        If there is none, one is not finite, or libraries or devices differ.

    Notes
    -----
    A product costs, for each factor of n_i columns, n / n_i products with it. If the factors are
    Hermitian and small, all eigenvalues are known; determinant and trace follow from those of the
    factors in any case.

    References
    ----------
    Van Loan, J. Comput. Appl. Math. 123, 85 (2000).

    Examples
    --------
    >>> import numpy as np
    >>> import specdens
    >>> A = Kronecker(np.diag([1.0, 2.0]), np.eye(3))
    >>> A @ np.ones(6)
    array([1., 1., 1., 2., 2., 2.])
    >>> print(f"{specdens.logdet(A):.6f}")
    2.079442
    """

    def __init__(self, *factors: Any) -> None:
        self.factors = _at_one_home(list(factors), "factors")
        shape = (
            math.prod(op.shape[0] for op in self.factors),
            math.prod(op.shape[1] for op in self.factors),
        )
        super().__init__(shape, **_home(self.factors))
        self.hermitian = True if all(is_known_hermitian(op) for op in self.factors) else None
        if self.hermitian:
            self.lower, self.upper = self._ends()

    def _ends(self) -> tuple[float, float]:
        """Return the extreme products of what bounds the spectra of the factors."""
        ends = [1.0, 1.0]
        for op in self.factors:
            # An infinite end stands for finite eigenvalues: with 0 it makes 0.
            found = [a * b if a and b else 0.0 for a in ends for b in list(known_bounds(op))]
            ends = [min(found), max(found)]
        return ends[0], ends[1]

    def _matmat(self, x: Array) -> Array:
        return self._applied(x, [(op.shape, op.matmat) for op in self.factors])

    def _rmatmat(self, x: Array) -> Array:
        return self._applied(x, [(op.shape[::-1], op.rmatmat) for op in self.factors])

    def _applied(self, x: Array, factors: list[Any]) -> Array:
        """Apply each factor to the leading axis, and let that axis go to the end."""
        xp, count = self.xp, x.shape[1]
        axes = [columns for (_, columns), _ in factors]
        done: list[int] = []
        for (rows, _), product in factors:
            rest = math.prod(axes[1:]) * count * math.prod(done)
            x = xp.matrix_transpose(product(xp.reshape(x, (axes[0], rest))))
            axes, done = axes[1:], [*done, rows]
        x = xp.matrix_transpose(xp.reshape(x, (count, math.prod(done))))
        return xp.astype(x, self.dtype, copy=False)


class BlockDiagonal(LinearOperator):
    r"""The direct sum :math:`A_1 \oplus A_2 \oplus \dots`: blocks along the diagonal.

    Parameters
    ----------
    *blocks : anything that `aslinearoperator` takes, shape (n_i, n_i)
        One at least, square, of one library and device.

    Raises
    ------
    ValueError
        If there is none, one is not square or not finite, or libraries or devices differ.

    Notes
    -----
    A product costs one with each block. Every function of the spectrum is the sum of those of the
    blocks, each by the method that suits it.

    Examples
    --------
    >>> import numpy as np
    >>> import specdens
    >>> A = BlockDiagonal(np.array([[2.0]]), np.array([[0.0, 1.0], [1.0, 0.0]]))
    >>> A @ np.array([1.0, 2.0, 3.0])
    array([2., 3., 2.])
    >>> sign, value = specdens.slogdet(A)
    >>> print(f"{sign:.0f} {value:.6f}")
    -1 0.693147
    """

    def __init__(self, *blocks: Any) -> None:
        self.blocks = _at_one_home(list(blocks), "blocks")
        for op in self.blocks:
            if op.shape[0] != op.shape[1]:
                msg = f"a block has shape {op.shape}; expected square ones."
                raise ValueError(msg)
        order = sum(op.shape[0] for op in self.blocks)
        super().__init__((order, order), **_home(self.blocks))
        self.hermitian = True if all(is_known_hermitian(op) for op in self.blocks) else None
        if self.hermitian:
            ends = [known_bounds(op) for op in self.blocks if op.shape[0]]
            self.lower = min((end.low for end in ends), default=-math.inf)
            self.upper = max((end.high for end in ends), default=math.inf)

    def _matmat(self, x: Array) -> Array:
        return self._applied(x, [op.matmat for op in self.blocks])

    def _rmatmat(self, x: Array) -> Array:
        return self._applied(x, [op.rmatmat for op in self.blocks])

    def _applied(self, x: Array, products: list[Any]) -> Array:
        ends = np.cumsum([0, *(op.shape[0] for op in self.blocks)]).tolist()
        parts = [
            self.xp.astype(product(x[low:high, :]), self.dtype, copy=False)
            for product, low, high in zip(products, ends[:-1], ends[1:], strict=True)
        ]
        return self.xp.concat(parts, axis=0)


class Permuted(LinearOperator):
    """The matrix ``P A Q`` with the entry ``a[rows[i], columns[j]]`` in row i and column j.

    Parameters
    ----------
    A : anything that `aslinearoperator` takes, shape (n, n)
    rows : sequence of int, shape (n,)
        A permutation of 0 .. n - 1.
    columns : sequence of int, shape (n,), optional
        Default `rows`: then ``Q = P^T``, and the eigenvalues stay.

    Raises
    ------
    ValueError
        If A is not square or not finite, or an index array is no permutation.

    Examples
    --------
    >>> import numpy as np
    >>> import specdens
    >>> A = Permuted(np.diag([1.0, 2.0]), [1, 0], [0, 1])
    >>> A @ np.array([3.0, 5.0])
    array([10.,  3.])
    >>> print(specdens.slogdet(A)[0])
    -1.0
    """

    def __init__(self, A: Any, rows: Any, columns: Any = None) -> None:
        self.base = finite_operator(A)
        n = self.base.shape[0]
        if self.base.shape[1] != n:
            msg = f"A has shape {self.base.shape}; expected a square matrix to permute."
            raise ValueError(msg)
        self.row_order = _permutation(rows, n, "rows")
        self.column_order = (
            self.row_order if columns is None else _permutation(columns, n, "columns")
        )
        super().__init__((n, n), **_home([self.base]))
        self.keeps_spectrum = bool(np.array_equal(self.row_order, self.column_order))
        if self.keeps_spectrum:
            self.hermitian = True if is_known_hermitian(self.base) else self.base.hermitian
            known = known_bounds(self.base)
            self.lower, self.upper = (
                (known.low, known.high) if self.hermitian else (-np.inf, np.inf)
            )
        else:
            self.hermitian = None

    def _taken(self, x: Array, index: Any) -> Array:
        return self.xp.take(x, self.xp.asarray(index, device=self.device), axis=0)

    def _matmat(self, x: Array) -> Array:
        return self._taken(
            self.base.matmat(self._taken(x, np.argsort(self.column_order))), self.row_order
        )

    def _rmatmat(self, x: Array) -> Array:
        return self._taken(
            self.base.rmatmat(self._taken(x, np.argsort(self.row_order))), self.column_order
        )


def _permutation(given: Any, n: int, name: str) -> np.ndarray[Any, Any]:
    """Return index numbers as NumPy int64, checked to be a permutation of 0 .. n - 1."""
    found = np.asarray(to_host(given) if is_array(given) else given)
    if found.shape != (n,) or not np.array_equal(np.sort(found), np.arange(n)):
        msg = (
            f"{name} of shape {found.shape} is no permutation; expected each of 0 .. {n - 1} once."
        )
        raise ValueError(msg)
    return found.astype(np.int64)


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
