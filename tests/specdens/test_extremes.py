"""Numbers at the edges of floating point, graded matrices, and products that are not finite."""

import math

import numpy as np
import pytest
import scipy.sparse as sp
from scipy.sparse.linalg import LinearOperator

import specdens
from specdens.adapters import aslinearoperator

EXACT = {
    "slogdet": lambda op: specdens.slogdet(op, method="exact"),
    "logpdet": lambda op: specdens.logpdet(op, method="exact"),
    "trace_function": lambda op: specdens.trace_function(op, "exp", method="exact"),
    "trace": specdens.trace,
    "density": lambda op: specdens.density(op, method="exact"),
    "local_density": lambda op: specdens.local_density(op, 0, method="exact"),
    "eigencount": lambda op: specdens.eigencount(op, 0, 1, method="exact"),
}


@pytest.mark.parametrize("call", EXACT.values(), ids=EXACT)
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_products_that_are_not_finite_are_an_error_on_the_exact_path(backend, call, value):
    like = backend(np.zeros(1))
    op = aslinearoperator(lambda v: v * 0 + value, n=5, hermitian=True, like=like)
    with pytest.raises(ValueError, match="NaN or infinity"):
        call(op)


def test_nan_inside_a_gram_matrix_or_a_sum_is_an_error():
    with pytest.raises(ValueError, match="NaN"):
        specdens.logdet(specdens.Gram(np.full((2000, 10), np.nan), shift=1e-3))
    with pytest.raises(ValueError, match="NaN"):
        specdens.logdet(specdens.Sum(np.eye(3), specdens.Gram(np.eye(3) * np.nan)))


GRADED = {
    "single": np.array([[1e7, 0, 0], [0, 1, 0.5], [0, -0.5, 1]], dtype=np.float32),
    "double": np.array([[1e20, 0, 0], [0, 2, 1], [0, -1, 2]]),
    "complex": np.array([[1e20, 0, 0], [0, 2, 1j], [0, 1j, 2]]),
}


@pytest.mark.parametrize("name", GRADED)
def test_a_graded_matrix_is_not_symmetric_because_its_largest_entry_is(backend, name, quiet):
    a = GRADED[name]
    sign, value = np.linalg.slogdet(a.astype(np.complex128 if name == "complex" else np.float64))
    forms = [backend(a)]
    if backend.name == "numpy":
        forms.append(sp.csr_array(a))
    if backend.name == "torch":
        forms.append(backend(a).to_sparse())
    for form in forms:
        found, logabsdet = specdens.slogdet(form)
        assert complex(found) == pytest.approx(sign, rel=1e-6)
        assert float(logabsdet) == pytest.approx(value, rel=1e-6)
        with pytest.raises(ValueError, match="not Hermitian"):
            specdens.trace_function(form, "inv")
        with quiet():  # a claim is only checked against the largest entry, but never an error here
            specdens.logdet(form, hermitian=True, method="lanczos", rng=0)


def test_rounding_does_not_make_a_matrix_nonsymmetric():
    rng = np.random.default_rng(0)
    q = np.linalg.qr(rng.standard_normal((60, 60)))[0]
    scales = np.logspace(-8, 8, 60)
    for a in ((q * np.linspace(-1, 1, 60)) @ q.T, (scales[:, None] * q) @ (q.T * scales)):
        noisy = a * (1 + 1e-16 * rng.standard_normal(a.shape))
        assert specdens.preparation.prepare(noisy).hermitian


@pytest.mark.parametrize("entries", [(1e-320, -1.0), (5e-324, -5e-324), (1e308, -1e308)])
def test_lu_at_the_ends_of_the_range(backend, entries):
    sign, value = specdens.slogdet(backend(np.diag(entries)))
    assert float(sign) == -1
    assert float(value) == pytest.approx(sum(math.log(abs(x)) for x in entries))


@pytest.mark.parametrize("power", [-1000, -560, 660, 1000])
@pytest.mark.parametrize("explicit", [True, False], ids=["explicit", "operator"])
def test_nonsymmetric_matrices_of_any_scale(method, power, explicit):
    """Powers of two: the result moves by n log(scale), up to rounding of that number."""
    n, scale = 60, 2.0**power
    a = np.random.default_rng(0).standard_normal((n, n)) / 16 + 2 * np.eye(n)

    def made(factor):
        if explicit:
            return factor * a
        return LinearOperator(
            (n, n), matvec=lambda x: factor * (a @ x), rmatvec=lambda x: factor * (a.T @ x),
            dtype=float,
        )  # fmt: skip

    options = {"method": method, "moments": 40, "probes": 8, "rng": 0}
    expected = specdens.logdet(made(1.0), **options) + n * math.log(scale)
    assert specdens.logdet(made(scale), **options) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("power", [-600, 660])
def test_stderr_of_a_trace_scales_with_the_matrix(backend, power):
    a = np.random.default_rng(0).standard_normal((50, 50))
    options = {"method": "lanczos", "rng": 0, "return_info": True}
    value, info = specdens.trace(backend(a), **options)
    scaled, scaled_info = specdens.trace(backend(a * 2.0**power), **options)
    assert float(scaled) == pytest.approx(float(value) * 2.0**power, rel=1e-12)
    assert scaled_info.stderr == pytest.approx(info.stderr * 2.0**power, rel=1e-12)
