"""What is Hermitian beyond doubt is never refused, however large its rounding."""

import numpy as np
import pytest

import specdens
from specdens import Gram, Kronecker, Scaled, Shifted, Sum, aslinearoperator
from specdens.operators.hermitian import is_surely_hermitian

RNG = np.random.default_rng(0)
X = RNG.standard_normal((9, 5))
SYMMETRIC = X @ X.T
CLAIMED = aslinearoperator(lambda v: SYMMETRIC @ v, n=9, hermitian=True)


@pytest.mark.parametrize(
    "op",
    [
        SYMMETRIC,
        Gram(X),
        Shifted(SYMMETRIC, 2.0),
        Scaled(SYMMETRIC, -1.0),
        Sum(SYMMETRIC, Shifted(Gram(X.T), 1.0)),
        Kronecker(SYMMETRIC, np.eye(2)),
    ],
    ids=lambda op: type(op).__name__,
)
def test_by_entries_or_construction(op):
    assert is_surely_hermitian(aslinearoperator(op))


@pytest.mark.parametrize(
    "op", [CLAIMED, Shifted(CLAIMED, 1.0), Sum(SYMMETRIC, CLAIMED), Scaled(SYMMETRIC, 1j), X[:5]]
)
def test_not_by_a_claim(op):
    assert not is_surely_hermitian(aslinearoperator(op))


@pytest.mark.filterwarnings("ignore::specdens.AccuracyWarning")
@pytest.mark.parametrize("noise", [1e-2, 1e-4, 1e-6, 1e-9])
@pytest.mark.parametrize("power", [1, 2])
@pytest.mark.parametrize("f", ["log", "inv", "log|x|"])
def test_kernels_are_answered(noise, power, f):
    """Gaussian and exponential kernels, as a matrix and by products: within the interval."""
    x = np.linspace(0, 1, 300)
    kernel = np.exp(-0.5 * (np.abs(x[:, None] - x) / 0.1) ** power) + noise * np.eye(300)
    eigenvalues = np.linalg.eigvalsh(kernel)
    truth = (1 / eigenvalues if f == "inv" else np.log(eigenvalues)).sum()
    operator = aslinearoperator(lambda v: kernel @ v, n=300, hermitian=True)
    for A in (kernel, operator):
        args = (A,) if f == "log|x|" else (A, f)
        call = specdens.logdet if f == "log|x|" else specdens.trace_function
        options = {"rtol": 1e-2, "max_matvecs": 250, "method": "lanczos", "rng": 0}
        _, info = call(*args, return_info=True, **options)
        low, high = info.interval(0.999)
        assert not info.converged or low <= truth <= high
