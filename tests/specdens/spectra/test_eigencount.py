"""Counts: clusters beside gaps, and how far Ritz values are from eigenvalues."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from specdens import aslinearoperator, eigencount
from specdens.recurrences.lanczos import bidiagonalize, tridiagonalize
from specdens.recurrences.quadrature import gauss, residuals
from specdens.testing import with_spectrum


@pytest.mark.parametrize("steps", [8, 15, 30])
@pytest.mark.filterwarnings("ignore::specdens.AccuracyWarning")
def test_clusters_beside_a_gap_are_counted_whole(steps):
    """Half of a cluster's weight was once spread over the gap beside it."""
    a = np.diag(np.r_[np.linspace(0.01, 0.02, 100), np.linspace(0.9, 1, 100)])
    found = eigencount(a, -np.inf, 0.2, method="lanczos", moments=2 * steps, probes=200)
    assert abs(found - 100) < 1


@given(steps=st.integers(2, 12), seed=st.integers(0, 99))
def test_an_eigenvalue_is_as_near_as_the_residual_says(steps, seed):
    rng = np.random.default_rng(seed)
    a = with_spectrum(np.sort(rng.standard_normal(20)), rng=seed)
    (factor,) = tridiagonalize(aslinearoperator(a), rng.standard_normal((20, 1)), steps)
    distance = np.abs(np.linalg.eigvalsh(a)[:, None] - gauss(factor).nodes).min(axis=0)
    assert np.all(distance <= residuals(factor) + 1e-10)


@given(steps=st.integers(2, 12), seed=st.integers(0, 99))
def test_a_singular_value_is_as_near_as_the_residual_says(steps, seed):
    rng = np.random.default_rng(seed)
    a = rng.standard_normal((25, 20))
    (factor,) = bidiagonalize(aslinearoperator(a), rng.standard_normal((20, 1)), steps)
    singular = np.linalg.svd(a, compute_uv=False)
    distance = np.abs(singular[:, None] - gauss(factor).nodes).min(axis=0)
    assert np.all(distance <= residuals(factor) + 1e-10)
