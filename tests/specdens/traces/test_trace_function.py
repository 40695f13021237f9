"""Traces of functions, against all eigenvalues; domains; brackets."""

import math

import numpy as np
import pytest
import scipy.sparse as sp

import specdens
from specdens import AccuracyWarning, Gram, aslinearoperator, trace, trace_function
from specdens.arrays.libraries import to_host
from specdens.testing import laplacian, rotated, with_spectrum
from tests.specdens import naive

EIGENVALUES = np.linspace(0.4, 3, 40)
A = with_spectrum(EIGENVALUES, rng=1)
F = naive.FUNCTIONS


def host(x):
    return to_host(x).item()


@pytest.mark.parametrize("name", F)
def test_exact(backend, name):
    truth = F[name](EIGENVALUES).sum()
    value, info = trace_function(backend(A), name, return_info=True)
    assert host(value) == pytest.approx(truth)
    assert (info.method, info.matvecs, info.stderr) == ("exact", 0, 0)
    assert host(trace_function(backend(A), F[name])) == pytest.approx(truth)
    assert trace_function(sp.csr_array(A), name) == pytest.approx(truth)


@pytest.mark.parametrize("name", F)
@pytest.mark.parametrize("dtype", ["float64", "complex128"])
def test_with_all_unit_vectors_quadrature_is_exact(backend, method, name, dtype):
    a = with_spectrum(EIGENVALUES, rng=1, dtype=np.dtype(dtype))
    moments = 80 if method == "lanczos" else 200
    value, info = trace_function(
        backend(a), name, method=method, probes=40, moments=moments, bounds=(0.4, 3.0),
        return_info=True,
    )  # fmt: skip
    assert info.stderr == 0
    assert host(value) == pytest.approx(F[name](EIGENVALUES).sum(), rel=1e-9)


@pytest.mark.parametrize("name", F)
def test_estimates_lie_within_their_errors(backend, method, name):
    truth = F[name](EIGENVALUES).sum()
    value, info = trace_function(
        backend(A), name, method=method, probes=12, moments=40, bounds=(0.4, 3.0), rng=3,
        return_info=True,
    )  # fmt: skip
    assert info.bias_rigorous
    assert abs(host(value) - truth) < 5 * info.stderr + info.bias_bound


@pytest.mark.parametrize("name", ["log", "exp", "inv", "sqrt", "xlogx"])
@pytest.mark.parametrize("moments", [4, 8, 16])
def test_brackets_hold_at_any_degree(name, moments, quiet):
    truth = F[name](EIGENVALUES).sum()
    options = {"method": "lanczos", "probes": 40, "moments": moments, "return_info": True}
    with quiet():
        value, info = trace_function(A, name, bounds=(0.4, 3.0), **options)
        assert info.bias_rigorous
        assert info.stderr == 0
        assert abs(value - truth) <= info.bias_bound
        assert info.bias_bound < 0.2 * abs(truth)
        # Of a Gram matrix the lower end is known without a word.
        if name != "exp":
            root = np.linalg.cholesky(A - 0.35 * np.eye(40)).T
            value, info = trace_function(Gram(root, shift=0.35), name, **options)
            assert info.bias_rigorous
            assert abs(value - truth) <= info.bias_bound


@pytest.mark.parametrize("moments", [6, 10, 20, 40])
def test_chebyshev_tail_holds(moments, quiet):
    for name, f in F.items():
        with quiet():
            value, info = trace_function(
                A, name, method="chebyshev", probes=40, moments=moments, bounds=(0.4, 3.0),
                return_info=True,
            )  # fmt: skip
        assert abs(value - f(EIGENVALUES).sum()) <= info.bias_bound + 1e-9
        assert info.bias_rigorous


def test_a_resolvent_is_complex(backend, method):
    z = 1.7 + 0.5j

    def resolvent(x):
        return 1 / (x - z)

    truth = resolvent(EIGENVALUES).sum()
    assert host(trace_function(backend(A), resolvent)) == pytest.approx(truth)
    value, info = trace_function(
        backend(A), resolvent, method=method, probes=40, moments=80, bounds=(0.4, 3.0),
        return_info=True,
    )  # fmt: skip
    assert host(value) == pytest.approx(truth, rel=1e-5)
    with pytest.raises(TypeError, match="complex"):
        info.interval()


@pytest.mark.parametrize("name", ["log", "sqrt", "xlogx"])
@pytest.mark.parametrize("how", ["exact", "lanczos", "chebyshev"])
def test_functions_of_positive_numbers_refuse_negative_eigenvalues(backend, name, how):
    with pytest.raises(ValueError, match="logdet"):
        trace_function(backend(A - np.eye(40)), name, method=how, rng=0)


def test_zero_eigenvalues():
    a = np.diag([0.0, 1.0, 4.0])
    assert trace_function(a, "log") == -math.inf
    assert trace_function(a, "inv") == math.inf
    assert trace_function(a, "sqrt") == 3
    assert trace_function(a, "xlogx") == pytest.approx(4 * math.log(4))
    low_rank = np.random.default_rng(0).standard_normal((20, 8))
    with pytest.warns(AccuracyWarning, match="singular"):
        assert trace_function(low_rank @ low_rank.T, "log") == -math.inf
    assert np.isfinite(trace_function(low_rank @ low_rank.T, "sqrt"))


def test_inverse_of_an_indefinite_matrix():
    eigenvalues = np.linspace(-2, 3, 40)
    a = with_spectrum(eigenvalues, rng=0)
    truth = (1 / eigenvalues).sum()
    assert trace_function(a, "inv") == pytest.approx(truth)
    with pytest.warns(AccuracyWarning, match="both signs"):
        trace_function(a, "inv", method="lanczos", rng=0)
    with pytest.raises(ValueError, match="pole"):
        trace_function(a, "inv", method="chebyshev", rng=0)


def test_only_hermitian(backend):
    a = np.array([[1.0, 2.0], [0.0, 1.0]])
    with pytest.raises(ValueError, match="not Hermitian"):
        trace_function(backend(a), "exp")


@pytest.mark.parametrize(
    ("f", "error", "text"),
    [
        ("cosh", ValueError, "expected one of"),
        (3, TypeError, "callable"),
        (lambda x: x[:1], ValueError, "vectorised"),
        (lambda x: np.log(x - 1), ValueError, "not finite"),
    ],
    ids=["name", "number", "shape", "domain"],
)
@pytest.mark.parametrize("how", ["exact", "lanczos", "chebyshev"])
def test_bad_functions(f, error, text, how):
    with pytest.raises(error, match=text):
        trace_function(A, f, method=how, bounds=(0.4, 3.0))


def test_empty():
    assert trace_function(np.empty((0, 0)), "exp") == 0


def test_one_step_says_nothing_of_truncation():
    with pytest.warns(AccuracyWarning):
        _, info = trace_function(rotated(EIGENVALUES), "exp", moments=2, return_info=True)
    assert info.bias_bound == math.inf
    assert not info.converged


def test_square_needs_four_moments_only():
    op = rotated(np.linspace(0, 1, 500))
    value, info = trace_function(op, "square", moments=4, probes=500, return_info=True)
    assert value == pytest.approx((np.linspace(0, 1, 500) ** 2).sum())
    assert info.converged


@pytest.mark.parametrize("count", [1, 2, 3])
def test_with_few_probes_the_variance_comes_from_the_spectrum(method, count):
    """The plug-in is the standard deviation of a probe on the sphere, or more."""
    op = rotated(EIGENVALUES.repeat(10))
    sizes = [
        trace_function(
            op, "log", method=method, probes=count, moments=40, bounds=(0.4, 3.0), rng=seed,
            return_info=True,
        )[1].stderr
        for seed in range(10)
    ]  # fmt: skip
    n, logs = 400, np.log(EIGENVALUES.repeat(10))
    expected = n * math.sqrt(2 * logs.var() / (n + 2) / count)
    assert min(sizes) > 0.9 * expected
    if count == 1:
        assert max(sizes) < 1.15 * expected


class TestTrace:
    def test_of_arrays_is_the_sum_of_the_diagonal(self, backend):
        a = np.random.default_rng(0).standard_normal((5, 5))
        value, info = trace(backend(a), return_info=True)
        assert host(value) == pytest.approx(np.trace(a))
        assert (info.method, info.matvecs) == ("exact", 0)
        assert host(trace(backend(a + 1j * a.T))) == pytest.approx(np.trace(a) * (1 + 1j))

    def test_of_sparse(self):
        assert trace(laplacian(5, 5)) == 100
        assert trace(sp.coo_array((5, 5))) == 0

    def test_keeps_complex_even_where_real(self, backend):
        value = trace(backend(np.eye(3, dtype=complex)))
        assert value.dtype == backend.dtype("complex128")

    @pytest.mark.parametrize("dtype", ["float64", "complex128"])
    def test_of_an_operator(self, backend, dtype):
        a = np.random.default_rng(1).standard_normal((60, 60))
        a = a if dtype == "float64" else a + 1j * a[::-1]
        there = backend(a)
        op = aslinearoperator(lambda v: there @ v, n=60, matmat=lambda x: there @ x, like=there)
        value, info = trace(op, probes=30, rng=0, return_info=True)
        assert (info.method, info.matvecs, info.samples) == ("hutchinson", 30, 30)
        assert abs(host(value) - np.trace(a)) < 5 * info.stderr
        exact, info = trace(op, method="exact", return_info=True)
        assert host(exact) == pytest.approx(np.trace(a))
        assert info.matvecs == 60
        assert host(trace(op, probes=60)) == pytest.approx(np.trace(a))

    def test_both_recurrences_begin_with_the_same_product(self, backend):
        there = backend(A)
        values = [host(trace(there, method=m, probes=5, rng=4)) for m in ("lanczos", "chebyshev")]
        assert values[0] == values[1]

    def test_one_probe_has_an_error_bar(self):
        _, info = trace(A, method="lanczos", probes=1, rng=0, return_info=True)
        assert info.stderr > 0

    def test_bad_input(self):
        with pytest.raises(ValueError, match="square"):
            trace(np.ones((2, 3)))
        with pytest.raises(ValueError, match="NaN"):
            trace(np.full((2, 2), np.nan))
        with pytest.raises(ValueError, match="NaN"):
            trace(aslinearoperator(lambda v: v * np.inf, n=100), rng=0)
        with pytest.raises(ValueError, match="expected one of"):
            trace(np.eye(2), method="girard")

    def test_empty(self):
        assert trace(np.empty((0, 0))) == 0


def test_functions_that_work_in_place_or_in_a_buffer():
    A = laplacian(12, 12) + np.eye(144)
    exact = np.exp(np.linalg.eigvalsh(A)).sum()
    buffer = np.empty(144)

    def reuses(x):
        return np.exp(x, out=buffer[: x.size].reshape(x.shape))

    for f in (lambda x: np.exp(x, out=x), reuses):
        assert float(trace_function(A, f)) == pytest.approx(exact, rel=1e-12)
        lanczos = trace_function(A, f, method="lanczos", probes=144, moments=100)
        assert float(lanczos) == pytest.approx(exact, rel=1e-8)


@pytest.mark.filterwarnings("ignore::specdens.AccuracyWarning")  # sqrt of noise is large
@pytest.mark.parametrize("n", [40, 200])
def test_semidefinite_matrices_in_single_precision(backend, n):
    """Rounding of the entries puts eigenvalues below 0, where these functions are not defined."""
    x = np.random.default_rng(0).standard_normal((n, 5)).astype(np.float32)
    squares = np.linalg.svd(x.astype(float), compute_uv=False) ** 2
    a = backend(x @ x.T, "float32")
    for f, truth in {"sqrt": np.sqrt(squares), "xlogx": squares * np.log(squares)}.items():
        value, info = trace_function(a, f, return_info=True)
        assert abs(float(value) - truth.sum()) <= info.bias_bound + 1e-5 * truth.sum()
    assert float(specdens.nuclear_norm(a)) == pytest.approx(squares.sum(), rel=1e-4)
    assert float(specdens.effective_rank(a)) == pytest.approx(
        float(specdens.effective_rank(x.astype(float) @ x.astype(float).T)), rel=1e-3
    )
    stack = trace_function(backend(np.stack([x @ x.T] * 2), "float32"), "sqrt")
    assert np.allclose(to_host(stack), np.sqrt(squares).sum(), rtol=2e-2)
    with pytest.warns(AccuracyWarning, match="singular"):
        assert trace_function(a, "log") == -np.inf
