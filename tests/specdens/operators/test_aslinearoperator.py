"""Precision and memory are chosen where a matrix becomes an operator."""

import numpy as np
import pytest
import scipy.sparse as sp

from specdens import AccuracyWarning, aslinearoperator, density, logdet
from specdens.arrays.libraries import to_host
from specdens.operators.algebra import Counting, Scaled, Shifted
from specdens.operators.gram import Gram
from specdens.testing import laplacian, with_spectrum


@pytest.mark.parametrize("dtype", ["float32", "float64", "complex64", "complex128"])
@pytest.mark.parametrize("wanted", ["float32", "float64"])
def test_products_are_in_the_precision_that_is_asked_for(backend, dtype, wanted):
    a = with_spectrum(np.linspace(1, 2, 20), rng=0, dtype=np.dtype(dtype))
    op = aslinearoperator(backend(a), compute_dtype=wanted)
    expected = {"float32": "complex64", "float64": "complex128"}[wanted]
    assert str(op.dtype).endswith(expected if dtype.startswith("complex") else wanted)
    assert str(logdet(op, method="exact").dtype).endswith(
        "float32" if dtype in ("float32", "complex64") else "float64"
    )
    start = op.xp.ones((20, 2), dtype=op.dtype, device=op.device)
    found, unit = to_host(op.matmat(start)), np.finfo(wanted).eps
    assert np.abs(found - a.astype(complex) @ np.ones((20, 2))).max() < 100 * unit


def test_a_dtype_of_the_own_library():
    torch = pytest.importorskip("torch")
    a = torch.eye(4, dtype=torch.float64)
    assert aslinearoperator(a, compute_dtype=torch.float32).dtype == torch.float32
    assert aslinearoperator(a.to_sparse(), compute_dtype="float32").dtype == torch.float32
    assert aslinearoperator(sp.eye_array(4), compute_dtype=np.float32).dtype == np.float32
    assert aslinearoperator([[1, 2], [3, 4]], compute_dtype=np.float32).dtype == np.float32


def test_nonsense_is_refused():
    a = np.eye(3)
    with pytest.raises(ValueError, match="single or double precision"):
        aslinearoperator(a, compute_dtype="float16")
    with pytest.raises(ValueError, match="A is real"):
        aslinearoperator(a, compute_dtype=np.complex64)
    for operator in (aslinearoperator(a), lambda v: v):
        with pytest.raises(TypeError, match="entries are at hand"):
            aslinearoperator(operator, compute_dtype="float32")
    for wrong, error in ((0, ValueError), (-1, ValueError), (1e9, TypeError), (True, TypeError)):
        with pytest.raises(error, match="max_memory"):
            aslinearoperator(a, max_memory=wrong)


def test_single_precision_says_what_it_does_not_resolve():
    a = with_spectrum(np.geomspace(1e-10, 1, 600), rng=0)
    single = aslinearoperator(a, compute_dtype="float32")
    options = {"method": "lanczos", "moments": 600, "probes": 4, "rng": 0, "return_info": True}
    with pytest.warns(AccuracyWarning, match="single precision"):
        _, info = logdet(single, **options)
    assert not info.converged
    b = with_spectrum(np.geomspace(1e-2, 1, 600), rng=0)
    value, info = logdet(aslinearoperator(b, compute_dtype="float32"), **options)
    double, _ = logdet(b, **options)
    assert info.converged
    assert abs(value - double) < info.bias_bound


def test_a_limit_is_inherited_and_does_not_reach_what_was_given():
    given = aslinearoperator(np.eye(3))
    limited = aslinearoperator(given, max_memory=10**6)
    assert given.max_memory is None
    for op in (limited, Shifted(limited, 1.0), Scaled(limited, 2.0), Gram(limited)):
        assert op.max_memory == Counting(op).max_memory == 10**6


def test_too_little_memory_is_an_error():
    a = sp.csr_array(laplacian(30, 30))
    with pytest.raises(ValueError, match="max_memory is 1000 bytes"):
        density(aslinearoperator(a, max_memory=1000), moments=8, probes=2, method="lanczos")


def test_results_do_not_depend_on_memory():
    a = aslinearoperator(sp.csr_array(laplacian(30, 30)))
    options = {"moments": 20, "probes": 10, "rng": 0, "bounds": (0, 8), "method": "chebyshev"}
    small = aslinearoperator(a, max_memory=4 * 900 * 8)
    np.testing.assert_allclose(
        density(a, **options).moments, density(small, **options).moments, rtol=0, atol=1e-14
    )
