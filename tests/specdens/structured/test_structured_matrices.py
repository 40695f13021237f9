"""Matrices made of smaller ones: as arrays, by exact rules, and with estimated parts."""

import math
import warnings

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from hypothesis import given
from hypothesis import strategies as st

from specdens import (
    AccuracyWarning,
    BlockDiagonal,
    DiagonalPlusLowRank,
    Gram,
    Kronecker,
    Permuted,
    Scaled,
    Shifted,
    Sum,
    aslinearoperator,
    density,
    eigencount,
    logdet,
    logpdet,
    slogdet,
    trace,
    trace_function,
)
from specdens.arrays.libraries import device, namespace, to_host
from specdens.arrays.probes import key_of_part, signs
from specdens.structured.gram_nullspace import without_zeros
from specdens.testing import with_spectrum

RNG = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def the_same_numbers_in_any_order(monkeypatch):
    monkeypatch.setitem(globals(), "RNG", np.random.default_rng(0))


SEEDS = st.integers(0, 10_000)
ORDERS = st.integers(1, 5)
dtypes = pytest.mark.parametrize("dtype", ["float64", "complex128"])


def square(n, seed=0, dtype="float64", *, definite=False):
    rng = np.random.default_rng(seed)
    a = rng.standard_normal((n, n))
    a = a + 1j * rng.standard_normal((n, n)) if "complex" in dtype else a
    return a @ a.conj().T + np.eye(n) if definite else a


def foreign(a):
    """Return an operator of which nothing but the products is known."""
    return aslinearoperator(
        lambda v: a @ v, n=len(a), rmatvec=lambda v: a.conj().T @ v, dtype=a.dtype
    )


def structures(dtype, *, definite=False, seed=0, on=np.asarray):
    """Return every structure with the array that it stands for."""
    a, b = (square(n, seed + n, dtype, definite=definite) for n in (3, 4))
    order, other = np.random.default_rng(seed).permutation([0, 2, 1, 3]), np.array([3, 0, 1, 2])
    d = np.random.default_rng(seed).uniform(0.5, 2, 6)
    u, v = square(6, seed, dtype)[:, :2], square(6, seed + 1, dtype)[:, :2]
    blocks = np.zeros((7, 7), dtype=dtype)
    blocks[:3, :3], blocks[3:, 3:] = a, b
    c = square(2, seed + 2, dtype)
    found = {
        "kronecker": (Kronecker(on(a), on(b)), np.kron(a, b)),
        "blocks": (BlockDiagonal(on(a), on(b)), blocks),
        "similar": (Permuted(on(b), order), b[order][:, order]),
        "update": (DiagonalPlusLowRank(on(d), on(u)), np.diag(d) + u @ u.conj().T),
        "level": (DiagonalPlusLowRank(on(0 * d + 2), on(u)), 2 * np.eye(6) + u @ u.conj().T),
        "shifted": (Shifted(Kronecker(on(a), on(a)), 0.5), np.kron(a, a) + 0.5 * np.eye(9)),
        "scaled": (Scaled(BlockDiagonal(on(a), on(b)), 2.5), 2.5 * blocks),
    }
    if definite:
        return found
    return found | {
        "permuted": (Permuted(on(b), order, other), b[order][:, other]),
        "one-sided": (
            DiagonalPlusLowRank(on(d), on(u), on(v), C=on(c)),
            np.diag(d) + u @ c @ v.conj().T,
        ),
        "three": (Kronecker(on(a), on(c), on(a)), np.kron(np.kron(a, c), a)),
        "nested": (Scaled(Permuted(BlockDiagonal(on(b)), order, other), -3.0),
                   -3 * b[order][:, other]),
    }  # fmt: skip


NAMES = list(structures("float64"))
DEFINITE = list(structures("float64", definite=True))


def relation(op, dense):
    """Check the products against an array, and the bounds against its eigenvalues."""
    rng = np.random.default_rng(1)
    home = {"dtype": op.dtype, "device": op.device}
    x, y = rng.standard_normal((dense.shape[1], 3)), rng.standard_normal((dense.shape[0], 3))
    assert np.allclose(to_host(op.matmat(op.xp.asarray(x, **home))), dense @ x, atol=1e-5)
    assert np.allclose(to_host(op.rmatmat(op.xp.asarray(y, **home))), dense.conj().T @ y, atol=1e-5)
    if op.hermitian:
        spectrum = np.linalg.eigvalsh(dense)
        assert op.lower <= spectrum[0] + 1e-9
        assert spectrum[-1] - 1e-9 <= op.upper


@dtypes
@pytest.mark.parametrize("name", NAMES)
def test_products_are_those_of_the_array(backend, dtype, name):
    op, dense = structures(dtype, on=backend)[name]
    relation(op, dense)
    assert op.shape == dense.shape


@dtypes
@pytest.mark.parametrize("name", DEFINITE)
def test_symmetry_and_bounds_follow_from_the_parts(dtype, name):
    op, dense = structures(dtype, definite=True)[name]
    assert op.hermitian or aslinearoperator(op.base).hermitian
    relation(op, dense)


def test_rectangular_factors_and_mixed_precision():
    a, b = RNG.standard_normal((2, 3)), RNG.standard_normal((5, 4)).astype(np.float32)
    op = Kronecker(a, b * 1j, np.ones((1, 2)))
    relation(op, np.kron(np.kron(a, 1j * b), np.ones((1, 2))))
    assert op.dtype == np.complex128


def test_sparse_and_foreign_parts():
    a = square(4, definite=True)
    relation(Kronecker(sp.csr_array(a), foreign(a)), np.kron(a, a))
    relation(BlockDiagonal(sp.csr_array(a), bare := foreign(a)).blocks[1], a)
    relation(Permuted(bare, [3, 1, 2, 0]), a[[3, 1, 2, 0]][:, [3, 1, 2, 0]])


@dtypes
@pytest.mark.parametrize("name", NAMES)
def test_determinants(backend, dtype, name):
    op, dense = structures(dtype, on=backend)[name]
    (sign, value), info = slogdet(op, method="exact", return_info=True)
    expected = np.linalg.slogdet(dense)
    assert to_host(sign).item() == pytest.approx(expected[0])
    assert float(value) == pytest.approx(expected[1], abs=1e-10)
    assert info.method == "exact"
    assert namespace(value) is backend.xp
    assert str(device(value)) == str(backend.device)


@pytest.mark.parametrize("shift", [0.0, 0.7, -0.3 + 0.4j])
@pytest.mark.parametrize("name", NAMES)
@given(seed=SEEDS)
def test_determinants_of_shifted_structures(name, shift, seed):
    op, dense = structures("float64", seed=seed)[name]
    shifted = dense + shift * np.eye(len(dense))
    sign, value = slogdet(op, shift=shift, method="exact")
    expected = np.linalg.slogdet(shifted)
    rounding = 1e-9 * max(1.0, np.linalg.cond(shifted) * 1e-3)
    assert abs(sign - expected[0]) <= rounding
    assert value == pytest.approx(expected[1], abs=rounding)


@pytest.mark.parametrize("function", ["exp", "inv", "log", "sqrt", np.cos], ids=str)
@pytest.mark.parametrize("name", DEFINITE)
def test_trace_functions(name, function):
    op, dense = structures("complex128", definite=True)[name]
    value, info = trace_function(op, function, return_info=True)
    named = {"exp": np.exp, "inv": lambda x: 1 / x, "log": np.log, "sqrt": np.sqrt}
    expected = named.get(function, function)(np.linalg.eigvalsh(dense)).sum()
    assert value == pytest.approx(expected, rel=1e-10)
    assert info.method == "exact" or name == "update"


@pytest.mark.parametrize("name", DEFINITE)
def test_eigenvalues_are_counted_and_spread_as_those_of_the_array(name):
    op, dense = structures("float64", definite=True)[name]
    spectrum = np.linalg.eigvalsh(dense)
    low, high = np.sort(RNG.uniform(spectrum[0], spectrum[-1], 2))
    inside = np.sum((spectrum >= low) & (spectrum <= high))
    assert eigencount(op, low, high, method="exact") == inside
    rho = density(op, method="exact", moments=8)
    for power in (1, 3):
        mean = np.mean(spectrum**power)
        assert rho.integrate(lambda x, p=power: x**p) == pytest.approx(mean, rel=0.2 * power)


@dtypes
@pytest.mark.parametrize("name", NAMES)
def test_traces(backend, dtype, name):
    op, dense = structures(dtype, on=backend)[name]
    value = trace(op, method="exact")
    assert to_host(value).item() == pytest.approx(np.trace(dense))
    twice = to_host(trace(Sum(op, op), method="exact")).item()
    assert twice == pytest.approx(2 * np.trace(dense))


def test_traces_without_a_product():
    op = Sum(Kronecker(np.eye(3), np.ones((4, 4))), Shifted(Scaled(np.ones((12, 12)), 2.0), 1.0))
    value, info = trace(op, return_info=True)
    assert value == pytest.approx(12 + 24 + 12)
    assert (info.matvecs, info.stderr, info.method) == (0, 0.0, "exact")


@given(n=ORDERS, m=ORDERS, seed=SEEDS)
def test_kronecker_identity(n, m, seed):
    a, b = square(n, seed), square(m, seed + 1)
    expected = m * logdet(a) + n * logdet(b)
    assert logdet(Kronecker(a, b)) == pytest.approx(expected, abs=1e-9)
    assert trace(Kronecker(a, b)) == pytest.approx(np.trace(a) * np.trace(b), abs=1e-9)


@given(sizes=st.lists(ORDERS, min_size=1, max_size=4), seed=SEEDS)
def test_blocks_add(sizes, seed):
    blocks = [square(n, seed + i, definite=True) for i, n in enumerate(sizes)]
    assert trace_function(BlockDiagonal(*blocks), "sqrt") == pytest.approx(
        sum(trace_function(block, "sqrt") for block in blocks)
    )


@given(order=st.permutations(range(6)), other=st.permutations(range(6)))
def test_the_sign_of_a_permutation(order, other):
    sign, value = slogdet(Permuted(np.eye(6), order, other))
    assert sign == pytest.approx(np.linalg.det(np.eye(6)[order][:, other]))
    assert value == 0


@given(n=st.integers(1, 8), k=st.integers(0, 5), zeros=st.integers(0, 6), seed=SEEDS)
def test_the_determinant_lemma_also_where_the_diagonal_has_zeros(n, k, zeros, seed):
    rng = np.random.default_rng(seed)
    d = rng.standard_normal(n)
    d[:zeros] = 0
    u, v = rng.standard_normal((2, n, k))
    sign, value = slogdet(DiagonalPlusLowRank(d, u, v))
    expected = np.linalg.slogdet(np.diag(d) + u @ v.T)
    if min(zeros, n) > k:
        assert (sign, value) == (0, -math.inf)
    elif np.linalg.cond(np.diag(d) + u @ v.T) < 1e8:
        assert sign == expected[0]
        assert value == pytest.approx(expected[1], abs=1e-7)


def test_a_complex_diagonal():
    d, u = np.array([1j, 2.0, -1 + 1j]), square(3, 5, "complex128")[:, :1]
    op = DiagonalPlusLowRank(d, u)
    assert op.hermitian is None
    sign, value = slogdet(op)
    expected = np.linalg.slogdet(np.diag(d) + u @ u.conj().T)
    assert (sign, value) == (pytest.approx(expected[0]), pytest.approx(expected[1]))


CENTERS = ["none", "features", "samples"]
SHAPES = [(5, 3), (3, 5), (4, 4), (4, 5), (5, 4), (1, 3), (3, 1), (1, 1)]


@dtypes
@pytest.mark.parametrize("center", CENTERS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_zeros_of_a_gram_matrix_are_split_off(backend, dtype, center, shape):
    x = RNG.standard_normal(shape).astype(dtype)
    gram = Gram(backend(x * (1 + 1j) if "complex" in dtype else x), shift=0.25, center=center)
    rest, zeros = without_zeros(gram)
    relation(rest.factor, to_host(rest.factor.columns()))
    found = np.linalg.eigvalsh(to_host(rest.columns())) if rest.shape[0] else []
    found = np.sort([*found, *[0.25] * zeros])
    assert np.allclose(found, np.linalg.eigvalsh(to_host(gram.columns())))
    assert rest.shape[0] == np.linalg.matrix_rank(to_host(gram.columns()) - 0.25 * np.eye(shape[1]))


@pytest.mark.parametrize("center", CENTERS)
def test_zeros_of_a_gram_matrix_are_never_sampled(method, center):
    gram = Gram(RNG.standard_normal((6, 200)), shift=1e-3, center=center)
    dense = gram.columns()
    value, info = logdet(gram, method=method, moments=40, bounds=None, return_info=True)
    assert value == pytest.approx(np.linalg.slogdet(dense)[1], abs=max(1e-8, info.bias_bound))
    assert info.stderr == 0
    assert trace_function(gram, "exp", shift=-100.0, moments=40) == pytest.approx(
        np.exp(np.linalg.eigvalsh(dense) - 100).sum(), rel=1e-6
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AccuracyWarning)
        assert eigencount(gram, 0, 1e-2, method=method) == pytest.approx(
            np.sum(np.linalg.eigvalsh(dense) <= 1e-2), abs=0.1
        )
    rho = density(gram, method=method, moments=64)
    assert rho.integrate(lambda x: x) == pytest.approx(np.trace(dense) / 200)


def test_density_of_a_gram_matrix_whose_bounds_were_wrong():
    gram = Gram(RNG.standard_normal((6, 60)), shift=0.5)
    with pytest.warns(AccuracyWarning, match="bounds"):
        rho = density(gram, bounds=(10.0, 20.0), moments=32)
    assert rho.integrate(lambda x: x) == pytest.approx(np.trace(gram.columns()) / 60)


def test_a_gram_matrix_without_shift_is_singular():
    sign, value = slogdet(Gram(np.ones((2, 5))))
    assert (sign, value) == (0, -math.inf)
    with pytest.raises(ValueError, match="not defined"):
        trace_function(Gram(np.ones((2, 5))), "log", shift=-1.0)


def test_errors_of_parts_add():
    """Of the same parts with the same keys: values add, variances add, products add."""
    a, b = (with_spectrum(np.linspace(1, 3, n), rng=n) for n in (60, 80))
    op = BlockDiagonal(foreign(a), foreign(b), np.eye(2))
    value, info = logdet(op, method="lanczos", rng=5, return_info=True)
    parts = [
        logdet(foreign(x), method="lanczos", rng=key_of_part(5, i), return_info=True)[1]
        for i, x in enumerate((a, b))
    ]
    assert value == pytest.approx(sum(p.value for p in parts), abs=1e-12)
    assert info.stderr == pytest.approx(math.hypot(*(p.stderr for p in parts)))
    assert info.bias_bound == pytest.approx(sum(p.bias_bound for p in parts), rel=1e-3)
    # Two products tell that the whole is Hermitian, and so its parts; two are those of I.
    assert info.matvecs == 2 + sum(p.matvecs - 2 for p in parts) + 2
    assert (info.samples, info.method, info.seed) == (20, "lanczos", 5)
    assert logdet(op, method="lanczos", rng=info.seed) == value


def test_weights_multiply_the_errors_of_factors():
    a = with_spectrum(np.linspace(1, 3, 60), rng=1)
    value, info = logdet(Kronecker(foreign(a), np.eye(7)), rng=5, return_info=True)
    part = logdet(foreign(a), rng=key_of_part(5, 0), return_info=True)[1]
    assert value == pytest.approx(7 * part.value)
    assert info.stderr == pytest.approx(7 * part.stderr)
    value, info = trace(Kronecker(foreign(a), 2 * np.eye(7)), rng=5, return_info=True)
    assert info.stderr == pytest.approx(14 * trace(foreign(a), rng=key_of_part(5, 0),
                                                   return_info=True)[1].stderr)  # fmt: skip
    assert abs(value - 14 * np.trace(a)) <= 6 * info.stderr


def test_a_sole_part_has_the_probes_of_the_whole():
    a = with_spectrum(np.linspace(1, 3, 60), rng=1)
    plain = logdet(foreign(a), rng=3)
    assert logdet(Scaled(foreign(a), 2.0), rng=3) == pytest.approx(plain + 60 * math.log(2))
    assert logdet(Permuted(foreign(a), np.arange(60)), rng=3) == pytest.approx(plain)


def test_the_parts_of_a_definite_kronecker_product():
    x = RNG.standard_normal((80, 50))
    op = Kronecker(Gram(x, shift=0.5), np.diag([1.0, 2.0]))
    value, info = trace_function(op, "log", rng=0, moments=40, return_info=True)
    exact = np.linalg.slogdet(op.columns())[1]
    assert abs(value - exact) <= info.bias_bound + 6 * info.stderr + 1e-9
    assert info.matvecs == 400


def test_keys_of_parts_differ():
    keys = {key_of_part(key, i) for key in (0, 1, 2**63) for i in range(50)} | {0, 1, 2**63}
    assert len(keys) == 153
    assert all(0 <= key < 2**64 for key in keys)
    options = {"xp": namespace(np.ones(1)), "dtype": np.float64}
    one, other = (signs(4096, range(1), key_of_part(7, i), **options) for i in (0, 1))
    assert abs(float(one[:, 0] @ other[:, 0])) < 6 * 64


def test_given_probes_are_those_of_the_whole():
    op = BlockDiagonal(square(3, definite=True), square(4, definite=True))
    found = logdet(op, probes=np.eye(7), moments=14, method="lanczos")
    assert found == pytest.approx(logdet(op), abs=1e-8)


def test_single_precision_stays():
    a = square(3, definite=True).astype(np.float32)
    assert logdet(Kronecker(a, a)).dtype == np.float32
    assert logdet(BlockDiagonal(a, a)).dtype == np.float32
    assert logdet(DiagonalPlusLowRank(a[0] ** 2 + 1, a)).dtype == np.float32


def test_empty_and_single():
    assert logdet(Kronecker(np.ones((0, 0)), np.eye(2))) == 0
    assert logdet(BlockDiagonal(np.ones((0, 0)), 2 * np.eye(1))) == pytest.approx(math.log(2))
    assert trace_function(BlockDiagonal(np.ones((0, 0))), "exp") == 0
    assert logdet(Permuted(np.ones((0, 0)), [])) == 0
    assert logdet(DiagonalPlusLowRank(np.ones(0), np.ones((0, 3)))) == 0
    assert logdet(DiagonalPlusLowRank(np.full(2, 2.0), np.ones((2, 0)))) == pytest.approx(
        2 * math.log(2)
    )
    assert logdet(Scaled(Kronecker(np.eye(2)), 0.0)) == -math.inf
    assert logdet(Scaled(Kronecker(np.eye(2)), 0.0), shift=3.0) == pytest.approx(2 * math.log(3))
    assert slogdet(Kronecker(np.ones((2, 3)), np.ones((3, 2)))) == (0, -math.inf)


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (lambda: Kronecker(), ValueError, "one at least"),
        (lambda: BlockDiagonal(), ValueError, "one at least"),
        (lambda: Kronecker(np.eye(2), torch.eye(2)), ValueError, "library"),
        (lambda: BlockDiagonal(np.eye(2), np.ones((2, 3))), ValueError, "square"),
        (lambda: BlockDiagonal(np.eye(2), np.full((2, 2), np.nan)), ValueError, "NaN"),
        (lambda: Permuted(np.ones((2, 3)), [0, 1]), ValueError, "square"),
        (lambda: Permuted(np.eye(3), [0, 1, 1]), ValueError, "no permutation"),
        (lambda: Permuted(np.eye(3), [0, 1]), ValueError, "no permutation"),
        (lambda: Permuted(np.eye(2), [0, 1], [0.5, 1]), ValueError, "no permutation"),
        (lambda: DiagonalPlusLowRank(np.ones(3), np.ones((2, 1))), ValueError, "shapes"),
        (lambda: DiagonalPlusLowRank(np.ones(3), np.ones(3)), ValueError, "shapes"),
        (lambda: DiagonalPlusLowRank(np.ones(2), np.eye(2), C=np.eye(3)), ValueError, "shapes"),
        (lambda: DiagonalPlusLowRank(np.ones(1), np.array([[np.inf]])), ValueError, "U contains"),
        (lambda: DiagonalPlusLowRank(np.ones(2), torch.ones(2, 1)), ValueError, "library"),
    ],
    ids=range(14),
)  # fmt: skip
def test_what_is_no_structure(make, error, text):
    with pytest.raises(error, match=text):
        make()


@dtypes
def test_pseudo_determinants(backend, dtype):
    a, b = square(4, 1, dtype)[:, :3], square(5, 2, dtype)[:2]
    low = a @ a.conj().T  # of rank 3
    for op, dense in (
        (Kronecker(backend(low), backend(b)), np.kron(low, b)),
        (Kronecker(backend(a), backend(b)), np.kron(a, b)),
        (Scaled(BlockDiagonal(backend(low), backend(low)), -2.0), np.kron(np.eye(2), -2 * low)),
        (Permuted(backend(low), [1, 0, 2, 3], [0, 3, 1, 2]), low),
    ):
        value, info = logpdet(op, return_info=True)
        expected = logpdet(dense, return_info=True)
        assert float(value) == pytest.approx(expected[0], abs=1e-9)
        assert (info.rank, info.method, info.matvecs) == (expected[1].rank, "exact", 0)
