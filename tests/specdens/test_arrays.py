"""The border to array libraries: sums over many rows."""

import numpy as np
import pytest

from specdens._arrays import _column_sums


def test_sums_of_many_rows_in_single_precision(backend):
    """NumPy's running sum over 10^6 equal rows is off by more than 1e-3; two levels are not."""
    x = np.full((10**6 + 7, 2), 0.1, np.float32)
    x[:, 1] = np.float32(1 / 3)
    sums = np.asarray([float(s) for s in _column_sums(backend.xp, backend(x))])
    assert sums == pytest.approx(x.astype(np.float64).sum(axis=0), rel=1e-5)
    assert abs(np.sum(x, axis=0)[0] / 100000.7 - 1) > 1e-3
