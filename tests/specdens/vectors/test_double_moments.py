"""Two-operator moments against all eigenvectors with the same kernel; response functions."""

import numpy as np
import pytest
import scipy.sparse as sp

import specdens.vectors.double_moments as module
from specdens import AccuracyWarning, aslinearoperator, double_moments
from specdens.recurrences.chebyshev_series import damping
from specdens.testing import with_spectrum

EIGENVALUES = np.linspace(-1, 2, 24)
RNG = np.random.default_rng(8)


@pytest.fixture(autouse=True)
def the_same_numbers_in_any_order(monkeypatch):
    monkeypatch.setitem(globals(), "RNG", np.random.default_rng(8))


N = 17


def general(dtype):
    a = RNG.standard_normal((24, 24))
    return a + 1j * RNG.standard_normal((24, 24)) if dtype == "complex128" else a


def polynomials(a, count, low, high):
    """All ``T_k`` of the mapped matrix, shape (N, n, n)."""
    x, v = np.linalg.eigh(a)
    theta = np.arccos((2 * x - low - high) / (high - low))
    return np.array([(v * np.cos(k * theta)) @ v.conj().T for k in range(count)])


def naive(a, b, c, count, bounds, probes):
    t = polynomials(a, count, *bounds)
    return np.array([
        [np.trace(probes.conj().T @ b @ tj @ c @ tk @ probes) for tk in t] for tj in t
    ])  # fmt: skip


@pytest.mark.parametrize("of_a", ["float64", "complex128"])
@pytest.mark.parametrize("of_b", ["float64", "complex128"])
def test_with_all_unit_vectors_they_are_the_traces(backend, of_a, of_b):
    a = with_spectrum(EIGENVALUES, rng=1, dtype=np.dtype(of_a))
    b, c = general(of_b), general("float64")
    mu = double_moments(backend(a), backend(b), backend(c), moments=N, probes=24, rng=0)
    expected = naive(a, b, c, N, mu.bounds, np.eye(24))
    assert np.allclose(mu.moments, expected, atol=1e-12 * 24 * np.abs(expected).max())
    assert mu.sum_rule() == pytest.approx(np.trace(b @ c))
    assert (mu.seed, mu.tables, mu.samples) == (None, None, 24)


@pytest.mark.parametrize("width", [1, 5, 1000])
def test_memory_is_bounded_at_the_price_of_products(monkeypatch, width):
    a, b = with_spectrum(EIGENVALUES, rng=1), general("float64")
    probes = RNG.choice([-1.0, 1.0], (24, 3))
    monkeypatch.setattr(module, "BLOCK_BYTES", width * 16 * 24 * 3 // 2)
    mu = double_moments(a, b, b.T, moments=N, probes=probes, bounds=(-1.0, 2.0), rng=0)
    expected = naive(a, b, b.T, N, mu.bounds, probes) / 3
    assert np.allclose(mu.moments, expected, atol=1e-11)
    sweeps = -(-N // min(width, N))
    assert mu.matvecs == 3 * ((N - 1) * (1 + sweeps) + 1 + N * sweeps)


def test_the_identity_is_the_default():
    a = with_spectrum(EIGENVALUES, rng=1)
    mu = double_moments(a, moments=N, probes=24, rng=0)
    expected = naive(a, np.eye(24), np.eye(24), N, mu.bounds, np.eye(24))
    assert np.allclose(mu.moments, expected, atol=1e-11)


def test_estimates_lie_within_their_errors():
    n = 400
    ring = sp.csr_array(np.roll(np.eye(n), 1, axis=0))
    a, v = ring + ring.T, 1j * (ring - ring.T)
    exact = double_moments(a, v, v, moments=32, probes=n, rng=0)
    mu = double_moments(a, v, v, moments=32, probes=20, rng=4)
    for quantity in (
        lambda m: m.conductivity([0.3, 1.0]),
        lambda m: np.real(m.sum_rule()),
        lambda m: m.optical([0.5], 0.2),
    ):
        error = mu.stderr(quantity)
        assert np.all(np.abs(quantity(mu) - quantity(exact)) <= 5 * error + 1e-9)
        assert np.all(exact.stderr(quantity) == 0)
    again = double_moments(a, v, v, moments=32, probes=20, rng=mu.seed)
    assert np.array_equal(again.moments, mu.moments)


def delta(a, x, count, bounds, kernel):
    """The broadened ``delta(x - A)``, from all eigenvectors."""
    low, high = bounds
    t = (2 * x - low - high) / (high - low)
    g = damping(kernel, count) * np.where(np.arange(count) == 0, 1, 2)
    weights = g * np.cos(np.arange(count) * np.arccos(t))
    total = np.tensordot(weights, polynomials(a, count, low, high), axes=1)
    return total / (np.pi * np.sqrt(1 - t**2)) * 2 / (high - low)


@pytest.mark.parametrize("kernel", ["jackson", "lorentz"])
def test_correlations_are_those_of_broadened_deltas(kernel):
    a = with_spectrum(EIGENVALUES, rng=1, dtype=complex)
    b, c = general("complex128"), general("complex128")
    mu = double_moments(a, b, c, moments=N, probes=24, kernel=kernel, rng=0)
    x, y = np.array([-0.5, 0.3]), np.array([[0.0], [1.5], [9.0]])
    found = mu.correlation(x, y)
    assert found.shape == (3, 2)
    for i in range(2):
        for j in range(2):
            d_x, d_y = (delta(a, e, N, mu.bounds, kernel) for e in (x[i], y[j, 0]))
            assert found[j, i] == pytest.approx(np.trace(b @ d_x @ c @ d_y), rel=1e-9)
    assert np.all(found[2] == 0)
    greenwood = [np.pi * mu.correlation(e).real for e in x]
    assert np.allclose(mu.conductivity(x), greenwood)


def test_conductivity_at_a_temperature_is_an_average():
    a = with_spectrum(EIGENVALUES, rng=1)
    b = general("float64")
    mu = double_moments(a, b, b.T, moments=N, probes=24, rng=0)
    x = np.linspace(*mu.bounds, 20001)[1:-1]
    for temperature in (0.02, 0.3):
        slope = 1 / (4 * temperature * np.cosh((x - 0.4) / (2 * temperature)) ** 2)
        average = np.trapezoid(slope * mu.conductivity(x), x)
        assert mu.conductivity(0.4, temperature=temperature) == pytest.approx(average, rel=1e-2)
    cold = mu.conductivity(0.4, temperature=1e-4)
    assert cold == pytest.approx(mu.conductivity(0.4), rel=1e-2)


def test_optical_conductivity_is_its_integral():
    a = with_spectrum(EIGENVALUES, rng=1)
    b = general("float64")
    b = b + b.T
    mu = double_moments(a, b, b, moments=N, probes=24, rng=0)
    for temperature in (0.0, 0.2):
        x = np.linspace(*mu.bounds, 40001)[1:-1]

        def occupied(e, t=temperature):
            return (e < 0.4).astype(float) if t == 0 else 1 / (1 + np.exp((e - 0.4) / t))

        gain = occupied(x) - occupied(x + 0.7)
        direct = np.pi / 0.7 * np.trapezoid(gain * mu.correlation(x, x + 0.7), x)
        found = mu.optical(0.7, 0.4, temperature=temperature)
        assert found == pytest.approx(direct, rel=2e-3)
        assert found > 0
    # Absorption over all frequencies: the interband sum over empty and filled states.
    assert mu.optical([50.0], 0.4) == 0


def chern_insulator(length, mass):
    """Qi, Wu and Zhang's model on a torus, and its velocities: Chern number 1 for -2 < m < 0."""
    shift = np.roll(np.eye(length), 1, axis=0)
    one = np.eye(length)
    s_x, s_y, s_z = np.array([[[0, 1], [1, 0]], [[0, -1j], [1j, 0]], [[1, 0], [0, -1]]])
    hop_x = np.kron(np.kron(shift, one), (s_z - 1j * s_x) / 2)
    hop_y = np.kron(np.kron(one, shift), (s_z - 1j * s_y) / 2)
    a = hop_x + hop_x.conj().T + hop_y + hop_y.conj().T
    a = a + mass * np.kron(np.eye(length**2), s_z)
    # i [A, x], where a hop changes x by one.
    return a, *(1j * (h.conj().T - h) for h in (hop_x, hop_y))


def test_a_chern_insulator_has_a_quantised_hall_conductivity():
    length = 8
    a, v_x, v_y = chern_insulator(length, -1.0)
    mu = double_moments(a, v_x, v_y, moments=128, probes=2 * length**2, rng=0)
    x, basis = np.linalg.eigh(a)
    b, c = (basis.conj().T @ v @ basis for v in (v_x, v_y))
    filled = (x < 0).astype(float)
    gap = (x[:, None] - x[None, :]) ** 2
    change = filled[:, None] - filled[None, :]
    terms = np.where(change != 0, change * b * c.T / np.where(change != 0, gap, 1), 0)
    exact = (1j * terms.sum()).real
    assert abs(2 * np.pi * exact / length**2) == pytest.approx(1, abs=0.05)
    found = mu.hall(0.0)
    assert found == pytest.approx(exact, rel=0.03)
    assert mu.hall(0.0, temperature=0.01) == pytest.approx(found, rel=0.01)
    assert abs(mu.hall(10.0)) < 0.03 * abs(exact)
    # Without magnetism there is none.
    a, v_x, v_y = chern_insulator(length, -3.0)
    trivial = double_moments(a, v_x, v_y, moments=128, probes=2 * length**2, rng=0)
    assert abs(trivial.hall(0.0)) < 0.03 * abs(exact)


def test_single_precision(backend):
    a, b = with_spectrum(EIGENVALUES, rng=1), general("float64")
    mu = double_moments(
        backend(a, "float32"), backend(b, "float32"), None, moments=N, probes=24, rng=0
    )
    expected = naive(a, b, np.eye(24), N, mu.bounds, np.eye(24))
    assert np.allclose(mu.moments, expected, atol=1e-4 * np.abs(expected).max())


def test_one_state():
    mu = double_moments(np.full((1, 1), 2.0), moments=8)
    assert np.allclose(mu.moments, np.outer(*[np.cos(np.arange(8) * np.pi / 2)] * 2), atol=1e-12)


def test_wrong_bounds_are_replaced_and_said():
    a = with_spectrum(EIGENVALUES, rng=1)
    with pytest.warns(AccuracyWarning, match="not inside the bounds"):
        mu = double_moments(a, moments=40, probes=24, bounds=(-1.0, 1.0), rng=0)
    assert mu.bounds[1] > 2


def test_bad_input():
    a = with_spectrum(EIGENVALUES, rng=1)
    for change, text in (
        ({"B": np.eye(23)}, "B has shape"),
        ({"C": np.ones((24, 23))}, "C has shape"),
        ({"moments": 1}, "moments"),
        ({"kernel": "gauss"}, "kernel"),
        ({"A": np.triu(np.ones((24, 24)))}, "not Hermitian"),
        ({"A": np.zeros((0, 0))}, "empty"),
        ({"B": aslinearoperator(lambda v: v, n=24)}, "adjoint product"),
    ):
        with pytest.raises(ValueError, match=text):
            double_moments(**{"A": a, **change})
    mu = double_moments(a, moments=4, probes=1, rng=0)
    with pytest.raises(ValueError, match="two at least"):
        mu.stderr(lambda m: m.correlation(0.0))
    with pytest.raises(ValueError, match="positive"):
        mu.optical([0.0], 0.1)
    with pytest.raises(ValueError, match="temperature"):
        mu.hall(0.0, temperature=-1.0)
