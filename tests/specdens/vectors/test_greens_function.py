"""Green's functions against dense inverses; bounds of their error; sum rules; broadening."""

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given
from hypothesis import strategies as st

from specdens import AccuracyWarning, greens_function, local_density
from specdens.arrays.libraries import to_host
from specdens.recurrences.chebyshev_series import damping, nodes
from specdens.testing import laplacian, rotated, with_spectrum

METHODS = ["exact", "lanczos", "chebyshev"]
EIGENVALUES = np.linspace(-1, 2, 30)
Z = np.array([[0.3 + 0.2j, -2.0, 1.1 - 0.4j], [3.0 + 0j, 0.5j, 2.5 + 1j]])
RNG = np.random.default_rng(8)
LEFT = RNG.standard_normal((30, 2)) + 1j * RNG.standard_normal((30, 2))
RIGHT = RNG.standard_normal((30, 3))


def truth(a, left, right, z):
    n = len(a)
    return np.array([
        left.conj().T @ np.linalg.solve(w * np.eye(n) - a, right) for w in np.ravel(z)
    ]).reshape(*np.shape(z), *left.shape[1:], *right.shape[1:])  # fmt: skip


@pytest.mark.parametrize("how", METHODS)
@pytest.mark.parametrize("dtype", ["float64", "complex128"])
def test_it_is_an_entry_of_the_inverse(backend, how, dtype):
    a = with_spectrum(EIGENVALUES, rng=1, dtype=np.dtype(dtype))
    found, info = greens_function(
        backend(a), backend(LEFT), backend(RIGHT), Z, method=how, bounds=(-1.0, 2.0), rtol=1e-8,
        return_info=True,
    )  # fmt: skip
    assert found.shape == (2, 3, 2, 3)
    assert str(found.dtype).endswith("complex128")
    off = np.abs(to_host(found) - truth(a, LEFT, RIGHT, Z)).reshape(6, 2, 3)
    assert np.all(off <= info.error + 1e-12)
    assert np.all(off < 1e-5)
    assert info.rigorous
    assert info.method == how
    one = greens_function(backend(a), 3, -1, 0.3 + 0.2j, method=how, bounds=(-1.0, 2.0))
    assert one.shape == ()
    inverse = np.linalg.inv((0.3 + 0.2j) * np.eye(30) - a)
    assert to_host(one).item() == pytest.approx(inverse[3, 29], abs=1e-6)


@pytest.mark.parametrize("how", METHODS)
def test_equal_vectors_cost_half(how):
    x = np.linspace(-1, 2, 900)
    b = RNG.standard_normal(900)
    z = np.linspace(-1, 2, 7) + 0.05j
    options = {"method": how, "bounds": (-1.0, 2.0), "rtol": 1e-8, "return_info": True}
    exact = greens_function(rotated(x), b, None, z, method="exact")
    other, plain = greens_function(rotated(x), b, 2 * b, z, **options)
    found, info = greens_function(rotated(x), b, None, z, **options)
    assert np.allclose(found, exact, rtol=1e-6)
    assert np.allclose(other, 2 * exact, rtol=1e-6)
    if how != "exact":
        assert info.matvecs < 0.7 * plain.matvecs
        assert np.all(np.abs(found - exact) <= info.error.ravel())


@given(seed=st.integers(0, 99), n=st.integers(1, 12), eta=st.floats(0.05, 2))
def test_symmetries(seed, n, eta):
    rng = np.random.default_rng(seed)
    a = with_spectrum(rng.uniform(-1, 1, n), rng=seed, dtype=complex)
    b, c = rng.standard_normal((2, n)) + 1j * rng.standard_normal((2, n))
    for how in METHODS:
        options = {"method": how, "bounds": (-1.01, 1.01)}
        z = np.array([0.3 + 1j * eta])
        g = greens_function(a, b, c, z, **options)
        assert np.allclose(greens_function(a, c, b, z.conj(), **options), g.conj())
        assert np.all(greens_function(a, b, None, z, **options).imag < 0)


@pytest.mark.parametrize("steps", [5, 10, 20, 40])
@pytest.mark.parametrize("how", ["lanczos", "chebyshev"])
def test_bounds_hold(how, steps, quiet):
    x = np.sin(np.arange(700))
    op = rotated(x)
    b, c = RNG.standard_normal((2, 700))
    z = np.linspace(-1.5, 1.5, 13) + 0.02j
    for right in (b, c):
        exact = greens_function(op, b, right, z, method="exact")
        with quiet():
            found, info = greens_function(
                op, b, right, z, method=how, steps=steps, bounds=(-1.0, 1.0), return_info=True
            )
        assert info.rigorous
        assert np.all(np.abs(found - exact) <= info.error.ravel())


def test_poles_are_found_exactly():
    """A chain of two atoms: two steps are all."""
    a = np.array([[0.0, 1.0], [1.0, 0.0]])
    z = np.array([0.5, 1j, 3.0])
    for how in ("exact", "lanczos"):
        assert np.allclose(greens_function(a, 0, 1, z, method=how), 1 / (z**2 - 1))


def test_far_too_few_steps_are_said():
    with pytest.warns(AccuracyWarning, match="raise steps"):
        greens_function(laplacian(3000), 0, 0, 1 + 1e-5j, steps=30)


@pytest.mark.parametrize("kernel", ["lorentz", "jackson"])
def test_a_broadened_function_is_the_textbook_sum(backend, kernel):
    a = with_spectrum(EIGENVALUES, rng=1)
    energies = np.linspace(-0.9, 1.9, 5)
    for left, right in ((LEFT, RIGHT), (RIGHT, RIGHT)):
        found, info = greens_function(
            backend(a), backend(left), backend(right), energies, kernel=kernel, steps=40,
            bounds=(-1.0, 2.0), return_info=True,
        )  # fmt: skip
        low, high = info.bounds
        half = (high - low) / 2
        eigenvalues, basis = np.linalg.eigh(a)
        theta = np.arccos((2 * eigenvalues - low - high) / (high - low))
        t = (2 * energies - low - high) / (high - low)
        g = damping(kernel, 40)
        expected = 0
        for k in range(40):
            t_k = (basis * np.cos(k * theta)) @ basis.T
            moment = left.conj().T @ t_k @ right
            wave = (1 if k == 0 else 2) * g[k] * np.exp(-1j * k * np.arccos(t))
            expected = expected + wave[:, None, None] * moment
        expected = expected * (-1j / np.sqrt(1 - t**2) / half)[:, None, None]
        assert np.allclose(to_host(found), expected, atol=1e-11)


def test_sum_rule_and_local_density():
    """The integral of -Im G / pi is <l|r>; at one site it is the local density of states."""
    op = laplacian(300)
    low, high = -0.1, 4.1
    options = {"kernel": "lorentz", "steps": 128, "bounds": (low, high)}
    width = 1.01 * (high - low) / 2 + 0.01 * (high - low) / 2  # widened by a share of its width
    energies = (low + high) / 2 + width * nodes(512)
    b, c = RNG.standard_normal((2, 300))
    g = greens_function(op, b, c, energies, **options)
    weights = np.pi / 512 * width * np.sqrt(1 - nodes(512) ** 2)
    assert np.sum(-g.imag / np.pi * weights) == pytest.approx(b @ c)
    rho = local_density(op, 7, kernel="lorentz", moments=128, bounds=(low, high))
    at = np.linspace(0.5, 3.5, 9)
    assert np.allclose(-greens_function(op, 7, None, at, **options).imag / np.pi, rho(at))


def test_wrong_bounds_are_said():
    a = with_spectrum(EIGENVALUES, rng=1)
    expected = truth(a, LEFT, RIGHT, Z)
    for how in ("lanczos", "chebyshev"):
        with pytest.warns(AccuracyWarning, match="not inside the bounds"):
            found = greens_function(a, LEFT, RIGHT, Z, method=how, bounds=(-1.0, 1.0))
        assert np.allclose(found, expected, rtol=1e-5, atol=1e-5)
    with pytest.warns(AccuracyWarning, match="not inside the bounds"):
        greens_function(a, 0, 1, 0.5, kernel="lorentz", bounds=(-1.0, 1.0))


@pytest.mark.parametrize("how", METHODS)
def test_zero_vectors_and_precision(backend, how):
    a = backend(with_spectrum(EIGENVALUES, rng=1), "float32")
    zero = backend(np.zeros(30))
    g = greens_function(a, zero, backend(RIGHT), [1j, 2j], method=how)
    assert np.all(to_host(g) == 0)
    assert g.shape == (2, 3)
    assert str(g.dtype).endswith("complex64")
    assert np.all(to_host(greens_function(a, 0, zero, [1j], method=how)) == 0)
    one = greens_function(backend(np.full((1, 1), 4.0)), 0, 0, 5.0, method=how)
    assert to_host(one).item() == pytest.approx(1.0)


def test_sparse_matrices():
    a = sp.csr_array(laplacian(50))
    assert greens_function(a, 3, 4, 1j) == pytest.approx(
        np.linalg.inv(1j * np.eye(50) - a.toarray())[3, 4]
    )


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"left": 30}, "out of range"),
        ({"left": np.ones(29)}, r"expected \(30,\)"),
        ({"z": np.nan}, "finite"),
        ({"z": "a"}, "expected finite numbers"),
        ({"kernel": "gauss"}, "kernel"),
        ({"kernel": "lorentz", "z": 1j}, "must be real"),
        ({"kernel": "lorentz", "method": "exact"}, "Chebyshev series"),
        ({"z": 0.5, "method": "chebyshev"}, "1j"),
        ({"steps": 0}, "steps"),
        ({"rtol": -1.0}, "rtol"),
        ({"A": np.triu(np.ones((30, 30)))}, "not Hermitian"),
    ],
)
def test_bad_input(change, text):
    options = {"A": with_spectrum(EIGENVALUES, rng=1), "left": 0, "right": 1, "z": 0.5, **change}
    with pytest.raises(ValueError, match=text):
        greens_function(**options)


def test_an_eigenvalue_is_no_place_to_ask_at():
    with pytest.raises(ValueError, match="is an eigenvalue"):
        greens_function(np.diag([1.0, 2.0]), 0, 1, 2.0)
