"""Summaries of a spectrum by one call: against eigenvalues and singular values, at every home."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import specdens
from specdens.arrays.libraries import to_host
from specdens.testing import complete_bipartite, laplacian, with_spectrum

POSITIVE = np.geomspace(0.2, 3, 10)
SHARES = POSITIVE / POSITIVE.sum()

OF_EIGENVALUES = {
    "entropy": (specdens.entropy, -(SHARES * np.log(SHARES)).sum()),
    "renyi_entropy": (lambda a, **o: specdens.renyi_entropy(a, 3, **o),
                      -math.log((SHARES**3).sum()) / 2),
    "effective_rank": (specdens.effective_rank, math.exp(-(SHARES * np.log(SHARES)).sum())),
    "numerical_rank": (specdens.numerical_rank, 10.0),
    "schatten_norm": (lambda a, **o: specdens.schatten_norm(a, 3, **o),
                      (POSITIVE**3).sum() ** (1 / 3)),
    "nuclear_norm": (specdens.nuclear_norm, POSITIVE.sum()),
    "condition_number": (specdens.condition_number, 15.0),
    "estrada_index": (specdens.estrada_index, np.exp(POSITIVE).sum()),
    "heat_trace": (lambda a, **o: specdens.heat_trace(a, 2.0, **o), np.exp(-2 * POSITIVE).sum()),
}  # fmt: skip

NORMS = ("effective_rank", "numerical_rank", "schatten_norm", "nuclear_norm", "condition_number")


def general(shape, rng=0):
    """Return a matrix whose singular values are `POSITIVE`."""
    left, right = (
        np.linalg.qr(np.random.default_rng(rng + i).standard_normal((n, 10)))[0]
        for i, n in enumerate(shape)
    )
    return left * POSITIVE @ right.T


@pytest.mark.parametrize("name", OF_EIGENVALUES)
@pytest.mark.parametrize("dtype", ["float32", "float64", "complex128"])
def test_of_a_hermitian_matrix(backend, name, dtype):
    function, truth = OF_EIGENVALUES[name]
    kind = complex if dtype == "complex128" else float
    a = backend(with_spectrum(POSITIVE, rng=0, dtype=kind), dtype)
    tolerance = 1e-4 if dtype == "float32" else 1e-9
    for options in ({}, {"method": "lanczos", "probes": 10, "moments": 20}):
        value, info = function(a, return_info=True, **options)
        assert value.dtype == backend.dtype("float32" if dtype == "float32" else "float64")
        assert value.shape == ()
        assert float(to_host(value)) == pytest.approx(truth, rel=tolerance)
        assert info.converged


@pytest.mark.parametrize("name", NORMS)
@pytest.mark.parametrize("shape", [(10, 14), (14, 10), (10, 10)], ids=str)
def test_of_any_matrix(backend, name, shape):
    function, truth = OF_EIGENVALUES[name]
    a = backend(general(shape))
    for options in ({}, {"method": "lanczos", "probes": 10, "moments": 20}):
        value, info = function(a, return_info=True, **options)
        assert float(to_host(value)) == pytest.approx(truth, rel=1e-8)
        assert info.method == options.get("method", "exact")


@pytest.mark.parametrize("name", NORMS)
@pytest.mark.parametrize("key", range(3))
def test_sampled_singular_values(name, key, quiet):
    function, truth = OF_EIGENVALUES[name]
    with quiet():
        _, info = function(
            general((70, 90)), method="lanczos", moments=14, rng=key, return_info=True
        )
    # Of 70 singular values 60 are 0.
    truth = math.inf if name == "condition_number" else truth
    if name == "condition_number":
        assert info.value == truth or not info.converged
    else:
        assert abs(info.value - truth) <= 6 * info.stderr + info.bias_bound


def test_an_operator_needs_its_adjoint():
    a = general((40, 40))
    op = specdens.aslinearoperator(lambda v: a @ v, n=40, hermitian=False)
    with pytest.raises(ValueError, match="adjoint"):
        specdens.nuclear_norm(op, method="lanczos", probes=3)


def test_functions_of_eigenvalues_need_them():
    a = general((40, 40))
    for function in (specdens.entropy, specdens.estrada_index):
        with pytest.raises(ValueError, match="not Hermitian"):
            function(a)
    with pytest.raises(ValueError, match="square"):
        specdens.entropy(general((40, 70)))


@settings(max_examples=25, deadline=None)
@given(
    p=st.floats(0.3, 6), scale=st.floats(0.01, 100), entries=st.lists(st.floats(-5, 5), min_size=1)
)
def test_schatten_norms_are_homogeneous_and_fall(p, scale, entries):
    a = np.diag(entries)
    value = float(specdens.schatten_norm(a, p))
    sizes = np.abs(entries)
    assert value == pytest.approx((sizes**p).sum() ** (1 / p), rel=1e-9)
    assert float(specdens.schatten_norm(scale * a, p)) == pytest.approx(scale * value, rel=1e-9)
    assert float(specdens.schatten_norm(a, p + 1)) <= value * (1 + 1e-12)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=12))
def test_effective_ranks_lie_between_one_and_the_rank(values):
    rank = float(specdens.effective_rank(np.diag(values)))
    assert 1 - 1e-9 <= rank <= len(values) * (1 + 1e-9)


def test_frobenius_norm_of_an_explicit_matrix_takes_no_chance():
    a = laplacian(20, 20)
    value, info = specdens.schatten_norm(a, 2, method="lanczos", probes=4, return_info=True)
    assert float(value) == pytest.approx(math.sqrt((a.toarray() ** 2).sum()))
    assert info.stderr < 1e-9 * value


def test_estrada_index_of_a_bipartite_graph():
    a = complete_bipartite(3, 5)
    assert float(specdens.estrada_index(a)) == pytest.approx(6 + 2 * math.cosh(math.sqrt(15)))


def test_heat_trace_of_many_times(backend):
    a = backend(with_spectrum(POSITIVE, rng=0))
    times = np.array([0.0, 0.5, 3.0])
    values, infos = specdens.heat_trace(a, backend(times), return_info=True)
    assert values.dtype == backend.dtype("float64")
    assert to_host(values) == pytest.approx(np.exp(-times[:, None] * POSITIVE).sum(axis=1))
    assert len(infos) == 3
    assert specdens.heat_trace(a, []).shape == (0,)


def test_doubt_is_voiced():
    wide = with_spectrum(np.geomspace(1e-9, 1, 200), rng=0)
    with pytest.warns(specdens.AccuracyWarning, match="inside the spectrum"):
        specdens.condition_number(wide, method="lanczos", rng=0)
    with pytest.warns(specdens.AccuracyWarning, match="both signs"):
        specdens.condition_number(
            with_spectrum(np.linspace(-1, 1.1, 200), rng=0), method="lanczos", rng=0
        )
    with pytest.warns(specdens.AccuracyWarning, match="beyond the range"):
        specdens.estrada_index(np.diag([1.0, 1000.0]))
    with pytest.warns(specdens.AccuracyWarning, match="beyond the range"):
        specdens.heat_trace(np.diag([1.0, 1000.0]), [0.0, -1.0])


@pytest.mark.parametrize("shape", [(0, 0), (0, 3), (3, 0)], ids=str)
def test_of_nothing(shape):
    a = np.zeros(shape)
    assert specdens.nuclear_norm(a) == specdens.numerical_rank(a) == 0
    for function in (specdens.effective_rank, specdens.condition_number):
        with pytest.raises(ValueError, match="empty"):
            function(a)


def test_of_zeros():
    a = np.zeros((3, 4))
    assert specdens.nuclear_norm(a) == specdens.numerical_rank(a) == 0
    assert specdens.condition_number(a) == math.inf
    with pytest.raises(ValueError, match="sum up to 0"):
        specdens.effective_rank(a)


def test_extreme_powers():
    a = np.diag([1.0, 2.0, 4.0])
    assert float(specdens.schatten_norm(a, 1e4)) == pytest.approx(4)
    order = 1e4  # close to min-entropy
    assert float(specdens.renyi_entropy(a, order)) == pytest.approx(math.log(7 / 4), rel=1e-3)
    with pytest.warns(specdens.AccuracyWarning, match="beyond the range"):
        assert specdens.schatten_norm(a, 1e-4) == math.inf


def test_the_same_key_gives_the_same_number():
    a = laplacian(20, 20)
    value, info = specdens.entropy(a, method="lanczos", return_info=True)
    assert specdens.entropy(a, method="lanczos", rng=info.seed) == value
