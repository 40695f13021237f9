"""The compiled Gram matrices against NumPy: any shape, order and type, any number of threads."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from specdens import Gram
from specdens.operators import gram as gram_operator

numba = pytest.importorskip("numba")
gram = pytest.importorskip("specdens.kernels.cpu.gram_logdet")
dense = pytest.importorskip("specdens.kernels.cpu.gram_product")

DTYPES = ["float32", "float64"]
ANY = 1e300
"""A limit that no trace of these tests reaches."""


def matrices(count, d, k, seed, dtype, order):
    """Return a stack of d x k matrices with a large common mean, rows or columns contiguous."""
    rng = np.random.default_rng(seed)
    e = rng.standard_normal((count, d, k)) + 100 * rng.standard_normal((count, 1, 1))
    e = e.astype(dtype)
    return e if order == "C" else np.ascontiguousarray(e.swapaxes(1, 2)).swapaxes(1, 2)


def logdets(e, center, factor, alpha):
    """By definition, in double precision."""
    c = e.astype(float)
    c = c - c.mean(axis=1, keepdims=True) if center else c
    return np.linalg.slogdet(factor * c.swapaxes(1, 2) @ c + alpha * np.eye(e.shape[2]))[1]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("order", ["C", "F"])
@given(
    count=st.sampled_from([0, 1, 5]),
    d=st.integers(1, 300),
    k=st.integers(1, 33),
    center=st.booleans(),
    seed=st.integers(0, 999),
)
@settings(max_examples=20, deadline=None)
def test_log_determinants(dtype, order, count, d, k, center, seed):
    e = matrices(count, d, k, seed, dtype, order)
    before = e.copy()
    found = gram.gram_logdets(e, center, 0.5, 1.0, ANY)
    # Both round the Gram matrix: relative to alpha = 1 that is its trace.
    trace = 1 if center else 1 + float(np.abs(e).max(initial=0)) ** 2
    np.testing.assert_allclose(
        found, logdets(e, center, 0.5, 1.0), rtol=0, atol=1e-14 * d * k**2 * trace
    )
    assert np.array_equal(e, before)


@pytest.mark.parametrize("order", ["C", "F"])
def test_a_matrix_that_is_no_block_of_memory(order):
    e = matrices(6, 50, 9, 0, "float32", order)[::2, 3:40, 1:8]
    np.testing.assert_allclose(
        gram.gram_logdets(e, True, 1.0, 1e-3, ANY), logdets(e, True, 1.0, 1e-3), rtol=1e-10
    )


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e160, 1e200])
def test_what_cannot_be_trusted_is_nan(order, bad):
    e = matrices(4, 30, 5, 0, "float64", order)
    e[1, 7, 2] = bad
    e[2] = bad  # centred it is zero
    assert np.isnan(gram.gram_logdets(e, True, 1.0, 1e-3, ANY)).tolist() == [0, 1, 1, 0]
    centred = e[0] - e[0].mean(axis=0)
    trace = np.sum(centred**2)
    for limit, doubtful in ((1.01 * trace, False), (0.99 * trace, True)):
        assert np.isnan(gram.gram_logdets(e[:1], True, 1.0, 1e-3, limit))[0] == doubtful


def on_threads(run):
    """Return what a function gives on one thread and on all."""
    most = numba.config.NUMBA_NUM_THREADS
    try:
        found = []
        for threads in (1, most):
            numba.set_num_threads(threads)
            found.append(run())
    finally:
        numba.set_num_threads(most)
    return found


def test_the_bits_do_not_depend_on_threads():
    rng = np.random.default_rng(0)
    stack = rng.standard_normal((7, 500, 10))
    e, x = rng.standard_normal((1001, 37)), rng.standard_normal((37, 20))
    for run in (
        lambda: gram.gram_logdets(stack, True, 1.0, 1e-3, ANY),
        lambda: dense.gram_product(e, e[0], x),
        lambda: dense.column_statistics(e, True)[0],
        lambda: dense.column_statistics(e, True)[1],
    ):
        one, many = on_threads(run)
        assert np.array_equal(one, many)


@pytest.mark.parametrize(
    ("dtype", "widths"), [("float32", [1, 20, 32, 70]), ("float64", [1, 20, 24, 33])]
)
@given(d=st.integers(1, 200), k=st.integers(1, 70), seed=st.integers(0, 999), data=st.data())
@settings(max_examples=15, deadline=None)
def test_gram_products(dtype, widths, d, k, seed, data):
    rng, columns = np.random.default_rng(seed), data.draw(st.sampled_from(widths))
    e = matrices(1, d, k, seed, dtype, "C")[0]
    x = rng.standard_normal((k, columns)).astype(dtype)
    x = np.asfortranarray(x) if seed % 2 else x
    means, squares = dense.column_statistics(e, True)
    c = e.astype(float) - e.astype(float).mean(axis=0)
    np.testing.assert_allclose(means, e.astype(float).mean(axis=0), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(squares, np.sum(c**2), rtol=1e-9, atol=1e-20)
    found = dense.gram_product(e, means.astype(dtype), x)
    size = np.abs(c).T @ (np.abs(c) @ np.abs(x)) + d * k * 1e-8
    unit = np.finfo(dtype).eps
    # The means are rounded to the type: of entries near 100 that is far below their scatter.
    assert found.dtype == dtype
    assert np.all(np.abs(found - c.T @ (c @ x)) <= 100 * np.sqrt(d + k) * unit * (size + d * k))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("center", ["none", "features"])
def test_the_operator_is_the_same(monkeypatch, dtype, center):
    monkeypatch.setattr(gram_operator, "LEAST_ENTRIES", 0)
    monkeypatch.delenv("SPECDENS_KERNELS", raising=False)
    e = matrices(1, 90, 20, 0, dtype, "C")[0]
    x = np.random.default_rng(0).standard_normal((20, 4)).astype(dtype)
    compiled = Gram(e, shift=0.5, center=center)
    assert compiled.is_compiled
    c = e.astype(float)
    c = c - c.mean(axis=0) if center == "features" else c
    expected = c.T @ (c @ x.astype(float)) + 0.5 * x
    tolerance = 100 * np.finfo(dtype).eps
    assert np.abs(compiled.matmat(x) - expected).max() <= tolerance * np.abs(expected).max()
    assert compiled.power_traces() == pytest.approx([np.sum(c**2) + 10], rel=1e-6)
    monkeypatch.setenv("SPECDENS_KERNELS", "off")
    assert not Gram(e, center=center).is_compiled


def test_only_what_compiled_code_can_read_is_given_to_it(monkeypatch):
    monkeypatch.setattr(gram_operator, "LEAST_ENTRIES", 0)
    e = np.ones((30, 20))
    for other in (e.astype(complex), np.asfortranarray(e), e.astype("float16")):
        gram_of_other = Gram(other)
        assert np.allclose(gram_of_other @ np.ones(20), 600)
    assert not Gram(e, center="samples").is_compiled
    assert not Gram(e.astype(complex)).is_compiled
