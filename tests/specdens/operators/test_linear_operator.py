"""Every kind of matrix, applied as an operator, equals itself as an array."""

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from specdens import Gram, Scaled, Shifted, Sum, aslinearoperator
from specdens.arrays.libraries import to_host
from specdens.operators.algebra import Adjoint, Counting

RNG = np.random.default_rng(0)
REAL = RNG.standard_normal((6, 4))
COMPLEX = REAL + 1j * RNG.standard_normal((6, 4))
SQUARE = RNG.standard_normal((5, 5))


def applied(op, x):
    return to_host(op.matmat(op.xp.asarray(x, dtype=op.dtype, device=op.device)))


def adjoint_applied(op, x):
    return to_host(op.rmatmat(op.xp.asarray(x, dtype=op.dtype, device=op.device)))


def agree(op, dense, tolerance=1e-12):
    rng = np.random.default_rng(1)
    x = rng.standard_normal((dense.shape[1], 3))
    y = rng.standard_normal((dense.shape[0], 3))
    assert np.allclose(applied(op, x), dense @ x, atol=tolerance)
    assert np.allclose(adjoint_applied(op, y), dense.conj().T @ y, atol=tolerance)


@pytest.mark.parametrize("matrix", [REAL, COMPLEX], ids=["real", "complex"])
def test_dense_arrays(backend, matrix):
    op = aslinearoperator(backend(matrix))
    agree(op, matrix)
    assert op.shape == matrix.shape


FORMATS = ["csr", "csc", "coo", "bsr", "dia", "dok", "lil"]


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("kind", [sp.coo_array, sp.coo_matrix], ids=["array", "matrix"])
@pytest.mark.parametrize("matrix", [SQUARE, SQUARE + 1j * SQUARE.T], ids=["real", "complex"])
def test_scipy_sparse(form, kind, matrix):
    op = aslinearoperator(kind(matrix).asformat(form))
    agree(op, matrix)
    assert np.allclose(to_host(op.diagonal()), matrix.diagonal())
    assert np.allclose(to_host(op.absolute_row_sums()), np.abs(matrix).sum(axis=1))
    assert op.asymmetry() == pytest.approx(np.abs(matrix - matrix.conj().T).max())
    assert np.allclose(to_host(op.dense()), matrix)


def test_duplicates_are_summed_and_the_callers_matrix_is_left_alone():
    matrix = sp.csr_array((np.array([1.0, 2.0, 4.0]), [0, 0, 1], [0, 2, 3]), shape=(2, 2))
    op = aslinearoperator(matrix)
    assert np.allclose(to_host(op.absolute_row_sums()), [3, 4])
    assert matrix.nnz == 3


def test_sparse_with_indices_out_of_range_is_refused():
    matrix = sp.csr_array((2, 2))
    matrix.data, matrix.indices = np.ones(1), np.array([7], dtype=np.int32)
    matrix.indptr = np.array([0, 1, 1], dtype=np.int32)
    with pytest.raises(ValueError, match="indices"):
        aslinearoperator(matrix)


@pytest.mark.filterwarnings("ignore:Sparse:UserWarning")
@pytest.mark.parametrize("layout", ["coo", "csr", "csc", "bsr"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128], ids=str)
def test_torch_sparse(layout, dtype):
    dense = torch.tensor(SQUARE[:4, :4]).to(dtype)
    dense = dense + 1j * dense.T if dtype.is_complex else dense
    tensor = dense.to_sparse_bsr((2, 2)) if layout == "bsr" else None
    tensor = getattr(dense, f"to_sparse_{layout}")() if tensor is None else tensor
    op = aslinearoperator(tensor)
    matrix = dense.numpy()
    agree(op, matrix)
    assert np.allclose(to_host(op.diagonal()), matrix.diagonal())
    assert np.allclose(to_host(op.absolute_row_sums()), np.abs(matrix).sum(axis=1))
    assert op.asymmetry() == pytest.approx(np.abs(matrix - matrix.conj().T).max())
    assert np.allclose(op.csc_on_host().toarray(), matrix)


def test_scipy_linear_operator_with_and_without_adjoint():
    full = sp.linalg.aslinearoperator(REAL)
    agree(aslinearoperator(full), REAL)
    bare = sp.linalg.LinearOperator(REAL.shape, matvec=lambda v: REAL @ v, dtype=float)
    op = aslinearoperator(bare)
    assert np.allclose(applied(op, np.eye(4)), REAL)
    assert op.rmatmat_or_none(np.ones((6, 1))) is None
    with pytest.raises(NotImplementedError):
        op.rmatmat(np.ones((6, 1)))


class OnlyMatmul:
    shape = SQUARE.shape

    def __matmul__(self, x):
        return SQUARE @ x


class OnlyMatvec:
    shape = SQUARE.shape
    dtype = np.dtype(float)

    def matvec(self, x):
        assert x.ndim == 1
        return list(SQUARE @ x)

    def rmatvec(self, x):
        return SQUARE.T @ x


def test_objects_that_can_only_multiply():
    assert np.allclose(applied(aslinearoperator(OnlyMatmul()), np.eye(5)), SQUARE)
    agree(aslinearoperator(OnlyMatvec()), SQUARE)


class OfTorch:
    """As operators of other Torch libraries look."""

    shape = torch.Size(SQUARE.shape)
    dtype = torch.float64
    device = torch.device("cpu")

    def __matmul__(self, x):
        return torch.tensor(SQUARE) @ x


def test_an_object_of_torch_gets_tensors():
    op = aslinearoperator(OfTorch())
    assert isinstance(op.matmat(torch.eye(5, dtype=torch.float64)), torch.Tensor)


def test_callables(backend):
    matrix = backend(SQUARE)
    op = aslinearoperator(
        lambda v: matrix @ v, n=5, rmatvec=lambda v: backend(SQUARE.T) @ v, like=matrix
    )
    agree(op, SQUARE)
    blocks = aslinearoperator(
        lambda v: matrix @ v,
        n=5,
        matmat=lambda x: matrix @ x,
        rmatmat=lambda x: backend(SQUARE.T) @ x,
        like=matrix,
    )
    agree(blocks, SQUARE)


def test_callable_of_a_stated_dtype():
    assert aslinearoperator(lambda v: v, n=2, dtype="complex64").dtype == np.complex64
    assert aslinearoperator(lambda v: v, n=2, dtype=float).dtype == np.float64
    assert aslinearoperator(lambda v: v, n=2, dtype=torch.float32).dtype == torch.float32
    assert aslinearoperator(lambda v: v, n=2, dtype=int).dtype == np.float64


class BecomesAnArray:
    """As a data frame: it has a shape, and NumPy can read it."""

    shape = SQUARE.shape

    def __array__(self, dtype=None, copy=None):
        return SQUARE


def test_lists_and_what_becomes_an_array():
    agree(aslinearoperator(SQUARE.tolist()), SQUARE)
    agree(aslinearoperator(BecomesAnArray()), SQUARE)


@pytest.mark.parametrize(
    ("a", "error", "text"),
    [
        (3.0, TypeError, "expected an array"),
        ("A", TypeError, "expected an array"),
        (np.ones(3), ValueError, "two dimensions"),
        (np.ones((2, 2, 2)), ValueError, "two dimensions"),
        (np.array([[object()]]), TypeError, "numbers"),
        (np.array([["a"]]), TypeError, "numbers"),
        (np.ma.masked_array(np.eye(2), mask=np.eye(2)), TypeError, "masked"),
        (lambda v: v, TypeError, "n="),
        (type("Shape", (), {"shape": (2, 2)})(), TypeError, "neither"),
    ],
    ids=["number", "str", "1-d", "3-d", "object", "text", "masked", "callable", "shape only"],
)
def test_what_is_no_matrix(a, error, text):
    with pytest.raises(error, match=text):
        aslinearoperator(a)


def test_products_of_a_wrong_shape_or_kind_are_noticed():
    wrong = aslinearoperator(lambda v: v[:2], n=3)
    with pytest.raises(ValueError, match="has shape"):
        wrong.matmat(np.ones((3, 1)))
    unreal = aslinearoperator(lambda v: 1j * v, n=3)
    with pytest.raises(ValueError, match="complex"):
        unreal.matmat(np.ones((3, 1)))


@pytest.mark.parametrize("center", ["none", "features", "samples"])
@pytest.mark.parametrize("matrix", [REAL, COMPLEX], ids=["real", "complex"])
def test_gram(backend, center, matrix):
    op = Gram(backend(matrix), shift=0.5, center=center)
    axis = {"none": None, "features": 0, "samples": 1}[center]
    x = matrix - matrix.mean(axis=axis, keepdims=True) if axis is not None else matrix
    agree(op, x.conj().T @ x + 0.5 * np.eye(4))
    assert op.hermitian
    assert op.lower == 0.5


def test_gram_of_a_sparse_matrix_and_of_an_operator():
    expected = REAL.T @ REAL
    agree(Gram(sp.csr_array(REAL)), expected)
    agree(Gram(sp.linalg.aslinearoperator(REAL)), expected)


def test_composites(backend):
    a, b = SQUARE, SQUARE.T @ SQUARE
    agree(Shifted(backend(a), 2.0), a + 2 * np.eye(5))
    agree(Shifted(backend(a), 2.0 - 1j), a + (2 - 1j) * np.eye(5))
    agree(Scaled(backend(a), -3.0), -3 * a)
    agree(Scaled(backend(a), 1j), 1j * a)
    agree(Sum(backend(a), backend(b), backend(a)), 2 * a + b)
    agree(Sum(backend(a), backend(1j * b)), a + 1j * b)
    agree(Adjoint(aslinearoperator(backend(a))), a.T)


def test_bounds_by_construction_go_through_composites():
    gram = Gram(REAL, shift=1.0)
    assert Shifted(gram, 2.0).lower == 3.0
    assert Scaled(gram, -2.0).upper == -2.0
    assert Sum(gram, gram).lower == 2.0
    assert Sum(gram, gram).hermitian
    assert Sum(gram, SQUARE[:4, :4]).hermitian is None
    assert Shifted(gram, 1j).hermitian is False


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: Gram(REAL, shift=-1.0), "at least 0"),
        (lambda: Gram(REAL, shift=np.nan), "finite"),
        (lambda: Gram(REAL, center="rows"), "expected one of"),
        (lambda: Shifted(REAL, 1.0), "square"),
        (lambda: Shifted(SQUARE, np.inf), "finite"),
        (lambda: Scaled(SQUARE, np.nan), "finite"),
        (lambda: Sum(REAL, SQUARE), "one shape"),
        (lambda: Sum(SQUARE, torch.tensor(SQUARE)), "library"),
        (lambda: Sum(), "one shape"),
    ],
    ids=range(9),
)
def test_bad_composites(make, text):
    with pytest.raises(ValueError, match=text):
        make()


def test_to_scipy_round_trip(backend):
    there = aslinearoperator(backend(COMPLEX)).to_scipy()
    x = np.random.default_rng(2).standard_normal((4, 2))
    assert np.allclose(there @ x, COMPLEX @ x)
    assert np.allclose(there.H @ np.ones(6), COMPLEX.conj().T @ np.ones(6))


def test_counting_counts_vectors_both_ways():
    op = Counting(aslinearoperator(REAL))
    op.matmat(np.ones((4, 3)))
    op.rmatmat(np.ones((6, 2)))
    assert op.count == 5
