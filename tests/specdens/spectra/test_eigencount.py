"""Counts: clusters beside gaps, and how far Ritz values are from eigenvalues."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from specdens import AccuracyWarning, aslinearoperator, eigencount
from specdens.recurrences.lanczos import bidiagonalize, tridiagonalize
from specdens.recurrences.quadrature import gauss, residuals
from specdens.testing import laplacian, with_spectrum


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


TIES = np.repeat([-1.0, 0.0, 1.0, 2.0], 6)
ENDS = [(0, np.inf), (-np.inf, 0), (0, 0), (0, 1), (1, 2), (-1, 0), (0.5, 0.7)]


@pytest.mark.parametrize("method", ["auto", "exact", "lanczos"])
@pytest.mark.parametrize("ends", ENDS)
def test_the_interval_is_closed(method, ends):
    low, high = ends
    count = eigencount(np.diag(TIES), low, high, method=method, rng=0)
    assert float(count) == pytest.approx(np.sum((low <= TIES) & (high >= TIES)))


def test_the_kernel_is_in_doubt_about_eigenvalues_on_an_end():
    with pytest.warns(AccuracyWarning):
        _, info = eigencount(np.diag(TIES), 0, 1, method="chebyshev", rng=0, return_info=True)
    assert not info.converged
    assert abs(info.value - 12) <= info.bias_bound


@pytest.mark.parametrize("method", ["auto", "exact", "lanczos", "chebyshev"])
def test_of_zero(method):
    zero = aslinearoperator(lambda x: 0 * x, n=30, hermitian=True)
    counts = [eigencount(zero, *ends, method=method, rng=0) for ends in ((0, 1), (-1, 0), (1, 2))]
    assert [float(count) for count in counts] == [30, 30, 0]


@pytest.mark.parametrize("ends", [(3, 5), (4, 8), (0, 4), (4, 4), (2, 6), (1, 7)])
def test_round_numbers_do_not_break_the_factorisation(ends):
    low, high = ends
    line = 2 - 2 * np.cos(np.arange(1, 61) * np.pi / 61)
    eigenvalues = np.add.outer(line, line)
    count, info = eigencount(laplacian(60, 60), low, high, return_info=True)
    inside = (eigenvalues >= low - 1e-9) & (eigenvalues <= high + 1e-9)
    assert info.method == "exact"
    assert float(count) == inside.sum()
