"""The closed forms that other tests rely on, against plain linear algebra and integrals."""

import math
from itertools import pairwise

import numpy as np
import pytest
from scipy.integrate import quad

import specdens.testing as known


def eigenvalues(a):
    return np.linalg.eigvalsh(a.toarray() if hasattr(a, "toarray") else a)


@pytest.mark.parametrize("boundary", known.BOUNDARIES)
@pytest.mark.parametrize("shape", [(1,), (2,), (7,), (4, 5), (3, 4, 5)])
def test_laplacians(shape, boundary):
    a = known.laplacian(*shape, boundary=boundary)
    expected = known.laplacian_eigenvalues(*shape, boundary=boundary)
    assert np.allclose(eigenvalues(a), expected, atol=1e-12)
    if boundary != "dirichlet":
        assert np.allclose(a.sum(axis=1), 0)


def test_path_determinant_is_n_plus_1():
    assert np.log(known.laplacian_eigenvalues(20)).sum() == pytest.approx(math.log(21))


def test_bad_laplacian():
    with pytest.raises(ValueError, match="expected at least 1"):
        known.laplacian(0)
    with pytest.raises(ValueError, match="boundary"):
        known.laplacian(3, boundary="robin")


def test_graphs():
    assert np.allclose(eigenvalues(known.hypercube(4)), known.hypercube_eigenvalues(4))
    assert np.allclose(eigenvalues(known.complete_graph(6)), [-1] * 5 + [5])
    assert np.allclose(
        eigenvalues(known.complete_bipartite(2, 3)), [-math.sqrt(6), 0, 0, 0, math.sqrt(6)],
        atol=1e-12,
    )  # fmt: skip
    column = [4.0, 1.0, 0.5, 1.0]
    assert np.allclose(
        np.sort(known.circulant_eigenvalues(column).real), eigenvalues(known.circulant(column))
    )
    values = eigenvalues(known.hadamard(3))
    assert np.allclose(np.abs(values), math.sqrt(8))
    assert np.linalg.slogdet(known.hadamard(3))[1] == pytest.approx(4 * math.log(8))


def test_determinants():
    assert np.linalg.slogdet(known.correlation(9, 0.7))[1] == pytest.approx(
        known.correlation_logdet(9, 0.7)
    )
    assert np.linalg.det(known.minima(7)) == pytest.approx(1)


@pytest.mark.parametrize("dtype", [float, complex])
def test_given_spectra(dtype):
    values = np.array([-1.0, 0.5, 0.5, 4.0])
    a = known.with_spectrum(values, rng=3, dtype=dtype)
    assert a.dtype == dtype
    assert np.array_equal(a, a.conj().T)
    assert np.allclose(eigenvalues(a), values)
    assert np.allclose(eigenvalues(known.rotated(values).columns()), values)


DENSITIES = {
    # (density, ends, mean square, other singular points)
    "semicircle": (known.semicircle_density, (-2, 2), 1, ()),
    "Marchenko-Pastur": (
        lambda x: known.marchenko_pastur_density(x, 0.5),
        ((1 - math.sqrt(0.5)) ** 2, (1 + math.sqrt(0.5)) ** 2),
        1.5,
        (),
    ),
    "Kesten-McKay": (
        lambda x: known.kesten_mckay_density(x, 3),
        (-2 * math.sqrt(2), 2 * math.sqrt(2)),
        3,
        (),
    ),
    "chain": (known.chain_density, (-2, 2), 2, ()),
    "square lattice": (known.square_lattice_density, (-4, 4), 4, (0.0,)),
    "graphene": (known.graphene_density, (-3, 3), 3, (-1.0, 0.0, 1.0)),
}


@pytest.mark.parametrize("name", DENSITIES)
@pytest.mark.filterwarnings("ignore::scipy.integrate.IntegrationWarning")
def test_densities_have_mass_one_and_their_second_moment(name):
    rho, (low, high), square, points = DENSITIES[name]
    cuts = [low, *points, high]
    mass, second = 0.0, 0.0
    for a, b in pairwise(cuts):
        a, b = a + 1e-7, b - 1e-7  # logarithmic singularities are integrable, not evaluable
        mass += quad(rho, a, b, limit=400)[0]
        second += quad(lambda x: x * x * rho(x), a, b, limit=400)[0]
    assert mass == pytest.approx(1, abs=1e-4)
    assert second == pytest.approx(square, rel=1e-3)
    assert rho(np.array([low - 1, high + 1])).tolist() == [0, 0]


def test_graphene_lattice_has_three_neighbours():
    a = known.graphene(5, 6)
    assert a.shape == (60, 60)
    assert np.all(a.sum(axis=1) == 3)
    assert (a != a.T).nnz == 0
