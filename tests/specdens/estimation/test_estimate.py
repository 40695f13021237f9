"""Where an estimate stops to count as converged: at a bias above what is lost anyway."""

import numpy as np
import pytest

from specdens.arrays.libraries import default_namespace
from specdens.arrays.probes import make_probes
from specdens.estimation.estimate import ILL_CONDITIONED, summed
from specdens.estimation.truncation import Truncated

N = 128  # a power of two: multiplying by it rounds nothing
SCATTERED = np.array([1.0, 1.5, 0.75, 1.25])


def estimate(values, bias, rounding=0.0, flags=()):
    truncated = Truncated(values=values, bias=bias, rigorous=False, spread=0.0, rounding=rounding)
    xp = default_namespace()
    probes = make_probes(len(values), N, 0, xp=xp, dtype=xp.float64, where="cpu")
    return summed(truncated, probes, method="lanczos", matvecs=1, bounds=None, flags=flags)


@pytest.mark.parametrize(
    ("values", "rounding", "limit"),
    [
        (SCATTERED, 0.0, np.std(SCATTERED, ddof=1) / 2),  # the standard error
        (SCATTERED, 5e-4, 5e-4 + np.std(SCATTERED, ddof=1) / 2),
        (np.ones(4), 0.0, 1e-8),  # where there is none, 1e-8 of the value
        (np.ones(4), 5e-4, 5e-4 + 1e-8),
    ],
)
def test_converged_up_to_the_boundary_and_not_beyond(values, rounding, limit):
    assert estimate(values, limit * (1 - 1e-12), rounding).converged
    beyond = estimate(values, limit * (1 + 1e-12), rounding)
    assert not beyond.converged
    assert beyond.bias_bound == pytest.approx(N * limit)
    assert not estimate(values, 0.0, rounding, flags=("a doubt",)).converged


def test_rounding_that_spoils_a_thousandth_is_told():
    assert estimate(np.ones(4), 0.9e-3, 0.9e-3).converged
    spoiled = estimate(np.ones(4), 1.1e-3, 1.1e-3)
    assert spoiled.flags == (ILL_CONDITIONED,)
    assert not spoiled.converged
