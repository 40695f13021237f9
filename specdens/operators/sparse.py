"""Sparse matrices of SciPy, CuPy and Torch as operators."""

from __future__ import annotations

import itertools
import math
from functools import cached_property, partial
from typing import Any

import numpy as np

from specdens.arrays.libraries import (
    Array,
    device,
    is_cupy_array,
    namespace,
    on_cpu,
    result_dtype,
    to_host,
    working_dtype,
)
from specdens.kernels.compiled import HOST_WIDTHS, kernel
from specdens.operators.explicit import (
    LEAST_ENTRIES,
    SQUARE_FLOPS,
    ExplicitOperator,
    source_of,
    sum_of_squares,
)
from specdens.operators.linear_operator import Step

__all__ = ["SparseOperator", "TorchSparseOperator"]

SQUARE_FLOPS_LARGE, SQUARE_FLOPS_STORED = 16, 8
"""As `SQUARE_FLOPS` for a large matrix, where time counts, by compiled code and SciPy's square."""

SQUARED_AT_ONCE = 2**24

ROW_BYTES = 128
"""Of a block: the neighbours of wider rows do not stay in the second cache, which costs more than
reading A less often saves (benchmarks/speed/steps.py)."""

VALUES_AT_ONCE = 2**18
"""Entries that a reduction looks at in one go."""


class SparseOperator(ExplicitOperator):
    """A SciPy or CuPy sparse matrix or array, of any format."""

    def __init__(self, a: Any, xp: Any, compute_dtype: Any = None) -> None:
        if a.ndim != 2:
            msg = f"A is a sparse array of shape {a.shape}; expected two dimensions."
            raise ValueError(msg)
        if xp.__name__.endswith("numpy") and a.format in {"csr", "csc", "bsr"}:
            a.check_format(full_check=True)  # an index out of range would read foreign memory
        dtype = working_dtype(xp, a.dtype, compute_dtype)
        csr = a.tocsr()
        if csr.dtype != dtype:
            csr = csr.astype(dtype)
        if not csr.has_canonical_format:
            csr = csr.copy()
            csr.sum_duplicates()
        self.array = csr
        super().__init__(
            tuple(csr.shape), dtype=csr.dtype, xp=xp, device=device(csr.data),
            result_dtype=result_dtype(xp, a.dtype),
        )  # fmt: skip
        self.hermitian = None
        if isinstance(csr.data, np.ndarray):
            self.widths = _widths(self.itemsize)

    def recurrence(self, columns: int) -> Step | None:
        """Return the compiled step, if there is one and the matrix is worth starting it."""
        a = self.array
        if is_cupy_array(a.data):
            on_cupy = kernel("gpu.csr_step", "of_cupy") if self.nnz >= LEAST_ENTRIES else None
            return None if on_cupy is None else on_cupy(a.indptr, a.indices, a.data, columns)
        step = self._kernel("cpu.csr_step", "csr_step")
        return None if step is None else partial(step, a.indptr, a.indices, a.data)

    def _matmat(self, x: Array) -> Array:
        return self.array @ x

    def _rmatmat(self, x: Array) -> Array:
        if not self.xp.isdtype(self.dtype, "complex floating"):
            return self.array.T @ x
        return self.xp.conj(self.array.T @ self.xp.conj(x))

    def values(self) -> Array:
        """Return the stored entries, shape (nnz,)."""
        return self.array.data

    def _portions(self) -> list[Array]:
        size = self.array.data.shape[0]
        return [self.array.data[i : i + VALUES_AT_ONCE] for i in range(0, size, VALUES_AT_ONCE)]

    def diagonal(self) -> Array:
        """Return the diagonal."""
        return self.array.diagonal()

    def _off_diagonal_squares(self) -> float:
        entries = self.array.tocoo()
        return sum_of_squares(self.xp, entries.data[entries.row != entries.col])

    def absolute_row_sums(self) -> Array:
        """Return the sums of moduli over rows."""
        fast = self._kernel("cpu.csr_statistics", "absolute_row_sums")
        if fast is not None:
            return fast(self.array.indptr, self.array.data)
        sums = abs(self.array).astype(self.xp.float64).sum(axis=1)
        return self.xp.reshape(self.xp.asarray(sums), (-1,))

    def _kernel(self, module: str, name: str) -> Any:
        """Return compiled code for a matrix on the host that is worth starting it, or None."""
        host = isinstance(self.array.data, np.ndarray)
        return kernel(module, name) if host and self.nnz >= LEAST_ENTRIES else None

    @cached_property
    def _distances(self) -> tuple[float, float] | None:
        """How far A is from its adjoint, absolutely and by rows, where compiled code tells."""
        fast, a = self._kernel("cpu.csr_statistics", "distances_from_adjoint"), self.array
        return None if fast is None else fast(a.indptr, a.indices, a.data)

    def asymmetry(self) -> float:
        """Return the largest deviation from the adjoint."""
        if self._distances is not None:
            return self._distances[0]
        difference = (self.array - self.array.conj().T).data
        return float(self.xp.max(self.xp.abs(difference))) if difference.size else 0.0

    @cached_property
    def _power_traces(self) -> tuple[float, ...]:
        """Return also tr A^3 and tr A^4 = ||A^2||_F^2 where A^2 costs no more than products."""
        first = super()._power_traces
        host = self.xp.__name__.endswith("numpy")
        flops = self._square_flops() / max(1, self.nnz) if host else math.inf
        if not first or flops > SQUARE_FLOPS:
            return first
        large = self.nnz >= LEAST_ENTRIES
        fast = self._kernel("cpu.csr_power_traces", "third_and_fourth")
        if large and flops > (SQUARE_FLOPS_STORED if fast is None else SQUARE_FLOPS_LARGE):
            return first
        if fast is not None:
            a = self.array
            return (*first, *fast(a.indptr, a.indices, a.data))
        third, fourth = 0.0, 0.0
        for rows in self._row_ranges():
            a = self.array[rows]
            wide = np.result_type(self.array.dtype, np.float64)
            square = (a @ self.array).astype(wide, copy=False)
            third += float(square.multiply(a.conj()).sum().real)
            fourth += sum_of_squares(self.xp, square.data)
        return (*first, third, fourth)

    def _square_flops(self) -> int:
        """Return the multiplications in A^2 of a matrix with a symmetric pattern."""
        return int(np.sum(np.diff(self.array.indptr).astype(np.int64) ** 2))

    def _row_ranges(self) -> list[slice]:
        count = math.ceil(self._square_flops() / SQUARED_AT_ONCE)
        edges = np.linspace(0, self.shape[0], count + 1).astype(int)
        return [slice(a, b) for a, b in itertools.pairwise(edges) if a < b]

    def equals_adjoint(self, tolerance: float) -> bool:
        """Whether no entry differs from its mirror by more than a share of both its rows."""
        if self._distances is not None:
            return self._distances[1] <= tolerance
        xp, difference = self.xp, (self.array - self.array.conj().T).tocoo()
        if not difference.data.any():
            return True
        largest = abs(self.array).max(axis=1).toarray().ravel()
        least = xp.minimum(largest[difference.row], largest[difference.col])
        return bool(xp.all(xp.abs(difference.data) <= tolerance * least))

    def dense(self) -> Array:
        """Return the matrix as a dense array."""
        return self._double(self.array.toarray())

    def csc_on_host(self) -> Any:
        """Return a SciPy CSC array in double precision, or None if the matrix lies on a GPU."""
        from scipy.sparse import csc_array

        if not on_cpu(self.array.data):
            return None
        complex_ = np.iscomplexobj(self.array.data)
        return csc_array(self.array, dtype=np.complex128 if complex_ else np.float64)


class TorchSparseOperator(ExplicitOperator):
    """A Torch sparse tensor (COO, CSR or any other layout), kept as COO."""

    def __init__(self, a: Any, compute_dtype: Any = None) -> None:
        xp = namespace(a)
        if a.ndim != 2:
            msg = f"A is a sparse tensor of shape {tuple(a.shape)}; expected two dimensions."
            raise ValueError(msg)
        if a.dense_dim():
            msg = "A is a hybrid tensor, with dense rows of a sparse one. Pass A.to_dense()."
            raise ValueError(msg)
        coo = a.detach().to_sparse_coo().coalesce()
        self.array = coo.to(working_dtype(xp, coo.dtype, compute_dtype))
        super().__init__(
            tuple(coo.shape), dtype=self.array.dtype, xp=xp, device=coo.device,
            result_dtype=result_dtype(xp, a.dtype),
        )  # fmt: skip
        self.hermitian = None
        self.source = source_of(a)
        if on_cpu(self.array):
            self.widths = _widths(self.itemsize)

    @cached_property
    def _csr(self) -> tuple[Any, Any, Any]:
        """Row pointers, columns and entries in CSR form; the entries are our own."""
        xp, rows = self.xp, self.array.indices()[0]
        index = xp.int32 if max(self.nnz, *self.shape) < 2**31 else xp.int64
        edges = xp.arange(self.shape[0] + 1, device=self.device)
        pointers = xp.searchsorted(rows, edges).to(index)
        return pointers, self.array.indices()[1].to(index), self.values().resolve_conj()

    def recurrence(self, columns: int) -> Step | None:
        """Return the compiled step, if there is one and the matrix is worth starting it."""
        if self.nnz < LEAST_ENTRIES:
            return None
        if on_cpu(self.array):
            step, a = kernel("cpu.csr_step", "csr_step"), self._host_csr
            return None if step is None else partial(step, a.indptr, a.indices, a.data)
        if self.array.device.type != "cuda":
            return None
        on_cuda = kernel("gpu.csr_step", "csr_recurrence")
        return None if on_cuda is None else on_cuda(*self._csr, columns)

    @cached_property
    def _host_csr(self) -> Any:
        """The same as a SciPy array, which shares the entries: its products are faster by far."""
        from scipy.sparse import csr_array

        pointers, columns, values = (part.numpy() for part in self._csr)
        return csr_array((values, columns, pointers), shape=self.shape)

    def _matmat(self, x: Array) -> Array:
        return self._product(x) if self._by_scipy(x) else self.array @ x

    def _rmatmat(self, x: Array) -> Array:
        if self._by_scipy(x):
            return self._product(x.conj(), transposed=True).conj_physical_()
        return self._adjoint @ x

    def _by_scipy(self, x: Array) -> bool:
        return on_cpu(self.array) and not x.requires_grad

    def _product(self, x: Array, *, transposed: bool = False) -> Array:
        import torch  # loaded already: x is a tensor

        a = self._host_csr
        return torch.from_numpy((a.T if transposed else a) @ x.numpy(force=True))

    @cached_property
    def _adjoint(self) -> Any:
        return self.array.transpose(0, 1).conj().coalesce()

    def values(self) -> Array:
        """Return the stored entries, shape (nnz,)."""
        return self.array.values()

    def _gather(self, index: Array, values: Array, size: int) -> Array:
        sums = self.xp.zeros(size, dtype=values.dtype, device=self.device)
        return sums.index_add_(0, index, values)

    def diagonal(self) -> Array:
        """Return the diagonal."""
        rows, columns = self.array.indices()
        on = rows == columns
        return self._gather(rows[on], self.values()[on], min(self.shape))

    def absolute_row_sums(self) -> Array:
        """Return the sums of moduli over rows."""
        sizes = self.values().abs().to(self.xp.float64)
        return self._gather(self.array.indices()[0], sizes, self.shape[0])

    def asymmetry(self) -> float:
        """Return the largest deviation from the adjoint."""
        difference = (self.array - self._adjoint).coalesce().values()
        return float(difference.abs().max()) if difference.numel() else 0.0

    def equals_adjoint(self, tolerance: float) -> bool:
        """Whether no entry differs from its mirror by more than a share of both its rows."""
        difference = (self.array - self._adjoint).coalesce()
        rows, columns = difference.indices()
        sizes = self.values().abs()
        largest = self.xp.zeros(self.shape[0], dtype=sizes.dtype, device=self.device)
        largest = largest.scatter_reduce_(0, self.array.indices()[0], sizes, "amax")
        least = self.xp.minimum(largest[rows], largest[columns])
        return bool((difference.values().abs() <= tolerance * least).all())

    def dense(self) -> Array:
        """Return the matrix as a dense tensor."""
        return self._double(self.array.to_dense())

    def csc_on_host(self) -> Any:
        """Return a SciPy CSC array in double precision, or None if the matrix lies on a GPU."""
        from scipy.sparse import coo_array

        if not on_cpu(self.array):
            return None
        indices = self.array.indices().numpy()
        return coo_array((to_host(self.values()), indices), shape=self.shape).tocsc()


def _widths(itemsize: int) -> tuple[int, ...]:
    return tuple(width for width in HOST_WIDTHS if width * itemsize <= ROW_BYTES)
