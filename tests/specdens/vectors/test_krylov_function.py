"""Functions of a matrix times vectors, against all eigenvectors; their error estimates."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import specdens.vectors.krylov_function as engine
from specdens import aslinearoperator
from specdens.arrays.libraries import to_host
from specdens.results import SpectralBounds
from specdens.scalar_functions import NAMED, scalar_function
from specdens.testing import rotated, with_spectrum
from specdens.vectors.krylov_function import function_times
from tests.specdens import naive

F = naive.FUNCTIONS
EIGENVALUES = np.linspace(0.4, 3, 14)
DTYPES = ["float64", "complex128"]
RNG = np.random.default_rng(8)


def vectors(n, count, dtype="float64"):
    rng = np.random.default_rng(0)
    b = rng.standard_normal((n, count))
    return b + 1j * rng.standard_normal((n, count)) if dtype == "complex128" else b


@pytest.mark.parametrize("name", F)
@pytest.mark.parametrize("dtype", DTYPES)
def test_all_steps_are_exact(backend, name, dtype):
    a = with_spectrum(EIGENVALUES, rng=1, dtype=np.dtype(dtype))
    b = vectors(14, 3, dtype)
    found, error = function_times(
        aslinearoperator(backend(a)), scalar_function(name), backend(b), 14
    )
    assert np.allclose(to_host(found), naive.function_times(a, F[name], b), rtol=1e-11, atol=1e-11)
    assert error.shape == (3,)
    assert np.all(error < 1e-10)


@pytest.mark.parametrize("name", ["log", "square"])
@pytest.mark.parametrize("dtype", ["float32", "complex64"])
def test_single_precision(backend, name, dtype):
    a = with_spectrum(EIGENVALUES, rng=1, dtype=np.dtype(dtype))
    b = vectors(14, 2, "complex128" if "c" in dtype else "float64").astype(dtype)
    found, error = function_times(
        aslinearoperator(backend(a)), scalar_function(name), backend(b), 14
    )
    assert str(found.dtype).endswith(dtype)
    off = np.linalg.norm(
        to_host(found) - naive.function_times(a.astype(np.complex128), F[name], b), axis=0
    )
    assert np.all(off < error)
    assert np.all(error < 1e-2)


@pytest.mark.parametrize("steps", [1, 3, 8, 20])
def test_polynomials_of_lower_degree_are_exact(steps):
    a = with_spectrum(EIGENVALUES, rng=1)
    b = vectors(14, 2)
    f = scalar_function(lambda x: x ** (steps - 1))
    found, _ = function_times(aslinearoperator(a), f, b, steps)
    assert np.allclose(found, np.linalg.matrix_power(a, steps - 1) @ b, rtol=1e-9)


@given(n=st.integers(1, 25), distinct=st.integers(1, 5), seed=st.integers(0, 99))
def test_an_invariant_subspace_is_exact(n, distinct, seed):
    a = with_spectrum(np.arange(1.0, distinct + 1)[np.arange(n) % distinct], rng=seed)
    b = np.random.default_rng(seed).standard_normal((n, 2))
    found, error = function_times(aslinearoperator(a), NAMED["log"], b, distinct)
    assert np.allclose(found, naive.function_times(a, np.log, b), atol=1e-9)
    assert np.all(error < 1e-9)


def test_zero_columns_stay_zero(backend):
    a = with_spectrum(EIGENVALUES, rng=1)
    b = vectors(14, 3)
    b[:, 1] = 0
    found, error = function_times(aslinearoperator(backend(a)), NAMED["log"], backend(b), 20)
    found = to_host(found)
    assert np.all(found[:, 1] == 0)
    assert error[1] == 0
    assert np.allclose(found[:, [0, 2]], naive.function_times(a, np.log, b[:, [0, 2]]), atol=1e-6)


def test_a_complex_block_of_a_real_matrix(backend):
    a = with_spectrum(EIGENVALUES, rng=1)
    b = vectors(14, 2, "complex128")
    found, _ = function_times(aslinearoperator(backend(a)), NAMED["inv"], backend(b), 14)
    assert np.allclose(to_host(found), np.linalg.solve(a, b))


def test_a_complex_function_of_a_real_matrix(backend):
    a, b = with_spectrum(EIGENVALUES, rng=1), vectors(14, 2)
    resolvent = scalar_function(lambda x: 1 / (x - 1 - 1j))
    found, _ = function_times(aslinearoperator(backend(a)), resolvent, backend(b), 14)
    assert np.allclose(to_host(found), np.linalg.solve(a - (1 + 1j) * np.eye(14), b))


@pytest.mark.parametrize("n", [40, 600])
def test_a_second_pass_gives_the_same(monkeypatch, n):
    op = rotated(np.linspace(0.1, 4, n))
    b = vectors(n, 3)
    kept, error = function_times(op, NAMED["sqrt"], b, 14)
    monkeypatch.setattr(engine, "BASIS_BYTES", 10 * b.nbytes)
    made_again, second_error = function_times(op, NAMED["sqrt"], b, 14)
    assert np.array_equal(kept, made_again)
    assert np.array_equal(error, second_error)


SPECTRA = {
    "flat": np.linspace(0.1, 4, 700),
    "near zero": np.linspace(1e-3, 1, 700),
    "decay": 1 / np.arange(1, 701),
    "clusters": np.repeat([0.1, 1.0, 5.0], [10, 400, 290]) + np.linspace(0, 0.01, 700),
    "outliers": np.concatenate([np.linspace(1, 2, 690), np.linspace(20, 100, 10)]),
    "geometric": np.geomspace(1e-4, 1, 700),
}


@pytest.mark.parametrize("spectrum", SPECTRA)
@pytest.mark.parametrize("name", ["log", "exp", "inv", "sqrt", "own"])
def test_errors_are_not_optimistic(spectrum, name):
    x = SPECTRA[spectrum]
    f = scalar_function(F["log"] if name == "own" else name)
    b = vectors(700, 2)
    exact = rotated(F["log" if name == "own" else name](x)) @ b
    for steps in (10, 20, 40, 80):
        found, error = function_times(rotated(x), f, b, steps)
        assert np.all(np.linalg.norm(found - exact, axis=0) <= error)


@pytest.mark.parametrize("spectrum", SPECTRA)
@pytest.mark.parametrize("name", ["log", "exp", "inv", "sqrt", "xlogx"])
def test_bounds_hold(spectrum, name):
    x = SPECTRA[spectrum]
    b = vectors(700, 2)
    exact = rotated(F[name](x)) @ b
    known = SpectralBounds(x.min(), x.max(), True, True, "spectrum")
    for steps in (5, 10, 20, 40, 80):
        found = engine.lanczos_times(rotated(x), NAMED[name], b, steps, known=known)
        assert found.rigorous
        off = np.linalg.norm(found.block - exact, axis=0)
        assert np.all(off <= found.error)
