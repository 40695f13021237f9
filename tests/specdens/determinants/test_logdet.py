"""`logdet`, `slogdet`, `logpdet`: what they do with any matrix, row by row."""

import math
import warnings

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from specdens import AccuracyWarning, Gram, aslinearoperator, logdet, logpdet, slogdet
from specdens.arrays.libraries import namespace, to_host
from specdens.operators.algebra import Counting
from specdens.recurrences.lanczos import NotHermitianError
from specdens.testing import (
    laplacian,
    laplacian_eigenvalues,
    rotated,
    with_spectrum,
)

RNG = np.random.default_rng(0)
POSITIVE = with_spectrum(np.linspace(0.5, 3, 40), rng=1)
NONSYMMETRIC = 3 * np.eye(40) + RNG.standard_normal((40, 40)) / math.sqrt(40)
STOCHASTIC = {"moments": 60, "probes": 10, "rng": 0, "return_info": True}


def host(x):
    return complex(to_host(x)) if np.iscomplexobj(to_host(x)) else float(to_host(x))


class TestAnyMatrix:
    """One test for each row of the table of behaviours."""

    def test_empty(self, backend):
        value, info = logdet(backend(np.empty((0, 0))), return_info=True)
        assert host(value) == 0
        assert info.stderr == 0
        assert [host(x) for x in slogdet(backend(np.empty((0, 0))))] == [1, 0]

    @pytest.mark.parametrize("number", [3.0, -3.0, 0.5, 2 - 1j])
    def test_one_by_one(self, backend, number):
        sign, value = slogdet(backend(np.array([[number]])))
        assert host(sign) == pytest.approx(number / abs(number))
        assert host(value) == pytest.approx(math.log(abs(number)))

    def test_one_by_one_operator_costs_one_product(self):
        op = aslinearoperator(lambda v: -3 * v, n=1)
        (sign, value), info = slogdet(op, return_info=True)
        assert (host(sign), host(value)) == (-1, pytest.approx(math.log(3)))
        assert (info.method, info.matvecs) == ("exact", 1)

    def test_zero(self):
        assert logdet(np.zeros((1, 1))) == -math.inf

    def test_singular(self, backend, quiet):
        with quiet():  # without LU in the library, the zero is found up to rounding
            sign, value = slogdet(backend(np.ones((3, 3))))
        assert host(value) == -math.inf
        assert host(sign) == 0

    def test_singular_to_working_precision_is_said(self, quiet):
        x = RNG.standard_normal((20, 12))
        with pytest.warns(AccuracyWarning, match="singular to working precision"):
            assert logdet(x @ x.T) == -math.inf
        with quiet():
            _, info = logdet(x @ x.T, return_info=True)
        assert not info.converged

    def test_singular_by_quadrature(self):
        graph = laplacian(60, boundary="neumann")
        # The graph with its nodes scaled has another null vector than ones.
        scaled = graph.multiply(np.outer(d := 1.0 + np.arange(60) % 3, d)).tocsr()
        with pytest.warns(AccuracyWarning, match="singular to working precision"):
            value = logdet(scaled, method="lanczos", moments=120, probes=3)
        assert value == -math.inf

    def test_negative_definite(self, method):
        bounds = None if method == "lanczos" else (-3.0, -0.5)
        (sign, value), info = slogdet(-POSITIVE, method=method, bounds=bounds, **STOCHASTIC)
        positive, _ = logdet(POSITIVE, method=method, bounds=bounds and (0.5, 3.0), **STOCHASTIC)
        assert value == pytest.approx(positive, rel=1e-9)
        assert math.isnan(sign) if method == "lanczos" else sign == 1
        assert info.converged

    def test_indefinite_exactly(self, backend):
        eigenvalues = np.linspace(-1, 2, 31)
        sign, value = slogdet(backend(with_spectrum(eigenvalues + 0.017, rng=0)))
        assert host(value) == pytest.approx(np.log(np.abs(eigenvalues + 0.017)).sum())
        assert host(sign) == (-1) ** int((eigenvalues < -0.017).sum())

    def test_indefinite_by_quadrature_is_in_doubt_and_has_no_sign(self, method):
        eigenvalues = np.concatenate([np.linspace(-2, -1, 300), np.linspace(1, 2, 300)])
        op = rotated(eigenvalues)
        with pytest.warns(AccuracyWarning, match="both signs"):
            (sign, value), info = slogdet(op, method=method, moments=80, rng=0, return_info=True)
        assert math.isnan(sign)
        assert abs(value - np.log(np.abs(eigenvalues)).sum()) < 6 * info.stderr + info.bias_bound

    def test_a_negative_logdet_stays_negative(self, method, quiet):
        """Others return its modulus, or NaN."""
        op = rotated(np.linspace(0.01, 0.2, 300))
        with quiet():
            assert logdet(op, method=method, rng=0) < -500

    def test_nonsymmetric(self, backend):
        sign, value = slogdet(backend(NONSYMMETRIC))
        truth = np.linalg.slogdet(NONSYMMETRIC)
        assert host(sign) == truth[0]
        assert host(value) == pytest.approx(truth[1])

    def test_nonsymmetric_by_quadrature(self, backend, method, quiet):
        truth = np.linalg.slogdet(NONSYMMETRIC)[1]
        with quiet():
            (sign, value), info = slogdet(
                backend(NONSYMMETRIC), method=method, bounds=(1.5, 4.8), **STOCHASTIC
            )
        assert math.isnan(host(sign))
        assert abs(host(value) - truth) < 5 * info.stderr + info.bias_bound
        assert info.matvecs == 2 * 10 * 30

    def test_complex_hermitian(self, backend, method):
        a = with_spectrum(np.linspace(0.5, 3, 40), rng=1, dtype=complex)
        truth = np.log(np.linspace(0.5, 3, 40)).sum()
        assert host(logdet(backend(a))) == pytest.approx(truth)
        value, info = logdet(backend(a), method=method, bounds=(0.5, 3.0), **STOCHASTIC)
        assert not np.iscomplexobj(to_host(value))
        assert abs(host(value) - truth) < 5 * info.stderr + info.bias_bound

    def test_complex_nonsymmetric(self, backend):
        a = NONSYMMETRIC + 1j * NONSYMMETRIC.T / 3
        truth = np.linalg.slogdet(a)
        sign, value = slogdet(backend(a))
        assert host(sign) == pytest.approx(complex(truth[0]))
        assert host(value) == pytest.approx(truth[1])

    @pytest.mark.parametrize("shape", [(3, 2), (2, 3), (0, 4)])
    def test_rectangular(self, backend, shape):
        with pytest.raises(ValueError, match="logpdet"):
            logdet(backend(np.ones(shape)))

    @pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
    def test_not_finite(self, backend, bad):
        a = np.eye(3)
        a[1, 2] = bad
        with pytest.raises(ValueError, match="NaN or infinity"):
            logdet(backend(a))
        with pytest.raises(ValueError, match="NaN or infinity"):
            logdet(sp.csr_array(a))

    @pytest.mark.filterwarnings("ignore:invalid value")
    def test_a_product_that_is_not_finite(self, method):
        op = aslinearoperator(lambda v: v * np.nan, n=600)
        with pytest.raises(ValueError, match="NaN or infinity"):
            logdet(op, method=method)

    @pytest.mark.parametrize("dtype", ["int8", "uint8", "int32", "int64", "bool"])
    def test_integers(self, backend, dtype):
        a = np.array([[1, 1], [0, 1]]) if dtype == "bool" else np.array([[2, 1], [1, 3]])
        value = logdet(backend(a, dtype))
        assert value.dtype == backend.dtype("float64")
        assert host(value) == pytest.approx(0.0 if dtype == "bool" else math.log(5))

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
    def test_half_precision(self, dtype, method):
        a = torch.tensor([[2.0, 1.0], [1.0, 3.0]], dtype=dtype)
        assert logdet(a).dtype == torch.float64
        assert host(logdet(a)) == pytest.approx(math.log(5))
        value = logdet(a, method=method, bounds=(1.0, 4.0), moments=60, probes=2)
        assert value.dtype == torch.float64
        assert host(value) == pytest.approx(math.log(5), rel=1e-5)

    def test_numpy_half_and_extended_precision(self):
        a = np.array([[2.0, 1.0], [1.0, 3.0]])
        for dtype in (np.float16, np.longdouble, np.clongdouble):
            value = logdet(a.astype(dtype))
            assert value.dtype == np.float64
            assert value == pytest.approx(math.log(5))

    @pytest.mark.parametrize("n", [40, 700])
    def test_single_precision_is_accurate(self, backend, method, n):
        """To rounding in single precision, where sums are taken in double."""
        if n == 700 and backend.name != "numpy":
            n = 100
        eigenvalues = np.linspace(0.5, 3, n)
        a = with_spectrum(eigenvalues, rng=1)
        options = STOCHASTIC | {"method": method, "bounds": (0.4, 3.1)}
        single, _ = logdet(backend(a, "float32"), **options)
        double, _ = logdet(backend(a), **options)
        assert single.dtype == backend.dtype("float32")
        assert abs(host(single) - host(double)) < 20 * n * np.finfo(np.float32).eps
        exact = logdet(backend(a, "float32"))
        assert abs(host(exact) - np.log(eigenvalues).sum()) < n * np.finfo(np.float32).eps

    def test_a_claim_of_symmetry_is_checked_without_a_product(self, method):
        calls = []

        def product(x):
            calls.append(x.shape[1])
            return NONSYMMETRIC @ x

        op = aslinearoperator(lambda v: product(v), n=40, matmat=product, hermitian=True)
        with pytest.raises(NotHermitianError, match="not Hermitian"):
            logdet(op, method=method, bounds=(-10, 10), probes=3, moments=20)
        assert sum(calls) <= 7  # one of them with a vector of ones

    def test_a_claim_about_an_array_is_checked(self):
        with pytest.raises(ValueError, match="hermitian=True"):
            logdet(NONSYMMETRIC, hermitian=True)

    def test_nonsymmetric_callable_small(self):
        truth = np.linalg.slogdet(NONSYMMETRIC)
        op = aslinearoperator(lambda v: NONSYMMETRIC @ v, n=40)
        (sign, value), info = slogdet(op, return_info=True)
        assert (info.method, sign) == ("exact", truth[0])
        assert value == pytest.approx(truth[1])
        (sign, value), _ = slogdet(op, hermitian=False, return_info=True)
        assert value == pytest.approx(truth[1])

    @pytest.mark.parametrize("claim", [None, False])
    def test_nonsymmetric_callable_large_needs_its_adjoint(self, claim):
        op = aslinearoperator(lambda v: 2 * v + np.roll(v, 1), n=2000)
        with pytest.raises(ValueError, match="rmatvec"):
            logdet(op, hermitian=claim)
        whole = aslinearoperator(
            lambda v: 2 * v + np.roll(v, 1), n=2000, rmatvec=lambda v: 2 * v + np.roll(v, -1)
        )
        value, info = logdet(whole, moments=60, rng=0, return_info=True)
        # A circulant: |det| = 2^n - (-1)^n.
        assert abs(value - 2000 * math.log(2)) < 5 * info.stderr + info.bias_bound


@pytest.mark.parametrize("form", ["csr", "csc", "coo", "bsr", "dia", "dok", "lil"])
def test_sparse_of_every_format(form):
    a = laplacian(6, 7).asformat(form)
    truth = np.log(laplacian_eigenvalues(6, 7)).sum()
    value, info = logdet(a, return_info=True)
    assert value == pytest.approx(truth)
    assert (info.method, info.matvecs) == ("exact", 0)
    assert logdet(sp.coo_matrix(a).asformat(form)) == pytest.approx(truth)
    value, info = logdet(a, method="lanczos", **STOCHASTIC)
    assert abs(value - truth) < 5 * info.stderr + info.bias_bound


@pytest.mark.filterwarnings("ignore:Sparse:UserWarning")
def test_torch_sparse():
    a = torch.tensor(laplacian(6, 7).toarray())
    truth = np.log(laplacian_eigenvalues(6, 7)).sum()
    for tensor in (a.to_sparse_coo(), a.to_sparse_csr()):
        assert host(logdet(tensor)) == pytest.approx(truth)
        value, info = logdet(tensor, method="lanczos", **STOCHASTIC)
        assert isinstance(value, torch.Tensor)
        assert abs(host(value) - truth) < 5 * info.stderr + info.bias_bound


def test_a_sparse_matrix_with_too_much_fill_is_estimated():
    a = laplacian(70, 70, 70)
    truth = np.log(laplacian_eigenvalues(70, 70, 70)).sum()
    _, info = logdet(a, moments=120, probes=4, rng=0, return_info=True)
    assert info.method == "lanczos"
    low, high = info.interval(0.999)
    assert low < truth < high


def test_auto_is_exact_where_the_unit_vectors_suffice():
    op = aslinearoperator(lambda v: POSITIVE @ v, n=40, hermitian=True)
    value, info = logdet(op, probes=40, moments=80, return_info=True)
    assert (info.method, info.matvecs) == ("exact", 40)
    assert value == pytest.approx(np.log(np.linspace(0.5, 3, 40)).sum())
    assert logdet(op, probes=39, moments=80, return_info=True)[1].method == "lanczos"


def test_auto_is_exact_for_small_dense_and_not_for_large(monkeypatch):
    assert logdet(POSITIVE, return_info=True)[1].method == "exact"
    monkeypatch.setattr("specdens.exact.factorizations.LARGEST_ON_CPU", 39)
    assert logdet(POSITIVE, return_info=True, rng=0)[1].method == "lanczos"


@pytest.mark.parametrize("shift", [0.7, -5.0, 1 + 2j])
@pytest.mark.parametrize("matrix", [POSITIVE, NONSYMMETRIC], ids=["symmetric", "nonsymmetric"])
def test_shift(backend, shift, matrix):
    truth = np.linalg.slogdet(matrix + shift * np.eye(40))
    sign, value = slogdet(backend(matrix), shift=shift)
    assert host(sign) == pytest.approx(complex(truth[0]))
    assert host(value) == pytest.approx(truth[1])
    sparse = slogdet(sp.csr_array(matrix), shift=shift)
    assert host(sparse[0]) == pytest.approx(complex(truth[0]))
    assert host(sparse[1]) == pytest.approx(truth[1])


def test_shift_by_quadrature(method):
    moved, _ = logdet(POSITIVE, shift=2.0, method=method, bounds=(0.5, 3.0), **STOCHASTIC)
    formed, _ = logdet(POSITIVE + 2 * np.eye(40), method=method, bounds=(2.5, 5.0), **STOCHASTIC)
    assert moved == pytest.approx(formed, rel=1e-10)


@pytest.mark.parametrize("moments", [1, 2, 3, 20, 21])
def test_moments_are_paid_with_half_as_many_products(method, moments, quiet):
    counted = Counting(aslinearoperator(POSITIVE))
    with quiet():
        _, info = logdet(
            counted, moments=moments, probes=7, method=method, bounds=(0.5, 3.0), rng=0,
            hermitian=True, return_info=True,
        )  # fmt: skip
    assert info.matvecs == counted.count
    products = moments // 2 if method == "chebyshev" else -(-moments // 2)
    assert info.matvecs == 7 * products
    assert info.samples == 7


def test_bounds_cost_twenty_products_and_are_counted(quiet):
    op = Counting(rotated(np.linspace(0.5, 3, 200)))
    with quiet():
        _, info = logdet(op, method="chebyshev", probes=3, moments=10, rng=0, return_info=True)
    assert info.matvecs == op.count == 20 + 15


def test_a_seed_repeats_a_result(backend, method, quiet):
    with quiet():
        options = {"method": method, "probes": 6, "return_info": True}
        value, info = logdet(backend(POSITIVE), **options)
        again, _ = logdet(backend(POSITIVE), rng=info.seed, **options)
        other, _ = logdet(backend(POSITIVE), **options)
    assert host(value) == host(again)
    assert host(value) != host(other)


def test_wrong_bounds_are_noticed_and_recovered_from(method):
    truth = np.log(np.linspace(0.5, 3, 40)).sum()
    with pytest.warns(AccuracyWarning, match="not inside the bounds"):
        value, info = logdet(POSITIVE, method=method, bounds=(1.0, 2.0), **STOCHASTIC)
    assert abs(value - truth) < 5 * info.stderr + info.bias_bound
    assert not info.converged


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"method": "slq"}, ValueError, "expected one of"),
        ({"moments": 0}, ValueError, "moments"),
        ({"moments": 2.5}, ValueError, "moments"),
        ({"moments": True}, ValueError, "moments"),
        ({"probes": 0}, ValueError, "probes"),
        ({"bounds": (2, 1)}, ValueError, "low <= high"),
        ({"bounds": 3}, ValueError, "two numbers"),
        ({"bounds": (0, np.inf)}, ValueError, "finite"),
        ({"shift": np.nan}, ValueError, "shift"),
        ({"rng": "seed"}, TypeError, "rng"),
    ],
    ids=str,
)
def test_bad_options(options, error, text):
    with pytest.raises(error, match=text):
        logdet(POSITIVE, **options)


def test_an_operator_of_another_kind():
    with pytest.raises(TypeError, match="expected an array"):
        logdet("matrix.mtx")


def test_gram_bounds_make_the_bias_rigorous():
    x = RNG.standard_normal((900, 60)) * np.geomspace(1, 0.01, 60)
    truth = np.linalg.slogdet(x.T @ x + 0.1 * np.eye(60))[1]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AccuracyWarning)
        value, info = logdet(Gram(x, shift=0.1), moments=10, probes=60, return_info=True)
    assert info.bias_rigorous
    assert info.stderr == 0
    assert info.bias_bound > 0
    assert abs(value - truth) <= info.bias_bound


def test_a_positive_lower_end_makes_the_sign_known():
    sign, _ = slogdet(POSITIVE, method="lanczos", bounds=(0.5, 3.0), rng=0)
    assert sign == 1
    dominant = 5 * np.eye(40) + 0.05 * POSITIVE
    sign, _ = slogdet(dominant, method="lanczos", rng=0, moments=60)
    assert sign == 1  # Gershgorin
    sign, _ = slogdet(-dominant[:39, :39], method="lanczos", rng=0, moments=60)
    assert sign == -1


def test_doubt_is_voiced_with_what_to_do():
    with pytest.warns(AccuracyWarning, match="Raise moments"):
        logdet(rotated(np.geomspace(1e-8, 1, 600)), moments=10)


@pytest.mark.parametrize("shape", [(7, 7), (9, 5), (5, 9)])
@pytest.mark.parametrize("dtype", ["float64", "complex128"])
def test_logpdet_is_the_sum_of_logs_of_singular_values(backend, shape, dtype):
    a = RNG.standard_normal(shape).astype(dtype)
    truth = np.log(np.linalg.svd(a, compute_uv=False)).sum()
    value, info = logpdet(backend(a), return_info=True)
    assert host(value) == pytest.approx(truth)
    assert info.rank == min(shape)
    found, info = logpdet(backend(a), method="lanczos", moments=30, probes=9, return_info=True)
    assert host(found) == pytest.approx(truth)
    assert info.rank == pytest.approx(min(shape))


def test_logpdet_of_a_laplacian_counts_spanning_trees():
    n = 9  # Cayley: n^(n-2) trees, pseudo-determinant n times as many
    complete = n * np.eye(n) - np.ones((n, n))
    value, info = logpdet(complete, return_info=True)
    assert value == pytest.approx((n - 1) * math.log(n))
    assert info.rank == n - 1


def test_logpdet_tolerance():
    a = np.diag([4.0, 2.0, 1e-3, 0.0])
    assert logpdet(a) == pytest.approx(math.log(8e-3))
    value, info = logpdet(a, tol=0.01, return_info=True)
    assert (value, info.rank) == (pytest.approx(math.log(8)), 2)


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (0, 0)])
def test_logpdet_of_nothing(shape):
    value, info = logpdet(np.empty(shape), return_info=True)
    assert (value, info.rank) == (0, 0)


def test_logpdet_of_an_operator():
    a = RNG.standard_normal((300, 200))
    op = sp.linalg.aslinearoperator(a)
    truth = np.log(np.linalg.svd(a, compute_uv=False)).sum()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AccuracyWarning)
        value, info = logpdet(op, moments=60, probes=20, rng=0, return_info=True)
    assert info.method == "lanczos"
    assert abs(value - truth) < 5 * info.stderr + info.bias_bound


@pytest.mark.parametrize("options", [{"tol": -1.0}, {"tol": np.nan}, {"method": "chebyshev"}])
def test_logpdet_bad_options(options):
    with pytest.raises(ValueError, match=r"tol|chebyshev"):
        logpdet(np.eye(3), **options)


def test_results_are_0d_values_of_their_library(backend):
    value = logdet(backend(np.eye(3)))
    assert value.ndim == 0
    assert namespace(value) is backend.xp
    assert float(value) == 0
