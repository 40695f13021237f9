"""Intervals that contain the spectrum: by proof where there is one."""

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given
from hypothesis import strategies as st

from specdens import Gram, density, spectral_bounds
from specdens.testing import laplacian, with_spectrum

A = with_spectrum(np.concatenate([np.linspace(-2, -0.5, 25), np.linspace(0.5, 3, 15)]), rng=1)


class TestBounds:
    @given(seed=st.integers(0, 60), n=st.integers(1, 60), single=st.booleans())
    def test_contain_the_spectrum(self, seed, n, single):
        rng = np.random.default_rng(seed)
        values = rng.choice([rng.standard_normal(n), rng.exponential(size=n) ** 3])
        a = with_spectrum(values, rng=seed).astype(np.float32 if single else float)
        low, high = spectral_bounds(a, rng=seed)
        slack = 1e-5 * np.abs(values).max()
        assert low - slack <= values.min()
        assert values.max() <= high + slack

    def test_of_every_backend(self, backend):
        bounds = spectral_bounds(backend(A), rng=0)
        assert bounds.low <= -2
        assert bounds.high >= 3
        assert bounds.matvecs == 20
        assert "Lanczos" in bounds.how

    def test_gershgorin_is_rigorous_where_it_is_better(self):
        bounds = spectral_bounds(laplacian(30, 30), rng=0)
        assert (bounds.low, bounds.high) == (0, 8)
        assert bounds.rigorous
        complex_ = spectral_bounds(
            sp.csr_array(np.array([[2, 1j, 0], [-1j, 2, 0], [0, 0, 7]])), rng=0
        )
        assert complex_.low <= 1
        assert 7 <= complex_.high <= 7 + 1e-9

    def test_of_a_gram_matrix(self):
        assert spectral_bounds(Gram(A, shift=0.25), rng=0).low == 0.25

    def test_can_be_passed_on(self, method):
        bounds = spectral_bounds(A, rng=0)
        rho = density(A, bounds=bounds, method=method, rng=0)
        assert not rho.escaped

    def test_of_what_has_none(self):
        with pytest.raises(ValueError, match="empty"):
            spectral_bounds(np.empty((0, 0)))
        with pytest.raises(ValueError, match="not Hermitian"):
            spectral_bounds(np.array([[0.0, 1.0], [0.0, 0.0]]))
