"""The recurrences against textbook ones; breakdown; what contradicts a claim."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from specdens import Gram, aslinearoperator
from specdens.recurrences.lanczos import NotHermitianError, bidiagonalize, tridiagonalize
from specdens.recurrences.quadrature import gauss
from specdens.testing import rotated, with_spectrum
from tests.specdens import naive

RNG = np.random.default_rng(3)


def symmetric(n, dtype=float):
    return with_spectrum(np.linspace(-1, 3, n), rng=n, dtype=dtype)


@pytest.mark.parametrize("dtype", [float, complex], ids=["real", "complex"])
def test_tridiagonal_is_the_textbook_one(backend, dtype):
    a = symmetric(12, dtype)
    start = RNG.standard_normal((12, 3)).astype(dtype)
    found = tridiagonalize(aslinearoperator(backend(a)), backend(start), 6)
    for r, factor in enumerate(found):
        t = naive.lanczos(a, start[:, r], 7)
        assert np.allclose(factor.diagonal, np.diag(t)[:6].real, atol=1e-12)
        assert np.allclose(factor.off_diagonal, np.abs(np.diag(t, 1)[:5]), atol=1e-12)
        assert factor.residual == pytest.approx(abs(t[5, 6]))


def test_without_reorthogonalisation_the_first_steps_are_the_same():
    eigenvalues = np.linspace(0.5, 2, 600)
    op = rotated(eigenvalues)
    start = RNG.standard_normal((600, 2))
    found = tridiagonalize(op, start, 8)
    dense = op.columns()
    for r, factor in enumerate(found):
        t = naive.lanczos(dense, start[:, r], 8)
        assert np.allclose(factor.diagonal, np.diag(t), atol=1e-9)


@given(n=st.integers(1, 30), distinct=st.integers(1, 5), seed=st.integers(0, 99))
def test_a_few_distinct_eigenvalues_are_found_exactly(n, distinct, seed):
    values = np.arange(1.0, distinct + 1)[np.arange(n) % distinct]
    a = with_spectrum(values, rng=seed)
    start = np.random.default_rng(seed).standard_normal((n, 2))
    for r, factor in enumerate(tridiagonalize(aslinearoperator(a), start, n)):
        rule = gauss(factor)
        found = rule.integrate(np.sqrt(rule.nodes))
        assert found == pytest.approx(naive.quadratic_form(a, start[:, r], np.sqrt), rel=1e-10)


@pytest.mark.parametrize("n", [1, 2, 7])
def test_a_multiple_of_the_identity_ends_at_once(backend, n):
    (factor,) = tridiagonalize(
        aslinearoperator(backend(3.0 * np.eye(n))), backend(np.ones((n, 1))), n
    )
    assert factor.diagonal == pytest.approx([3.0], rel=1e-15)
    assert factor.residual == 0


def test_columns_that_end_early_do_not_disturb_the_others():
    a = symmetric(9)
    _, vectors = np.linalg.eigh(a)
    start = np.stack([vectors[:, 5], RNG.standard_normal(9)], axis=1)
    ended, full = tridiagonalize(aslinearoperator(a), start, 9)
    alone = tridiagonalize(aslinearoperator(a), start[:, 1:], 9)[0]
    assert len(ended.diagonal) == 1
    assert np.allclose(full.diagonal, alone.diagonal, atol=1e-10)


@pytest.mark.parametrize("scale", [1e-250, 1e-30, 1e30, 1e250])
def test_scale_does_not_matter(scale):
    a, start = symmetric(10), RNG.standard_normal((10, 1))
    one = tridiagonalize(aslinearoperator(a), start, 5)[0]
    other = tridiagonalize(aslinearoperator(a * scale), start, 5)[0]
    assert np.allclose(other.diagonal / scale, one.diagonal)
    assert other.residual / scale == pytest.approx(one.residual)
    b = RNG.standard_normal((10, 10))
    one = bidiagonalize(aslinearoperator(b), start, 5)[0]
    other = bidiagonalize(aslinearoperator(b * scale), start, 5)[0]
    assert np.allclose(other.diagonal / scale, one.diagonal)


def test_leading_is_what_fewer_steps_give():
    a, start = symmetric(10), RNG.standard_normal((10, 1))
    op = aslinearoperator(a)
    many, few = tridiagonalize(op, start, 7)[0].leading(4), tridiagonalize(op, start, 4)[0]
    assert np.allclose(many.diagonal, few.diagonal)
    assert many.residual == pytest.approx(few.residual)
    many, few = bidiagonalize(op, start, 7)[0].leading(4), bidiagonalize(op, start, 4)[0]
    assert np.allclose(many.diagonal, few.diagonal)
    assert many.residual == pytest.approx(few.residual)


@pytest.mark.parametrize("dtype", [float, complex], ids=["real", "complex"])
@pytest.mark.parametrize("shape", [(11, 11), (15, 11)], ids=["square", "tall"])
def test_bidiagonal_has_the_singular_values(backend, shape, dtype):
    a = RNG.standard_normal(shape).astype(dtype)
    a = a + 1j * RNG.standard_normal(shape) if dtype is complex else a
    start = RNG.standard_normal((11, 2)).astype(dtype)
    for factor in bidiagonalize(aslinearoperator(backend(a)), backend(start), 11):
        b = np.diag(factor.diagonal) + np.diag(factor.super_diagonal, 1)
        assert np.allclose(
            np.linalg.svd(b, compute_uv=False), np.linalg.svd(a, compute_uv=False), atol=1e-10
        )


def test_bidiagonal_squares_to_the_tridiagonal_of_the_gram():
    a = RNG.standard_normal((20, 12))
    start = RNG.standard_normal((12, 1))
    b = bidiagonalize(aslinearoperator(a), start, 5)[0]
    t = tridiagonalize(Gram(a), start, 5)[0]
    dense = np.diag(b.diagonal) + np.diag(b.super_diagonal, 1)
    assert np.allclose(np.diag(dense.T @ dense), t.diagonal)
    assert b.diagonal[-1] * b.residual == pytest.approx(t.residual)


def test_bidiagonal_of_a_singular_matrix_ends_with_zero():
    a = RNG.standard_normal((8, 3)) @ RNG.standard_normal((3, 8))
    for factor in bidiagonalize(aslinearoperator(a), RNG.standard_normal((8, 2)), 8):
        assert len(factor.diagonal) == 4
        assert factor.diagonal[-1] <= 1e-12 * factor.diagonal.max()


def claims(a):
    return aslinearoperator(lambda v: a @ v, n=len(a), dtype=a.dtype, hermitian=True)


@pytest.mark.parametrize("count", [1, 4])
@pytest.mark.parametrize("size", [1e-6, 1.0])
def test_an_asymmetry_is_noticed(count, size):
    a = symmetric(20)
    a[3, 7] += size
    with pytest.raises(NotHermitianError, match="not Hermitian"):
        tridiagonalize(claims(a), RNG.standard_normal((20, count)), 10)


def test_a_complex_symmetric_matrix_is_not_hermitian():
    a = symmetric(20) * (1 + 1e-3j)
    with pytest.raises(NotHermitianError):
        tridiagonalize(claims(a), RNG.standard_normal((20, 1)).astype(complex), 5)


@given(n=st.integers(2, 60), seed=st.integers(0, 99), single=st.booleans())
def test_rounding_is_not_taken_for_asymmetry(n, seed, single):
    rng = np.random.default_rng(seed)
    values = 10.0 ** rng.uniform(-6, 6, n)
    a = with_spectrum(values, rng=seed).astype(np.float32 if single else np.float64)
    start = rng.standard_normal((n, 2)).astype(a.dtype)
    tridiagonalize(claims(a), start, n)


def test_a_wrong_adjoint_is_noticed():
    a = RNG.standard_normal((10, 10))
    op = aslinearoperator(lambda v: a @ v, n=10, rmatvec=lambda v: a @ v)
    with pytest.raises(ValueError, match="adjoint"):
        bidiagonalize(op, RNG.standard_normal((10, 1)), 5)


@pytest.mark.parametrize("run", [tridiagonalize, bidiagonalize], ids=["lanczos", "golub-kahan"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.filterwarnings("ignore:invalid value")
def test_products_that_are_not_finite(run, bad):
    calls = []

    def product(v):
        calls.append(1)
        return v * (bad if len(calls) == 3 else 2.0) + np.arange(len(v))[:, None] * v

    op = aslinearoperator(
        lambda v: v, n=6, matmat=product, rmatmat=lambda v: v * 2 + np.arange(6)[:, None] * v
    )
    with pytest.raises(ValueError, match="NaN or infinity"):
        run(op, np.ones((6, 1)), 5)
