"""Gauss and Gauss-Radau rules: degree of exactness, and brackets from signs of derivatives."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from specdens import aslinearoperator
from specdens.recurrences.lanczos import bidiagonalize, tridiagonalize
from specdens.recurrences.quadrature import gauss, radau
from specdens.testing import with_spectrum
from tests.specdens import naive

EIGENVALUES = np.geomspace(0.1, 10, 30)
A = with_spectrum(EIGENVALUES, rng=0)
START = np.random.default_rng(0).standard_normal((30, 4))


def factors(steps):
    return tridiagonalize(aslinearoperator(A), START, steps)


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_gauss_is_exact_to_degree_2m_minus_1(steps):
    for r, factor in enumerate(factors(steps)):
        rule = gauss(factor)
        assert rule.weights.sum() == pytest.approx(1)
        for degree in range(2 * steps):
            truth = naive.quadratic_form(A, START[:, r], lambda x, d=degree: x**d)
            assert rule.integrate(rule.nodes**degree) == pytest.approx(truth, rel=1e-10)
        degree = 2 * steps
        truth = naive.quadratic_form(A, START[:, r], lambda x, d=degree: x**d)
        assert rule.integrate(rule.nodes**degree) < truth * (1 - 1e-9)


@pytest.mark.parametrize("steps", [1, 2, 5])
@pytest.mark.parametrize("end", [0.1, 10.0, 0.05, 12.0])
def test_radau_has_its_node_and_is_exact_to_degree_2m(steps, end):
    for r, factor in enumerate(factors(steps)):
        rule = radau(factor, end)
        assert np.abs(rule.nodes - end).min() == 0
        for degree in range(2 * steps + 1):
            truth = naive.quadratic_form(A, START[:, r], lambda x, d=degree: x**d)
            assert rule.integrate(rule.nodes**degree) == pytest.approx(truth, rel=1e-9)


@given(
    steps=st.integers(1, 12),
    name=st.sampled_from(["log", "inv", "exp", "sqrt", "xlogx"]),
)
def test_rules_bracket_the_truth(steps, name):
    """Gauss is above for log and sqrt, below for 1/x, exp and x log x; Radau on the other side."""
    f = {
        "log": np.log,
        "inv": lambda x: 1 / x,
        "exp": np.exp,
        "sqrt": np.sqrt,
        "xlogx": lambda x: x * np.log(x),
    }[name]
    above = name in {"log", "sqrt"}
    end = 10.0 if name == "exp" else 0.1
    for r, factor in enumerate(factors(steps)):
        truth = naive.quadratic_form(A, START[:, r], f)
        one, other = gauss(factor), radau(factor, end)
        slack = 1e-10 * max(1, abs(truth))
        difference = one.integrate(f(one.nodes)) - truth
        assert difference * (1 if above else -1) >= -slack
        difference = other.integrate(f(other.nodes)) - truth
        assert difference * (-1 if above else 1) >= -slack


def test_no_radau_rule_among_the_ritz_values():
    assert radau(factors(5)[0], 1.0) is None


def test_radau_of_an_invariant_space_is_gauss():
    factor = tridiagonalize(aslinearoperator(2 * np.eye(4)), np.ones((4, 1)), 3)[0]
    assert np.array_equal(radau(factor, 0.0).nodes, [2.0])


def test_a_node_without_weight_adds_nothing_even_where_f_is_infinite():
    a = np.diag([0.0, 1.0, 2.0])
    start = np.array([[0.0], [1.0], [1.0]])
    rule = gauss(tridiagonalize(aslinearoperator(a), start, 3)[0])
    with np.errstate(divide="ignore"):
        assert rule.integrate(np.log(np.append(rule.nodes[:1] * 0, rule.nodes))[1:]) == (
            pytest.approx(np.log(2) / 2)
        )
    assert np.isfinite(rule.integrate(np.where(rule.weights > 0.1, 1.0, -np.inf)))


def test_singular_rule_integrates_the_modulus():
    b = np.random.default_rng(1).standard_normal((9, 9))
    start = np.random.default_rng(2).standard_normal((9, 1))
    rule = gauss(bidiagonalize(aslinearoperator(b), start, 9)[0])
    truth = naive.quadratic_form(b.T @ b, start[:, 0], lambda x: np.log(x) / 2)
    assert rule.integrate(np.log(rule.nodes)) == pytest.approx(truth)
