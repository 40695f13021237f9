"""One matrix in every form that users have, in every precision: always what its eigenvalues say."""

import importlib.util
import math

import array_api_strict
import numpy as np
import pytest
import scipy.sparse as sp
import torch
from hypothesis import given
from hypothesis import strategies as st

from specdens import (
    AccuracyWarning,
    aslinearoperator,
    density,
    logdet,
    slogdet,
    trace,
    trace_function,
)
from specdens.arrays.libraries import to_host
from specdens.testing import with_spectrum
from tests.specdens import naive

pytestmark = pytest.mark.filterwarnings("ignore::specdens.AccuracyWarning")  # not the point


def numpy_operator(a):
    return aslinearoperator(
        lambda v: a @ v, n=len(a), dtype=a.dtype, rmatvec=lambda v: a.conj().T @ v
    )


FORMS = {
    "numpy": lambda a: a,
    "numpy, Fortran order": np.asfortranarray,
    "numpy, a view": lambda a: np.repeat(a, 2, axis=0)[::2],
    "torch": torch.tensor,
    "strict": array_api_strict.asarray,
    "csr": sp.csr_array,
    "coo": sp.coo_array,
    "dia": sp.dia_matrix,
    "torch sparse": lambda a: torch.tensor(a).to_sparse_coo(),
    "SciPy operator": sp.linalg.aslinearoperator,
    "callable": numpy_operator,
}
forms = pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
PRECISIONS = ("float32", "float64", "complex64", "complex128")
FUNCTIONS = naive.FUNCTIONS

examples = given(
    n=st.integers(1, 24),
    seed=st.integers(0, 10_000),
    precision=st.sampled_from(PRECISIONS),
    name=st.sampled_from(sorted(FUNCTIONS)),
)


def example(n, seed, precision):
    """Return eigenvalues in [0.3, 3] and a matrix that has them."""
    rng = np.random.default_rng(seed)
    eigenvalues = rng.uniform(0.3, 3.0, n)
    kind = complex if "complex" in precision else float
    return eigenvalues, with_spectrum(eigenvalues, rng=seed, dtype=kind).astype(precision)


def tolerance(precision, n):
    """Rounding of n products, far below any statistical error."""
    single = precision in {"float32", "complex64"}
    return 100 * (n + 10) * float(np.finfo(np.float32 if single else np.float64).eps)


def number(x):
    return complex(to_host(x)).real


@forms
@examples
def test_exact(form, n, seed, precision, name):
    eigenvalues, a = example(n, seed, precision)
    there, close = form(a), tolerance(precision, n)
    sign, value = slogdet(there, method="exact")
    assert number(sign) == pytest.approx(1)
    assert number(value) == pytest.approx(np.log(eigenvalues).sum(), abs=close)
    assert number(trace(there, method="exact")) == pytest.approx(eigenvalues.sum(), abs=close)
    found = trace_function(there, name, method="exact")
    assert number(found) == pytest.approx(FUNCTIONS[name](eigenvalues).sum(), abs=20 * close)
    rho = density(there, method="exact", moments=30)
    assert rho.integrate(lambda x: x) == pytest.approx(eigenvalues.mean(), abs=close)


@forms
@examples
def test_with_all_unit_vectors_and_all_steps(form, n, seed, precision, name):
    eigenvalues, a = example(n, seed, precision)
    options = {"method": "lanczos", "probes": n, "moments": 2 * n}
    found = trace_function(form(a), name, **options)
    truth = FUNCTIONS[name](eigenvalues).sum()
    assert number(found) == pytest.approx(truth, abs=200 * tolerance(precision, n))


@forms
@pytest.mark.parametrize("how", ["lanczos", "chebyshev"])
@examples
def test_estimates_lie_within_their_errors(form, how, n, seed, precision, name):
    """Six standard errors of five probes' plug-in: a false alarm in no example at all."""
    eigenvalues, a = example(n, seed, precision)
    probes = np.random.default_rng(seed).standard_normal((n, 5))
    home = form(np.eye(1, dtype=a.dtype))
    values = []
    for column in probes.T:
        block = column[:, None].astype(a.dtype)
        if isinstance(home, torch.Tensor):
            block = torch.tensor(block)
        elif hasattr(home, "__array_namespace__") and not isinstance(home, np.ndarray):
            block = array_api_strict.asarray(block)
        values.append(
            trace_function(
                form(a), name, method=how, probes=block, moments=60, bounds=(0.3, 3.0),
                return_info=True,
            )[1]
        )  # fmt: skip
    truth = FUNCTIONS[name](eigenvalues).sum()
    mean = np.mean([float(i) for i in values])
    error = math.sqrt(sum(i.stderr**2 for i in values)) / 5
    bias = max(i.bias_bound for i in values)
    assert abs(mean - truth) <= 6 * error + bias + 200 * tolerance(precision, n)


@forms
@given(n=st.integers(2, 20), seed=st.integers(0, 10_000), precision=st.sampled_from(PRECISIONS))
def test_nonsymmetric(form, n, seed, precision):
    _, a = example(n, seed, precision)
    a = a + np.triu(np.ones((n, n), dtype=a.dtype), 1) / 4
    truth = np.linalg.slogdet(a.astype(np.complex128))
    close = 10 * tolerance(precision, n)
    sign, value = slogdet(form(a), method="exact")
    assert complex(to_host(sign)) == pytest.approx(complex(truth[0]), abs=close)
    assert number(value) == pytest.approx(truth[1], abs=close)
    found = logdet(form(a), method="lanczos", probes=n, moments=2 * n, hermitian=False)
    assert number(found) == pytest.approx(truth[1], abs=200 * close)


if importlib.util.find_spec("cupy") is not None:

    @pytest.mark.gpu
    @pytest.mark.parametrize("how", ["lanczos", "chebyshev"])
    def test_cupy_sparse(how):
        import cupy
        import cupyx.scipy.sparse as cusp

        eigenvalues, a = example(24, 0, "float64")
        there = cusp.csr_matrix(cupy.asarray(a))
        value, info = logdet(there, method=how, bounds=(0.3, 3.0), probes=24, return_info=True)
        assert isinstance(value, cupy.ndarray)
        assert number(value) == pytest.approx(np.log(eigenvalues).sum(), abs=info.bias_bound + 1e-8)


def test_options_of_callables_are_refused_for_arrays():
    with pytest.raises(TypeError, match="n= is for a callable"):
        aslinearoperator(np.eye(3), n=7)


def test_integers_beyond_double_precision_are_named():
    with pytest.warns(AccuracyWarning, match=r"2\*\*53"):
        aslinearoperator(np.array([[2**53 + 2]]))
