"""Exact moments as control variates: exact where they should be, unbiased, and never blindly."""

import math
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.polynomial import chebyshev

from specdens import (
    AccuracyWarning,
    Gram,
    Scaled,
    Shifted,
    Sum,
    aslinearoperator,
    density,
    logdet,
    trace,
    trace_function,
)
from specdens.estimation.control_variates import controlled, controlled_table, known_chebyshev
from specdens.operators.power_traces import PowerTraces
from specdens.recurrences.quadrature import Rule
from specdens.testing import laplacian, laplacian_eigenvalues, rotated, with_spectrum


def dense_traces(op, count=2):
    a = np.asarray(op.columns())
    return [np.trace(np.linalg.matrix_power(a, k)).real for k in range(1, count + 1)]


@pytest.mark.parametrize("dtype", [float, complex], ids=["real", "complex"])
def test_power_traces_are_traces_of_powers(dtype):
    a = with_spectrum(np.linspace(-1, 2, 30), rng=1, dtype=dtype)
    for op in (
        aslinearoperator(a),
        Shifted(a, 0.7),
        Scaled(a, -1.5),
        Shifted(Scaled(a, 2.0), -0.3),
    ):
        np.testing.assert_allclose(op.power_traces(), dense_traces(op), rtol=1e-12)
    assert Sum(a, a).power_traces() == pytest.approx(dense_traces(Sum(a, a), 1))


def test_sparse_matrices_tell_four():
    op = aslinearoperator(laplacian(4, 5, 6))
    np.testing.assert_allclose(op.power_traces(), dense_traces(op, 4), rtol=1e-13)
    shifted = Shifted(op, 0.2)
    np.testing.assert_allclose(shifted.power_traces(), dense_traces(shifted, 4), rtol=1e-13)


def test_complex_sparse_matrices_tell_four():
    from scipy.sparse import csr_array

    rng = np.random.default_rng(0)
    a = np.where(rng.random((40, 40)) < 0.1, rng.standard_normal((40, 40)) + 1j, 0)
    op = aslinearoperator(csr_array(a + a.conj().T))
    np.testing.assert_allclose(op.power_traces(), dense_traces(op, 4), rtol=1e-12)


@pytest.mark.parametrize("center", ["none", "features", "samples"])
def test_a_gram_matrix_knows_its_trace(backend, center):
    x = backend(np.random.default_rng(0).standard_normal((7, 5)))
    op = Gram(x, shift=0.5, center=center)
    expected = Gram(np.random.default_rng(0).standard_normal((7, 5)), shift=0.5, center=center)
    assert op.power_traces()[0] == pytest.approx(np.trace(expected.columns()))


@settings(max_examples=25, deadline=None)
@given(st.lists(st.floats(-2, 2), min_size=3, max_size=3), st.integers(0, 2**32))
def test_quadratic_functions_have_no_error(coefficients, key):
    """Whatever the probes: tr p(A) is known."""
    eigenvalues = np.linspace(-1, 3, 80)
    a = with_spectrum(eigenvalues, rng=3)
    p = np.polynomial.Polynomial(coefficients)
    options = {"moments": 6, "probes": 3, "rng": key, "return_info": True}
    for method in ("lanczos", "chebyshev"):
        value, info = trace_function(a, p, method=method, **options)
        assert float(value) == pytest.approx(p(eigenvalues).sum(), abs=1e-9)
        assert info.stderr <= 1e-5


def test_the_error_falls(method):
    """On a flat spectrum a quadratic explains nearly all of log."""
    eigenvalues = np.linspace(0.3, 3, 400)
    free = rotated(eigenvalues)
    facts = {"trace": eigenvalues.sum(), "frobenius_squared": (eigenvalues**2).sum()}
    known = aslinearoperator(free.matmat, matmat=free.matmat, n=400, hermitian=True, **facts)
    options = {"method": method, "moments": 40, "bounds": (0.3, 3.0)}
    truth = np.log(eigenvalues).sum()
    errors = np.array([
        [float(logdet(op, rng=s, **options)) - truth for op in (free, known)] for s in range(40)
    ])
    plain, ours = np.sqrt(np.mean(errors**2, axis=0))
    assert ours < plain / 3


def test_each_probe_is_corrected_by_the_others():
    """The fit for a probe does not see it, which is what keeps the mean unbiased."""
    rng = np.random.default_rng(0)
    rules = []
    for _ in range(4):
        nodes = np.sort(rng.uniform(0.5, 2, 6))
        weights = rng.random(6)
        rules.append(Rule(nodes, weights / weights.sum()))
    y = [np.log(rule.nodes) for rule in rules]
    values = np.array([rule.integrate(v) for rule, v in zip(rules, y, strict=True)])
    first, second = (np.mean([r.weights @ r.nodes**k for r in rules]) + 0.01 for k in (1, 2))
    known = PowerTraces.about_zero((100 * first, 100 * second), 100.0)
    found = controlled(values, rules, y, known)
    for i in range(4):
        x = np.concatenate([r.nodes for j, r in enumerate(rules) if j != i])
        w = np.concatenate([r.weights for j, r in enumerate(rules) if j != i])
        c = np.polynomial.Polynomial.fit(x, np.log(x), 2, w=np.sqrt(w)).convert().coef
        exact = c @ [1, first, second]
        own = rules[i].weights @ (y[i] - np.polynomial.Polynomial(c)(rules[i].nodes))
        assert found.values[i] == pytest.approx(exact + own, rel=1e-9)


def test_fluctuating_masses_are_corrected_too():
    rules = [Rule(np.array([1.0, 2.0]), np.array([0.5, 0.5]))] * 3
    y = [np.array([5.0, 5.0])] * 3
    ratios = np.array([0.9, 1.0, 1.1])
    found = controlled(np.full(3, 5.0), rules, y, PowerTraces.about_zero((), 10.0), ratios)
    np.testing.assert_allclose(found.values, 5.0)


def test_known_chebyshev_moments():
    eigenvalues = np.linspace(0.2, 1.9, 50)
    traces = PowerTraces.about_zero(tuple((eigenvalues**k).sum() for k in range(1, 5)), 50)
    found = known_chebyshev(traces, 0.0, 2.0, 10)
    expected = [chebyshev.chebval(eigenvalues - 1, np.eye(5)[k]).mean() for k in range(5)]
    np.testing.assert_allclose(found, expected, atol=1e-12)
    assert len(known_chebyshev(traces, 0.0, 2.0, 2)) == 2


def test_a_corrected_table_has_the_known_moments():
    rng = np.random.default_rng(1)
    theta = np.arccos(rng.uniform(-1, 1, (200, 5)))
    table = np.stack([np.cos(k * theta).mean(axis=0) for k in range(12)])
    exact = np.array([1.0, 0.03, -0.4])
    found = controlled_table(table, exact)
    np.testing.assert_allclose(found[:3], np.repeat(exact[:, None], 5, axis=1), atol=1e-12)


def test_a_density_has_the_exact_mean_and_variance():
    a = laplacian(30, 30)
    rho = density(a, method="chebyshev", rng=0, probes=3)
    eigenvalues = laplacian_eigenvalues(30, 30)
    assert rho.integrate(lambda x: x**2) == pytest.approx(np.mean(eigenvalues**2), rel=1e-10)
    assert rho.integral_stderr(lambda x: x**4) < 1e-10


def test_a_wrong_trace_is_noticed():
    op = rotated(np.linspace(1, 2, 300))
    wrong = aslinearoperator(op.matmat, matmat=op.matmat, n=300, hermitian=True, trace=400.0)
    with pytest.warns(AccuracyWarning, match="contradict"):
        _, info = logdet(wrong, rng=0, return_info=True)
    assert not info.converged


def test_stated_facts_are_checked():
    with pytest.raises(ValueError, match="trace is nan"):
        aslinearoperator(lambda v: v, n=3, trace=math.nan)


def test_an_object_may_state_them():
    class Operator:
        shape = (50, 50)
        hermitian = True
        trace = 75.0
        frobenius_squared = 125.0

        def matmat(self, x):
            return x * np.repeat([1.0, 2.0], 25)[:, None]

    assert aslinearoperator(Operator()).power_traces() == (75.0, 125.0)


def test_given_probes_stay_as_they_are():
    a = with_spectrum(np.linspace(1, 2, 30), rng=0)
    z = np.random.default_rng(0).choice([-1.0, 1.0], (30, 5))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AccuracyWarning)
        value = trace_function(a, "square", probes=z, method="lanczos")
    assert float(value) == pytest.approx(np.sum((a @ z) ** 2) / 5)


def test_a_known_trace_is_not_estimated():
    x = np.random.default_rng(0).standard_normal((40, 90))
    value, info = trace(Gram(x, shift=0.5), return_info=True)
    assert float(value) == pytest.approx(np.sum(x**2) + 45)
    assert (info.method, info.matvecs) == ("exact", 0)
