"""log|det| of nonsymmetric matrices: budgets, tolerances, and what their Frobenius norm tells."""

import math

import numpy as np
import pytest

from specdens import aslinearoperator, logdet
from specdens.arrays.libraries import to_host
from specdens.recurrences.lanczos import assembled_bidiagonals, bidiagonal_steps, bidiagonalize

N = 300

doubtful = pytest.mark.filterwarnings("ignore::specdens.AccuracyWarning")


def general(n=N, *, seed=0, complex_=False, noise=0.3):
    """Return a well-conditioned matrix that is far from normal."""
    rng = np.random.default_rng(seed)
    a = rng.standard_normal((n, n)) + (1j * rng.standard_normal((n, n)) if complex_ else 0)
    return np.diag(np.linspace(1, 4, n)) + noise * a / math.sqrt(n)


def operator(a, counts=None, **stated):
    """Return a as somebody's products; `counts` counts them."""

    def product(matrix):
        def apply(x):
            if counts is not None:
                counts.append(x.shape[1])
            return matrix @ x

        return apply

    adjoint = a.conj().T
    return aslinearoperator(
        lambda v: a @ v, n=len(a), dtype=a.dtype, rmatvec=lambda v: adjoint @ v,
        matmat=product(a), rmatmat=product(adjoint), hermitian=False, **stated,
    )  # fmt: skip


@pytest.mark.parametrize("complex_", [False, True], ids=["real", "complex"])
@pytest.mark.parametrize("budget", [12, 50, 280])
@doubtful
def test_a_budget_is_kept_and_used(budget, complex_):
    a, counts = general(complex_=complex_), []
    value, info = logdet(operator(a, counts), max_matvecs=budget, rng=1, return_info=True)
    assert info.matvecs == sum(counts) <= budget
    assert info.matvecs > budget - 2 * (info.matvecs // info.samples)
    assert abs(value - np.linalg.slogdet(a)[1]) < 6 * info.stderr + info.bias_bound


@pytest.mark.parametrize("atol", [8.0, 3.0])
def test_a_tolerance_is_reached(atol):
    a = general(1200)
    truth = np.linalg.slogdet(a)[1]
    value, info = logdet(operator(a), atol=atol, rng=2, return_info=True)
    assert info.converged
    assert info.interval()[1] - info.value <= atol
    assert abs(value - truth) <= 2 * atol


def test_more_accuracy_costs_more():
    a = operator(general(1200))
    costs = [
        logdet(a, rtol=rtol, rng=0, return_info=True)[1].matvecs for rtol in (0.1, 0.01, 0.003)
    ]
    assert costs == sorted(costs)
    assert costs[-1] > costs[0]


@doubtful
def test_a_budget_ends_what_a_tolerance_does_not():
    _, info = logdet(operator(general()), rtol=1e-9, max_matvecs=100, rng=0, return_info=True)
    assert info.matvecs <= 100


@doubtful
def test_steps_and_probes_may_be_fixed():
    options = {"max_matvecs": 200, "rng": 0, "return_info": True}
    assert logdet(operator(general()), probes=7, **options)[1].samples == 7
    info = logdet(operator(general()), moments=10, **options)[1]
    assert info.matvecs == 10 * info.samples == 200


@doubtful
def test_results_repeat_and_probes_extend_each_other():
    a = operator(general())
    value, info = logdet(a, max_matvecs=200, return_info=True)
    assert logdet(a, max_matvecs=200, rng=info.seed) == value
    steps = info.matvecs // info.samples // 2
    fixed = logdet(a, moments=2 * steps, probes=info.samples, method="lanczos", rng=info.seed)
    assert abs(fixed - value) < 1e-10 * abs(value)


@doubtful
def test_every_library(backend):
    host = general(40)
    a = backend(host)
    value, info = logdet(a, method="lanczos", rtol=1e-2, max_matvecs=400, rng=0, return_info=True)
    assert abs(float(to_host(value)) - np.linalg.slogdet(host)[1]) < (
        6 * info.stderr + info.bias_bound
    )


@pytest.mark.parametrize("complex_", [False, True], ids=["real", "complex"])
@pytest.mark.parametrize("shift", [0.0, 0.7])
def test_the_frobenius_norm_takes_variance_away(shift, complex_):
    """Of log near a point most is linear in the squares; the norm is known of the entries."""
    a = np.eye(N) + 0.1 * (general(complex_=complex_) - np.diag(np.linspace(1, 4, N)))
    a = a + np.diag(np.linspace(0, 0.5, N))
    whole = a + shift * np.eye(N)
    options = {"method": "lanczos", "moments": 20, "rng": 3, "return_info": True}
    value, info = logdet(a, shift=shift, **options)
    _, blind = logdet(operator(a), shift=shift, **options)
    assert info.stderr < 0.5 * blind.stderr
    assert abs(value - np.linalg.slogdet(whole)[1]) < 6 * info.stderr + info.bias_bound


def test_a_stated_norm_is_as_good_as_entries():
    a = general()
    options = {"method": "lanczos", "moments": 20, "rng": 3, "return_info": True}
    _, info = logdet(a, **options)
    _, stated = logdet(operator(a, frobenius_squared=float(np.sum(a**2))), **options)
    assert stated.stderr == pytest.approx(info.stderr, rel=1e-8)


@doubtful
def test_a_wrong_norm_is_noticed():
    op = operator(general(), frobenius_squared=1e5)
    _, info = logdet(op, method="lanczos", rng=0, return_info=True)
    assert not info.converged
    assert "contradict" in info.flags[0]


def test_multiples_of_a_unitary_matrix_leave_nothing_to_chance():
    q, _ = np.linalg.qr(np.random.default_rng(0).standard_normal((N, N)))
    value, info = logdet(2 * q, method="lanczos", atol=1e-6, rng=0, return_info=True)
    assert abs(value - N * math.log(2)) < 1e-8
    assert info.matvecs <= 20


@doubtful
@pytest.mark.parametrize("unit", [1e-150, 1e150])
def test_extreme_scales(unit):
    a = general()
    options = {"method": "lanczos", "rng": 0, "max_matvecs": 200}
    found = logdet(unit * a, **options) - N * math.log(unit)
    assert abs(found - logdet(a, **options)) < 1e-6


def test_what_is_not_offered_is_said():
    a = operator(general())
    with pytest.raises(ValueError, match="a pilot chooses steps"):
        logdet(a, method="chebyshev", rtol=0.1)
    with pytest.raises(ValueError, match="not Hermitian"):
        logdet(a, guarantee=(1.0, 0.1))


def test_the_recurrence_step_by_step():
    start = np.random.default_rng(1).standard_normal((60, 3))
    op = aslinearoperator(general(60))
    pairs = list(bidiagonal_steps(op, start, 60))
    for m in (1, 5, len(pairs)):
        alphas, betas = zip(*pairs[:m], strict=True)
        whole = bidiagonalize(op, start, m)
        for one, other in zip(assembled_bidiagonals(list(alphas), list(betas)), whole, strict=True):
            assert np.array_equal(one.diagonal, other.diagonal)
            assert np.array_equal(one.super_diagonal, other.super_diagonal)
            assert one.residual == other.residual


def intervals(a, truth, keys):
    return [
        low <= truth <= high
        for low, high in (
            logdet(a, atol=3.0, rng=key, return_info=True)[1].interval(0.95) for key in keys
        )
    ]


@doubtful
def test_intervals_hold():
    """Of 40 intervals of 95 %, 30 hold but with probability 4e-6."""
    a = general(600)
    held = intervals(operator(a), np.linalg.slogdet(a)[1], range(40))
    assert sum(held) > 30
