"""Signs by pivots: of matrices that leave no pivot on the diagonal, and of hopeless ones."""

import numpy as np
import scipy.sparse as sp

from specdens.exact.ldl_inertia import sparse_inertia
from specdens.testing import laplacian


def test_a_zero_diagonal_is_no_obstacle():
    rng = np.random.default_rng(0)
    b = sp.random_array((30, 20), density=0.2, rng=rng) + sp.eye_array(30, 20)
    saddle = sp.block_array([[sp.eye_array(30), b], [b.T, None]]).tocsc()
    assert sparse_inertia(saddle) == (30, 20, 0)
    square = b[:20, :]
    bipartite = sp.block_array([[None, square], [square.T, None]]).tocsc()
    assert sparse_inertia(bipartite) == (20, 20, 0)


def test_a_singular_matrix_is_not_certain():
    assert sparse_inertia(laplacian(50, 50, boundary="periodic").tocsc()) is None
    assert sparse_inertia(sp.csc_array((3, 3))) is None
