"""Chebyshev moments against dense polynomials; their cost; escapes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from specdens import aslinearoperator
from specdens.arrays.libraries import to_host
from specdens.operators.algebra import Counting
from specdens.recurrences.chebyshev_moments import EscapeError, chebyshev_moments
from specdens.recurrences.lanczos import NotHermitianError
from specdens.testing import with_spectrum
from tests.specdens import naive

EIGENVALUES = np.linspace(-2, 5, 20)


@pytest.mark.parametrize("dtype", ["float64", "complex128"])
@pytest.mark.parametrize("count", [1, 2, 3, 8, 9])
def test_moments_are_those_of_dense_polynomials(backend, dtype, count):
    a = with_spectrum(EIGENVALUES, rng=0, dtype=np.dtype(dtype))
    start = np.random.default_rng(1).standard_normal((20, 3)).astype(dtype)
    op = Counting(aslinearoperator(backend(a)))
    found = chebyshev_moments(op, backend(start), count, -2.5, 5.5)
    for r in range(3):
        expected = naive.chebyshev_moments(a, start[:, r], count, -2.5, 5.5)
        assert np.allclose(found[:, r], expected, atol=1e-12)
    assert op.count == 3 * (count // 2)


@pytest.mark.parametrize("count", [20, 200])
def test_single_precision_keeps_the_moments_to_its_roundoff(backend, count):
    a = with_spectrum(EIGENVALUES, rng=0).astype(np.float32)
    start = np.random.default_rng(1).standard_normal((20, 2)).astype(np.float32)
    found = chebyshev_moments(aslinearoperator(backend(a)), backend(start), count, -2.5, 5.5)
    for r in range(2):
        expected = naive.chebyshev_moments(
            a.astype(float), start[:, r].astype(float), count, -2.5, 5.5
        )
        assert np.abs(found[:, r] - expected).max() < 10 * count * np.finfo(np.float32).eps


@given(outside=st.floats(0.01, 0.5), count=st.integers(20, 400))
def test_an_eigenvalue_outside_is_an_escape_and_never_an_overflow(outside, count):
    a = with_spectrum(EIGENVALUES, rng=0)
    start = np.random.default_rng(1).standard_normal((20, 2))
    low = -2 + outside * 7
    exact = naive.quadratic_form(a, start[:, 0], lambda x: x)
    assert np.isfinite(exact)
    try:
        found = chebyshev_moments(aslinearoperator(a), start, count, low, 5.0)
    except EscapeError:
        return
    # Not noticed yet: then nothing has grown, either.
    assert np.abs(found).max() <= 1 + 1e-9
    assert count < 60


def test_an_escape_far_outside_in_single_precision():
    a = with_spectrum(EIGENVALUES * 1e10, rng=0).astype(np.float32)
    start = np.ones((20, 1), dtype=np.float32)
    with pytest.raises(EscapeError):
        chebyshev_moments(aslinearoperator(a), start, 600, -1.0, 1.0)


def test_a_multiple_of_the_identity_has_an_interval_without_width():
    found = chebyshev_moments(aslinearoperator(3 * np.eye(4)), np.ones((4, 1)), 5, 3.0, 3.0)
    assert np.allclose(found[:, 0], [1, 0, -1, 0, 1])


def test_an_asymmetry_is_noticed():
    a = with_spectrum(EIGENVALUES, rng=0)
    a[2, 9] += 1e-3
    start = np.random.default_rng(1).standard_normal((20, 1))
    op = aslinearoperator(lambda v: a @ v, n=20)
    with pytest.raises(NotHermitianError):
        chebyshev_moments(op, start, 10, -3, 6)


def test_a_product_that_is_not_finite():
    op = aslinearoperator(lambda v: v * np.nan, n=4)
    with pytest.raises(ValueError, match="NaN or infinity"):
        chebyshev_moments(op, np.ones((4, 1)), 10, -1, 1)


def test_the_first_moment_is_the_mean_energy(backend):
    a = with_spectrum(EIGENVALUES, rng=0)
    identity = backend(np.eye(20))
    found = chebyshev_moments(aslinearoperator(backend(a)), identity, 2, -2.5, 5.5)
    mean = (found[1].mean() * 8 + 3) / 2
    assert mean == pytest.approx(EIGENVALUES.mean())
    assert to_host(identity).shape == (20, 20)
