"""Diagonals of matrices and of functions of them: twins, exact cases, errors, variances."""

import math

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from specdens import AccuracyWarning, aslinearoperator, diagonal, diagonal_function
from specdens.arrays.libraries import namespace, to_host
from specdens.results import two_sided_quantile
from specdens.sketching.sketch import draw
from specdens.testing import laplacian, rotated, with_spectrum
from tests.specdens import naive
from tests.specdens.samples import require_mean, require_variance

METHODS = ["hutchinson", "diag++", "xdiag"]
N = 80
DECAY = 1 / np.arange(1.0, N + 1) ** 2
DTYPES = ["float64", "complex128"]


def applied(a):
    """Products only, of a Hermitian matrix."""
    return aslinearoperator(
        lambda v: a @ v, n=len(a), dtype=a.dtype, matmat=lambda x: a @ x, hermitian=True
    )


def square(n, dtype="float64"):
    generator = np.random.default_rng(0)
    a = generator.standard_normal((n, n))
    return a + 1j * generator.standard_normal((n, n)) if dtype == "complex128" else a


class TestTwins:
    @pytest.mark.parametrize("dtype", DTYPES)
    def test_xdiag(self, dtype):
        a = square(N, dtype)
        value, info = diagonal(a, method="xdiag", probes=7, rng=3, return_info=True)
        tests = draw(aslinearoperator(a), range(7), 3, kind="signs")
        twin = naive.xdiag(a, tests)
        assert np.allclose(value, twin.mean(axis=1), rtol=1e-12, atol=1e-12)
        scatter = np.std(twin, axis=1, ddof=1) / math.sqrt(7)
        assert np.allclose(info.stderr, scatter * (1.4 if dtype == "float64" else 1), rtol=1e-10)
        assert (info.matvecs, info.samples, info.method, info.seed) == (14, 7, "xdiag", 3)

    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("distribution", ["signs", "sphere", "orthogonal"])
    def test_hutchinson(self, dtype, distribution):
        from specdens.estimation.sampling import probes_for

        a = square(N, dtype)
        options = {"distribution": distribution, "rng": 3, "probes": 40}
        value, info = diagonal(a, method="hutchinson", return_info=True, **options)
        z = probes_for(aslinearoperator(a), 40, 3, distribution).block(range(40))
        mass = np.sum(np.abs(z) ** 2, axis=1)
        assert np.allclose(value, np.sum(z.conj() * (a @ z), axis=1) / mass, rtol=1e-12)
        rest = z.conj() * (a @ z) - value[:, None] * np.abs(z) ** 2
        variance = 40 / 39 * np.sum(np.abs(rest) ** 2, axis=1) / mass**2
        left = 1 - 40 / N if distribution == "orthogonal" else 1
        assert np.allclose(info.stderr, np.sqrt(variance * left), rtol=1e-10)

    def test_diag_plus_plus(self):
        a = square(N)
        value, info = diagonal(a, method="diag++", probes=11, rng=3, return_info=True)
        op = aslinearoperator(a)
        q, _ = np.linalg.qr(a @ draw(op, range(5), 3, kind="sphere"))
        z = draw(op, range(6), 3, kind="signs", stream=0)
        left = a - q @ (q.T @ a)
        assert np.allclose(value, np.diag(q @ q.T @ a) + np.mean(z * (left @ z), axis=1))
        assert (info.matvecs, info.samples, info.method) == (16, 6, "diag++")


class TestExact:
    def test_of_arrays(self, backend):
        for dtype in ("float64", "complex128", "float32", "int64"):
            a = np.asarray(10 * square(5, "complex128" if dtype == "complex128" else "float64"))
            value, info = diagonal(backend(a.astype(dtype)), return_info=True)
            assert np.allclose(to_host(value), np.diag(a.astype(dtype)))
            assert value.dtype == backend.dtype("float64" if dtype == "int64" else dtype)
            assert (info.method, info.matvecs) == ("exact", 0)

    def test_of_sparse(self):
        assert np.all(diagonal(laplacian(5, 5)) == 4)
        assert np.all(diagonal(sp.coo_array((5, 5))) == 0)

    @pytest.mark.parametrize("method", ["auto", "exact", *METHODS])
    @pytest.mark.parametrize("n", [0, 1, 6, 70])
    def test_by_as_many_products_as_rows(self, method, n):
        a = square(n) + square(n).T
        for options in ({"probes": 100}, {"max_matvecs": 70}):
            value, info = diagonal(applied(a), method=method, return_info=True, **options)
            assert np.allclose(value, np.diag(a))
            assert (info.matvecs, info.method) == (n, "exact")
            assert np.all(info.stderr == 0)

    @settings(max_examples=15, deadline=None)
    @given(rank=st.integers(0, 4), key=st.integers(0, 2**64 - 1), method=st.sampled_from(METHODS))
    def test_low_rank(self, rank, key, method):
        root = np.random.default_rng(1).standard_normal((N, rank))
        a = root @ root.T
        value, info = diagonal(a, method=method, probes=12, rng=key, return_info=True)
        assert np.all(np.isfinite(info.stderr))
        if method != "hutchinson":
            assert np.allclose(value, np.diag(a), atol=1e-11)
            assert np.all(info.stderr < 1e-11)

    @settings(max_examples=15, deadline=None)
    @given(key=st.integers(0, 2**64 - 1), method=st.sampled_from(["hutchinson", "xdiag"]))
    def test_signs_are_exact_on_diagonal_matrices(self, key, method):
        a = np.diag(np.linspace(-1, 2, N))
        value, info = diagonal(a, method=method, probes=5, rng=key, return_info=True)
        if method == "hutchinson":
            assert np.all(value == np.diag(a))
            assert np.all(info.stderr == 0)
        assert np.sum(value) == pytest.approx(np.trace(a), abs=20 * np.linalg.norm(info.stderr))


class TestStatistics:
    @pytest.mark.parametrize("method", METHODS)
    @pytest.mark.parametrize("dtype", [float, complex], ids=["real", "complex"])
    def test_unbiased(self, method, dtype):
        a = with_spectrum(DECAY, rng=2, dtype=dtype)
        found = [diagonal(applied(a), method=method, probes=6, rng=s).real for s in range(200)]
        truth = np.diag(a).real
        require_mean(np.array(found)[:, 0], truth[0])
        require_mean(np.array(found)[:, 7], truth[7])

    @pytest.mark.parametrize("dtype", [float, complex], ids=["real", "complex"])
    def test_variance_of_signs(self, dtype):
        a = with_spectrum(np.linspace(0, 1, 30), rng=2, dtype=dtype)
        found = [diagonal(applied(a), probes=2, rng=s)[4].real for s in range(400)]
        row = np.delete(a[4], 4)
        share = 1 if dtype is float else 0.5  # of the real part
        require_variance(found, share * np.sum(np.abs(row) ** 2) / 2)

    @pytest.mark.parametrize("method", METHODS)
    @pytest.mark.parametrize("eigenvalues", [np.linspace(1, 3, N), DECAY], ids=["flat", "decay"])
    @pytest.mark.parametrize("dtype", [float, complex], ids=["real", "complex"])
    def test_reported_errors_are_true(self, method, eigenvalues, dtype):
        a = with_spectrum(eigenvalues, rng=2, dtype=dtype)
        runs = [
            diagonal(applied(a), method=method, max_matvecs=30, rng=s, return_info=True)[1]
            for s in range(25)
        ]
        errors = np.array([np.abs(info.value - np.diag(a)) for info in runs])
        reported = np.array([info.stderr for info in runs])
        assert 0.85 < np.sqrt(np.mean(reported**2) / np.mean(errors**2)) < 1.6
        assert np.mean(errors <= two_sided_quantile(0.95, runs[0].samples) * reported) > 0.93
        assert all(28 <= info.matvecs <= 30 for info in runs)

    def test_orthogonal_blocks_pay_when_they_are_wide(self):
        a = with_spectrum(np.linspace(1, 3, N))
        options = {"probes": N - 8, "rng": 0, "return_info": True}
        errors = {
            name: np.linalg.norm(diagonal(applied(a), distribution=name, **options)[0] - np.diag(a))
            for name in ("sphere", "orthogonal")
        }
        assert 2 * errors["orthogonal"] < errors["sphere"]

    def test_auto_takes_the_better_one(self):
        for eigenvalues, method in ((np.linspace(1, 3, N), "hutchinson"), (DECAY, "xdiag")):
            a = with_spectrum(eigenvalues)
            value, info = diagonal(applied(a), max_matvecs=31, rng=0, return_info=True)
            assert info.method == method
            assert 30 <= info.matvecs <= 31
            assert np.linalg.norm(value - np.diag(a)) < 2 * np.linalg.norm(info.stderr)
        op = aslinearoperator(lambda v: np.cumsum(v), n=N)
        assert diagonal(op, max_matvecs=31, return_info=True)[1].method == "hutchinson"

    def test_decay_is_used(self):
        a = with_spectrum(0.7 ** np.arange(N))

        def error(method):
            return np.linalg.norm(diagonal(applied(a), method=method, max_matvecs=50) - np.diag(a))

        assert 100 * error("xdiag") < error("hutchinson")
        assert 10 * error("diag++") < error("hutchinson")


class TestFunctions:
    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("name", naive.FUNCTIONS)
    def test_exact(self, backend, dtype, name):
        a = with_spectrum(np.linspace(0.5, 3, 30), dtype=np.dtype(dtype))
        f = naive.FUNCTIONS[name]
        x, v = np.linalg.eigh(a + 0.25 * np.eye(30))
        truth = np.abs(v) ** 2 @ f(x)
        value, info = diagonal_function(backend(a), name, shift=0.25, return_info=True)
        assert np.allclose(to_host(value), truth)
        assert value.dtype == backend.dtype("float64")
        assert namespace(value) is backend.xp
        assert (info.method, info.matvecs) == ("exact", 0)
        assert np.allclose(to_host(diagonal_function(backend(a), f, shift=0.25)), truth)

    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("method", METHODS)
    def test_sampled(self, dtype, method):
        a = with_spectrum(np.linspace(0.5, 3, N), dtype=np.dtype(dtype))
        options = {"moments": 40, "probes": 10, "rng": 1, "return_info": True}
        value, info = diagonal_function(a, "log", method=method, **options)
        x, v = np.linalg.eigh(a)
        errors = np.abs(value - np.abs(v) ** 2 @ np.log(x))
        assert np.linalg.norm(errors) < 3 * np.linalg.norm(info.stderr)
        assert info.converged
        applications = {"hutchinson": 10, "diag++": 15, "xdiag": 20}[method]
        assert info.matvecs == 20 * applications

    def test_unit_vectors_leave_the_truncation_error_alone(self):
        op = rotated(np.linspace(0.5, 3, 60))
        value, info = diagonal_function(op, "log", probes=60, moments=60, return_info=True)
        truth = diagonal_function(op.columns(), "log")
        assert np.all(info.stderr == 0)
        assert np.max(np.abs(value - truth)) < 1e-6

    def test_too_few_moments_are_said(self):
        op = rotated(np.geomspace(1e-4, 1, 200))
        with pytest.warns(AccuracyWarning, match="truncation error of the diagonal"):
            _, info = diagonal_function(op, "inv", probes=150, moments=8, return_info=True)
        assert not info.converged
        assert info.flags

    def test_complex_functions(self):
        a = with_spectrum(np.linspace(0.5, 3, N))

        def resolvent(x):
            return 1 / (x - (1 + 1j))

        truth = np.diag(np.linalg.inv(a - (1 + 1j) * np.eye(N)))
        assert np.allclose(diagonal_function(a, resolvent), truth)
        value, info = diagonal_function(
            a, resolvent, method="hutchinson", moments=80, probes=15, rng=0, return_info=True
        )
        assert np.linalg.norm(value - truth) < 2 * np.linalg.norm(info.stderr)
        with pytest.raises(ValueError, match="adjoint"):
            diagonal_function(a, resolvent, method="xdiag")

    @pytest.mark.parametrize("method", ["exact", "hutchinson"])
    def test_poles_and_domains(self, method):
        a = np.diag(np.linspace(-1, 1, 41))
        for name in ("log", "sqrt"):
            with pytest.raises(ValueError, match=r"not defined|not finite|NaN"):
                diagonal_function(a, name, method=method, moments=40)

    def test_needs_a_hermitian_matrix(self):
        with pytest.raises(ValueError, match="not Hermitian"):
            diagonal_function(square(5), "exp")

    def test_empty(self):
        assert diagonal_function(np.empty((0, 0)), "exp").shape == (0,)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", ["float64", "complex128", "float32", "complex64"])
def test_every_backend(backend, method, dtype):
    a = with_spectrum(DECAY, dtype=np.dtype(dtype)).astype(dtype)
    options = {"method": method, "probes": 8, "rng": 2, "return_info": True}
    value, info = diagonal(backend(a), **options)
    reference, expected = diagonal(a, **options)
    close = 1e-4 if dtype in {"float32", "complex64"} else 1e-11
    assert np.allclose(to_host(value), reference, atol=close)
    assert np.allclose(to_host(info.stderr), expected.stderr, atol=close)
    assert value.dtype == backend.dtype(dtype)
    real = "float32" if dtype in {"float32", "complex64"} else "float64"
    assert info.stderr.dtype == backend.dtype(real)
    assert np.array_equal(to_host(diagonal(backend(a), **{**options, "rng": info.seed})[0]),
                          to_host(value))  # fmt: skip


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"probes": 5, "max_matvecs": 5}, "one or the other"),
        ({"probes": 1}, "at least probes=2"),
        ({"method": "xdiag", "max_matvecs": 3}, "max_matvecs=4"),
        ({"method": "diag++", "max_matvecs": 3}, "max_matvecs=4"),
        ({"method": "xdiag", "probes": np.ones((N, 2))}, "draws its own vectors"),
        ({"method": "hutchinson", "probes": np.ones((N, 1))}, "at least probes=2"),
        ({"method": "xtrace"}, "expected one of"),
        ({"distribution": "cauchy"}, "expected one of"),
        ({"method": "xdiag"}, "no adjoint product"),
        ({"method": "diag++"}, "no adjoint product"),
    ],
)
def test_refuses(options, text):
    op = aslinearoperator(lambda v: np.cumsum(v), n=N)
    with pytest.raises(ValueError, match=text):
        diagonal(op, **options)


def test_refuses_products_that_are_not_finite():
    with pytest.raises(ValueError, match="NaN"):
        diagonal(aslinearoperator(lambda v: v * np.inf, n=100))
