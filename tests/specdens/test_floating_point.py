"""Numbers at the edges of floating point, graded matrices, and products that are not finite."""

import math

import numpy as np
import pytest
import scipy.sparse as sp
from scipy.sparse.linalg import LinearOperator

import specdens
from specdens.operators.aslinearoperator import aslinearoperator

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
        assert specdens.problem.prepare.prepare(noisy).hermitian


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


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_chebyshev_moments_of_a_multiple_of_the_identity(backend, dtype):
    """Up to rounding: the interval then is a point."""
    rng = np.random.default_rng(0)
    q = np.linalg.qr(rng.standard_normal((300, 100)))[0]
    noise = rng.standard_normal((100, 100))
    cases = [
        specdens.Gram(backend(q, dtype)),
        backend(np.linalg.qr(noise)[0], dtype),
        backend(np.eye(100) + 1e-13 * (noise + noise.T), dtype),
    ]
    for a in cases:
        value = specdens.logdet(a, method="chebyshev", rng=0)
        assert abs(float(value)) < (1e-9 if dtype == "float64" else 1e-3)
    for scale in (0.3, 1.0, 7.7):
        a = specdens.Scaled(backend(np.eye(100), dtype), scale)
        assert float(specdens.eigencount(a, scale, scale, method="chebyshev", rng=0)) == 100


def without_adjoint(n):
    return LinearOperator((n, n), matvec=lambda x: 2 * x, dtype=float)


NO_ADJOINT = {
    "logdet": lambda op: specdens.logdet(op, hermitian=False),
    "logpdet": specdens.logpdet,
    "gram": lambda op: specdens.logdet(specdens.Gram(op)),
    "transposed": lambda op: specdens.trace(op.T),
}


@pytest.mark.parametrize("call", NO_ADJOINT.values(), ids=NO_ADJOINT)
def test_a_scipy_operator_without_rmatvec_says_what_is_missing(call):
    with pytest.raises((ValueError, NotImplementedError), match="pass rmatvec="):
        call(without_adjoint(600))


def test_shifts_of_every_kind_of_number(backend):
    a = backend(np.array([[2.0, 1], [1, 3]]))
    for shift in (1, 1.0, np.float32(1), np.array(1.0), True):
        assert float(specdens.logdet(a, shift=shift)) == pytest.approx(math.log(11))
    for shift in (1j, np.complex64(1j), np.complex128(1j)):
        expected = math.log(abs((2 + 1j) * (3 + 1j) - 1))
        for method in ("exact", "lanczos"):
            value = specdens.logdet(a, shift=shift, method=method)
            assert float(value) == pytest.approx(expected, rel=1e-6)


S = np.array([[2.0, 1], [1, 3]])
MISUSE = {
    "shift": lambda: specdens.logdet(S, shift="a"),
    "shift is None": lambda: specdens.logdet(S, shift=None),
    "shift is array": lambda: specdens.logdet(S, shift=np.ones(1)),
    "shift is 1000": lambda: specdens.logdet(S, shift=10**400),
    "shift is 'b'": lambda: specdens.Shifted(S, "b"),
    "needs a real one": lambda: specdens.trace_function(S, "exp", shift=1j),
    "tol is": lambda: specdens.logpdet(S, tol="a"),
    "resolution is": lambda: specdens.density(S, resolution="x"),
    "sites are 'a'": lambda: specdens.local_density(S, "a"),
    "sites are None": lambda: specdens.local_density(S, None),
    "probes is True": lambda: specdens.logdet(S, probes=True, method="lanczos"),
    "hermitian is 'no'": lambda: specdens.logdet(S, hermitian="no"),
    "n is 3.5": lambda: aslinearoperator(lambda v: v, n=3.5),
    "n is '3'": lambda: aslinearoperator(lambda v: v, n="3"),
    "an interval of eigenvalues needs": lambda: specdens.spectral_bounds(np.zeros((0, 0))),
}


@pytest.mark.parametrize("message", MISUSE)
def test_errors_name_the_argument(message):
    with pytest.raises((ValueError, TypeError), match=message):
        MISUSE[message]()


def test_bounds_are_those_of_a_before_a_shift(method, quiet):
    """Of singular values they move by the modulus of the shift at most; of eigenvalues exactly."""
    n, options = 600, {"moments": 60, "rng": 0, "method": method}
    a = np.random.default_rng(0).standard_normal((n, n)) / 40 + 1.5 * np.eye(n)
    values = np.linalg.svd(a, compute_uv=False)
    with quiet():
        _, info = specdens.logdet(
            a, shift=0.5, bounds=(values[-1], values[0]), return_info=True, **options
        )
    assert info.bounds == pytest.approx((max(0.0, values[-1] - 0.5), values[0] + 0.5))
    assert not any("bounds" in flag for flag in info.flags)
    h = (a + a.T) / 2
    energies = np.linalg.eigvalsh(h)
    value, info = specdens.logdet(
        h, shift=2j, bounds=(energies[0], energies[-1]), return_info=True, **options
    )
    assert info.bounds == pytest.approx((abs(energies[0] + 2j), abs(energies[-1] + 2j)))
    assert abs(value - np.log(abs(energies + 2j)).sum()) < 6 * info.stderr + info.bias_bound
    with pytest.raises(ValueError, match="singular values"):
        specdens.logdet(a, bounds=(-5, -1), method=method)


def test_advice_for_an_exact_result_does_not_ask_for_moments():
    with pytest.warns(specdens.AccuracyWarning, match="singular") as found:
        specdens.logdet(np.array([[1, 1], [1, 1 + 1e-16]]) + 1e-15 * np.eye(2))
    assert "moments" not in str(found[0].message)


@pytest.mark.parametrize("count", [1, 5])
def test_an_eigenvector_as_probe_says_that_nothing_tells_its_error(count):
    probes = np.repeat(np.eye(600, 1), count, axis=1)
    with pytest.warns(specdens.AccuracyWarning, match="given probes"):
        specdens.logdet(
            sp.diags_array(np.arange(1.0, 601)), probes=probes, method="lanczos", moments=20
        )
