"""Densities: moments, kernels, counts, quantiles, error bands; local ones; eigencounts."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad

from specdens import (
    AccuracyWarning,
    density,
    eigencount,
    local_density,
)
from specdens.arrays.libraries import to_host
from specdens.recurrences.chebyshev_series import KERNELS
from specdens.recurrences.lanczos import NotHermitianError
from specdens.testing import (
    graphene,
    graphene_density,
    laplacian,
    laplacian_eigenvalues,
    rotated,
    with_spectrum,
)
from tests.specdens import naive

EIGENVALUES = np.concatenate([np.linspace(-2, -0.5, 25), np.linspace(0.5, 3, 15)])
A = with_spectrum(EIGENVALUES, rng=1)
HOW = ["exact", "lanczos", "chebyshev"]


@pytest.mark.parametrize("how", HOW)
def test_density_is_the_textbook_sum(backend, how):
    rho = density(backend(A), moments=60, probes=40, method=how, bounds=(-2.2, 3.2))
    low, high = rho.bounds
    moments = np.mean([naive.chebyshev_moments(A, e, 60, low, high) for e in np.eye(40)], axis=0)
    assert np.allclose(rho.moments, moments, atol=1e-10)
    x = np.linspace(low + 0.01, high - 0.01, 50)
    assert np.allclose(rho(x), naive.jackson_density(moments, x, low, high), atol=1e-9)


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("kernel", KERNELS)
def test_mass_one_and_the_counts(how, kernel):
    rho = density(A, moments=80, probes=40, method=how, kernel=kernel)
    low, high = rho.bounds
    assert quad(rho, low, high, limit=500, epsabs=1e-7)[0] == pytest.approx(1, abs=1e-4)
    assert rho.cumulative(low - 1) == pytest.approx(0, abs=1e-12)
    assert rho.cumulative(high + 1) == pytest.approx(1)
    assert rho.count(low, high) == pytest.approx(40)
    assert rho(np.array([low - 1, high + 1])).tolist() == [0, 0]
    # The gap in the spectrum, at its middle: 25 eigenvalues below.
    tolerance = 0.1 if kernel in {"jackson", "lanczos"} else 0.8
    assert 40 * rho.cumulative(0.0) == pytest.approx(25, abs=tolerance)


@pytest.mark.parametrize("kernel", ["jackson", "fejer"])
@given(moments=st.integers(2, 120), seed=st.integers(0, 30))
def test_positive_kernels_give_positive_densities_and_monotone_counts(kernel, moments, seed):
    rho = density(A, moments=moments, probes=2, kernel=kernel, method="chebyshev", rng=seed)
    x = rho.energies(300)
    assert rho(x).min() > -1e-10
    assert np.diff(rho.cumulative(x)).min() > -1e-12


def test_cumulative_is_the_integral_of_the_density():
    rho = density(A, moments=50, probes=3, method="chebyshev", rng=0)
    for x in (-1.3, 0.2, 2.4):
        assert quad(rho, rho.bounds[0], x, limit=300)[0] == pytest.approx(
            rho.cumulative(x), abs=1e-6
        )


@pytest.mark.parametrize("how", HOW)
def test_integrals_are_not_broadened(how):
    rho = density(A, moments=60, probes=40, method=how)
    assert rho.integrate(lambda x: x) == pytest.approx(EIGENVALUES.mean())
    assert rho.integrate(lambda x: x**4) == pytest.approx((EIGENVALUES**4).mean())
    assert rho.integrate(np.exp) == pytest.approx(np.exp(EIGENVALUES).mean())
    z = rho.integrate(lambda x: 1 / (x - 5j))
    assert z == pytest.approx((1 / (EIGENVALUES - 5j)).mean())
    with pytest.raises(ValueError, match="trace_function"):
        rho.integrate(np.log)
    with pytest.raises(ValueError, match="trace_function"):
        rho.integrate(lambda x: x[:1])


def test_quantiles_invert_the_cumulative_density():
    rho = density(A, moments=100, method="exact")
    q = np.array([0.0, 0.1, 0.5, 0.9, 1.0])
    x = rho.quantile(q)
    assert np.allclose(rho.cumulative(x), q, atol=1e-3)
    assert np.all(np.diff(x) > 0)
    assert rho.quantile(0.5).shape == ()
    with pytest.raises(ValueError, match="fractions"):
        rho.quantile(1.5)


def test_resolution_sets_the_number_of_moments():
    for resolution in (0.2, 0.05):
        rho = density(A, resolution=resolution, method="chebyshev", rng=0)
        middle = sum(rho.bounds) / 2
        assert 0.9 * resolution < rho.resolution(middle) <= resolution
    with pytest.raises(ValueError, match="resolution"):
        density(A, resolution=0.0)


def test_another_kernel_costs_nothing():
    rho = density(A, moments=60, rng=0, method="lanczos")
    other = rho.with_kernel("lorentz")
    assert other.kernel == "lorentz"
    assert other.moments is rho.moments
    assert not np.allclose(other(0.0), rho(0.0))


def test_error_bands_are_of_the_right_size(method):
    """Over many seeds, the scatter of a value is its reported standard error."""
    op = rotated(np.linspace(-1, 1, 600))
    x = np.array([-0.5, 0.3])
    runs = [density(op, moments=30, probes=8, method=method, rng=s) for s in range(60)]
    for value, error in (
        (lambda r: r(x), lambda r: r.stderr(x)),
        (lambda r: r.cumulative(x), lambda r: r.cumulative_stderr(x)),
        (lambda r: r.integrate(np.exp), lambda r: r.integral_stderr(np.exp)),
    ):
        scatter = np.std([value(r) for r in runs], axis=0, ddof=1)
        reported = np.sqrt(np.mean([error(r) ** 2 for r in runs], axis=0))
        # 60 runs know a standard deviation to 9 %: 5 of those.
        assert np.all(np.abs(scatter / reported - 1) < 0.45)


def test_with_one_probe_the_band_comes_from_the_density():
    op = rotated(np.linspace(-1, 1, 600))
    x = np.array([-0.5, 0.3])
    runs = [density(op, moments=30, probes=1, method="chebyshev", rng=s) for s in range(60)]
    scatter = np.std([r(x) for r in runs], axis=0, ddof=1)
    reported = np.mean([r.stderr(x) for r in runs], axis=0)
    assert np.all(np.abs(scatter / reported - 1) < 0.45)


def test_nothing_left_to_chance_has_no_band():
    rho = density(A, moments=40, probes=40, method="chebyshev")
    assert rho.stderr(0.0) == 0
    low, high = rho.band(np.array([0.0, 1.0]))
    assert np.array_equal(low, high)


@pytest.mark.parametrize("how", ["lanczos", "chebyshev", "exact"])
def test_wrong_bounds_are_replaced_and_said(how):
    with pytest.warns(AccuracyWarning, match="not inside the given bounds"):
        rho = density(A, bounds=(-1, 1), method=how, moments=60, rng=0)
    assert rho.escaped
    assert rho.bounds[0] < -1.9
    assert rho.bounds[1] > 2.9
    assert rho.count(*rho.bounds) == pytest.approx(40)


def test_a_multiple_of_the_identity(method):
    rho = density(3 * np.eye(30), method=method, moments=40, rng=0)
    assert rho.count(2.9, 3.1) == pytest.approx(30)
    assert rho.quantile(0.5) == pytest.approx(3, abs=0.01)


def test_graphene_has_its_textbook_density():
    rho = density(graphene(64, 64), moments=120, probes=4, rng=0)
    x = np.array([0.3, 0.6, 1.6, 2.2])
    assert np.allclose(rho(x), graphene_density(x), atol=0.02)
    assert rho.moments[1] == pytest.approx(0, abs=0.01)


def test_densities_of_what_has_none():
    with pytest.raises(ValueError, match="empty"):
        density(np.empty((0, 0)))
    with pytest.raises(ValueError, match="not Hermitian"):
        density(np.array([[1.0, 2.0], [0.0, 1.0]]))
    with pytest.raises(ValueError, match="kernel"):
        density(A, kernel="gauss")
    with pytest.raises(ValueError, match="square"):
        density(np.ones((2, 3)))
    with pytest.raises(ValueError, match="low <= high"):
        density(A, rng=0).count(2, 1)


class TestLocal:
    @pytest.mark.parametrize("how", HOW)
    def test_sites(self, backend, how):
        rho = local_density(backend(A), [3, -1], moments=40, method=how, bounds=(-2.2, 3.2))
        for column, site in enumerate((3, 39)):
            expected = naive.chebyshev_moments(A, np.eye(40)[site], 40, *rho.bounds)
            assert np.allclose(rho.moments[:, column], expected, atol=1e-10)
        assert rho(np.zeros(7)).shape == (2, 7)
        assert rho(0.0).shape == (2,)
        assert rho.count(*rho.bounds) == pytest.approx([1, 1])
        assert rho.integrate(lambda x: x) == pytest.approx([A[3, 3], A[39, 39]])
        assert rho.quantile([0.2, 0.8]).shape == (2, 2)

    def test_one_site_has_no_axis(self):
        rho = local_density(A, 5, moments=40)
        assert rho(np.zeros(7)).shape == (7,)
        assert rho.integrate(lambda x: x) == pytest.approx(A[5, 5])
        assert np.array_equal(rho.stderr(np.zeros(7)), np.zeros(7))

    @pytest.mark.parametrize("how", HOW)
    def test_vectors(self, backend, how):
        v = np.random.default_rng(0).standard_normal((40, 2))
        rho = local_density(backend(A), backend(v), moments=30, method=how, bounds=(-2.2, 3.2))
        for r in range(2):
            expected = naive.chebyshev_moments(A, v[:, r], 30, *rho.bounds)
            assert np.allclose(rho.moments[:, r], expected, atol=1e-10)
        single = local_density(backend(A), backend(v[:, 0]), moments=30, bounds=(-2.2, 3.2))
        assert np.allclose(single.moments, rho.moments[:, 0], atol=1e-10)

    def test_all_sites_together_are_the_density(self):
        local = local_density(A, np.arange(40), moments=30, bounds=(-2.2, 3.2))
        whole = density(A, moments=30, method="exact", bounds=(-2.2, 3.2))
        assert np.allclose(local.moments.mean(axis=1), whole.moments, atol=1e-10)

    @pytest.mark.parametrize(
        ("given", "text"),
        [
            (40, "out of range"),
            (-41, "out of range"),
            ([], "one site"),
            (1.5, "one site"),
            (np.ones((3, 1)), "probes have shape"),
            (np.zeros(40), "zero"),
        ],
        ids=str,
    )
    def test_bad_sites(self, given, text):
        with pytest.raises(ValueError, match=text):
            local_density(A, given)


class TestEigencount:
    @pytest.mark.parametrize(
        ("low", "high"), [(-2.0, 3.0), (0, 5), (-0.5, 0.5), (-9, -5), (0.5, 0.5), (-np.inf, 0)]
    )
    def test_exact(self, backend, low, high):
        truth = int(((low - 1e-12 <= EIGENVALUES) & (high + 1e-12 >= EIGENVALUES)).sum())
        value, info = eigencount(backend(A), low, high, return_info=True)
        assert to_host(value).item() == truth
        assert info.stderr == info.bias_bound == 0

    @pytest.mark.parametrize(("low", "high"), [(-1.0, 2.0), (0.1, 9.0), (-np.inf, -1.2)])
    def test_with_all_unit_vectors_and_steps(self, backend, low, high):
        truth = ((low <= EIGENVALUES) & (high >= EIGENVALUES)).sum()
        value, info = eigencount(
            backend(A), low, high, method="lanczos", probes=40, moments=80, return_info=True
        )
        assert to_host(value).item() == pytest.approx(truth, abs=1e-8)
        assert info.converged

    @pytest.mark.parametrize("moments", [8, 30, 100])
    def test_error_bounds_hold(self, method, moments, quiet):
        eigenvalues = laplacian_eigenvalues(18, 17)
        op = rotated(eigenvalues)
        for low, high in ((0.5, 2.0), (3.0, 5.1), (-1.0, 4.0)):
            truth = ((low <= eigenvalues) & (high >= eigenvalues)).sum()
            with quiet():
                value, info = eigencount(
                    op, low, high, method=method, probes=306, moments=moments, return_info=True
                )
            assert abs(value - truth) <= info.bias_bound + 1e-6
            assert info.stderr == 0

    def test_beyond_known_bounds_there_is_no_doubt(self):
        value, info = eigencount(
            laplacian(20, 20, 20), -1, 13, rng=0, method="lanczos", return_info=True
        )
        assert value == pytest.approx(8000)
        assert info.bias_bound == 0

    def test_wrong_bounds(self, quiet):
        with pytest.warns(AccuracyWarning, match="not inside"):
            _, info = eigencount(
                A, 0, 5, method="chebyshev", bounds=(-1, 1), rng=0, return_info=True
            )
        assert info.method == "lanczos"

    def test_bad_input(self):
        with pytest.raises(ValueError, match="low <= high"):
            eigencount(A, 2, 1)
        with pytest.raises(ValueError, match="low <= high"):
            eigencount(A, math.nan, 1)
        with pytest.raises(ValueError, match="not Hermitian"):
            eigencount(np.array([[0.0, 1.0], [0.0, 0.0]]), 0, 1)
        assert eigencount(np.empty((0, 0)), 0, 1) == 0


def test_a_false_claim_of_symmetry(method):
    from specdens import aslinearoperator

    a = A + np.triu(np.ones((40, 40)), 1)
    op = aslinearoperator(lambda v: a @ v, n=40, hermitian=True)
    with pytest.raises(NotHermitianError):
        density(op, method=method, rng=0)


@pytest.mark.parametrize("moments", [64, 256, 1024])
def test_the_ends_of_the_interval(moments):
    rho = density(graphene(60, 60), probes=2, moments=moments, rng=0)
    low, high = rho.bounds
    x = np.linspace(-3.2, 3.2, 641)
    ends = np.array([low, low + 1e-15, low + 1e-9, low + 1e-5, high - 1e-15, high - 1e-9, high])
    assert np.all(rho(ends) < 0.02)
    assert np.all(rho(ends) >= 0)
    assert np.trapezoid(rho(x), x) == pytest.approx(1, abs=5e-3)
    for kernel in ("jackson", "lorentz", "fejer", "lanczos", "none"):
        other = rho.with_kernel(kernel)
        assert np.all(np.abs(other(ends)) < 0.5)
        for edges in ((low, high), (low - 0.1, high + 0.3), (low - 1e-15, high + 1e-15)):
            fine = np.linspace(*edges, 40001)
            assert np.trapezoid(other(fine), fine) == pytest.approx(1, abs=1e-3)
        lower, upper = other.band(ends)
        assert np.all(upper - lower < 0.5)


def test_states_at_the_very_ends():
    rho = density(np.diag([-1.0, 0.5, 1.0, 1.0]), moments=200, bounds=(-1.0, 1.0))
    low, high = rho.bounds
    fine = np.linspace(low, high, 100001)
    values = rho(fine)
    assert np.all(values >= 0)
    assert np.trapezoid(values, fine) == pytest.approx(1, abs=1e-3)


def test_a_local_density_at_the_ends():
    rho = local_density(graphene(20, 20), [0, 5], moments=128)
    low, high = rho.bounds
    assert np.all(np.abs(rho(np.array([low, low + 1e-15, high - 1e-12]))) < 0.02)
    fine = np.linspace(low, high, 20001)
    np.testing.assert_allclose(np.trapezoid(rho(fine), fine), 1, atol=1e-3)
