"""Stacks of matrices give what one call for each gives, on every backend."""

import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from specdens import AccuracyWarning, Estimate, logdet, slogdet, trace, trace_function
from specdens.arrays.libraries import device, namespace, to_host
from specdens.problem import stacks as batch
from specdens.testing import with_spectrum

N = 8


def definite(dtype="float64", shape=(2, 3), n=N):
    kind = complex if "complex" in dtype else float
    count = math.prod(shape)
    found = [with_spectrum(np.linspace(0.5 + i, 3 + i, n), rng=i, dtype=kind) for i in range(count)]
    return np.array(found).reshape(*shape, n, n).astype(dtype)


def general(dtype="float64", shape=(2, 3)):
    rng = np.random.default_rng(3)
    a = rng.standard_normal((*shape, N, N)) + 2 * np.eye(N)
    return (a + 1j * rng.standard_normal(a.shape) if "complex" in dtype else a).astype(dtype)


def mixed():
    """Definite, indefinite, negative, singular, nearly singular, triangular, permuted, zero."""
    a = definite(shape=(8,))
    a[1] = with_spectrum(np.linspace(-1, 2, N), rng=1)
    a[2] *= -1
    a[3] = np.diag([1.0] * (N - 1) + [0.0])
    a[4] = with_spectrum([1e-17] + [1.0] * (N - 1), rng=1)
    a[5] = np.triu(a[5])
    a[6] = np.eye(N)[np.random.default_rng(0).permutation(N)]
    a[7] = 0
    return a


CALLS = {
    "logdet": (logdet, {}),
    "logdet, shifted": (logdet, {"shift": 1.5}),
    "logdet, complex shift": (logdet, {"shift": 1.5j}),
    "sign": (lambda a, **k: slogdet(a, **k)[0], {}),
    "slogdet": (lambda a, **k: slogdet(a, **k)[1], {}),
    "trace": (trace, {}),
    "exp": (lambda a, **k: trace_function(a, "exp", **k), {}),
    "log": (lambda a, **k: trace_function(a, "log", **k), {}),
    "sqrt": (lambda a, **k: trace_function(a, "sqrt", shift=0.5, **k), {}),
    "own": (lambda a, **k: trace_function(a, lambda x: x**3, **k), {}),
    "complex": (lambda a, **k: trace_function(a, lambda x: 1 / (x - 1j), **k), {}),
    "estimated": (logdet, {"method": "lanczos", "probes": 3, "moments": 16, "rng": 5}),
    "estimated trace": (trace, {"method": "lanczos", "probes": 3, "rng": 5}),
    "chebyshev": (
        lambda a, **k: trace_function(a, "exp", **k),
        {"method": "chebyshev", "probes": 3, "rng": 5, "bounds": (0.4, 9), "moments": 30},
    ),
    "given probes": (logdet, {"method": "lanczos", "moments": 16, "probes": 2}),
}


@pytest.mark.parametrize("dtype", ["float64", "complex128", "float32"])
@pytest.mark.parametrize("name", CALLS)
def test_a_stack_equals_its_matrices(backend, name, dtype):
    call, options = CALLS[name]
    host = definite(dtype)
    a = backend(host)
    if name == "given probes":
        options = {**options, "probes": backend(np.ones((N, 2)) + np.eye(N, 2), dtype)}
    found = call(a, **options)
    assert found.shape == (2, 3)
    assert namespace(found) is backend.xp
    assert str(device(found)) == str(backend.device)
    for i, j in np.ndindex(2, 3):
        alone = call(a[i, j, :, :], **options)
        assert found.dtype == alone.dtype
        unit = 1e-6 if dtype in {"float32", "complex64"} else 1e-14
        assert to_host(found)[i, j] == pytest.approx(to_host(alone).item(), rel=10 * unit)


@pytest.mark.parametrize("dtype", ["float64", "complex128"])
def test_any_square_matrices(backend, dtype):
    a = general(dtype)
    sign, value = slogdet(backend(a))
    expected = np.linalg.slogdet(a)
    assert np.allclose(to_host(sign), expected[0])
    assert np.allclose(to_host(value), expected[1])
    assert np.allclose(to_host(trace(backend(a))), np.trace(a, axis1=-2, axis2=-1))


def test_every_kind_in_one_stack(backend, quiet):
    a = mixed()
    with quiet():
        (signs, values), infos = slogdet(backend(a), return_info=True)
        for i, info in enumerate(infos):
            (sign, value), alone = slogdet(backend(a[i]), return_info=True)
            assert to_host(signs)[i] == to_host(sign).item()
            assert to_host(values)[i] == pytest.approx(to_host(value).item(), rel=1e-14)
            assert info.converged == alone.converged
            assert info.flags == alone.flags
            assert info.bias_bound == pytest.approx(alone.bias_bound, rel=1e-6)
            assert info.method == alone.method


@given(kinds=st.lists(st.integers(0, 7), min_size=1, max_size=6), seed=st.integers(0, 2**32 - 1))
def test_any_order_of_kinds(kinds, seed):
    a = mixed()[kinds]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AccuracyWarning)
        assert np.array_equal(logdet(a), [logdet(one) for one in a])
        options = {"method": "lanczos", "rng": seed, "moments": 4, "probes": 3}
        assert np.array_equal(logdet(a, **options), [logdet(one, **options) for one in a])


def test_what_comes_back_with_info(backend):
    a = backend(definite(shape=(2, 1, 3)))
    values, infos = logdet(a, return_info=True)
    assert values.shape == infos.shape == (2, 1, 3)
    assert all(isinstance(info, Estimate) for info in infos.flat)
    assert [info.value for info in infos.flat] == list(to_host(values).flat)
    (sign, _), infos = slogdet(a, return_info=True)
    assert sign.shape == infos.shape
    assert trace(a, return_info=True)[1].shape == (2, 1, 3)
    assert trace_function(a, "inv", return_info=True)[1].shape == (2, 1, 3)


def test_all_matrices_get_the_same_probes():
    a = np.array([definite(shape=())] * 3)
    options = {"method": "lanczos", "probes": 2, "moments": 16, "return_info": True}
    for rng in (None, np.random.default_rng(1)):
        values, infos = logdet(a, rng=rng, **options)
        assert len(set(values.tolist())) == 1
        assert len({info.seed for info in infos}) == 1
    assert logdet(a[0], rng=infos[0].seed, **options)[0] == values[0]


def test_empty_stacks_and_matrices(backend):
    for shape in ((0,), (2, 0), (0, 3)):
        empty = backend(np.zeros((*shape, 4, 4)))
        for found in (logdet(empty), *slogdet(empty), trace(empty), trace_function(empty, "exp")):
            assert found.shape == shape
            assert found.dtype == backend.dtype("float64")
        assert logdet(empty, return_info=True)[1].shape == shape
        assert logdet(empty, method="lanczos").shape == shape
    none = backend(np.zeros((3, 0, 0)))
    assert np.all(to_host(logdet(none)) == 0)
    assert np.all(to_host(slogdet(none)[0]) == 1)
    assert np.all(to_host(trace(none)) == 0)
    assert np.all(to_host(trace_function(none, "exp")) == 0)


def test_order_1_and_other_numbers(backend):
    a = np.array([2, -3, 5]).reshape(3, 1, 1)
    assert np.allclose(to_host(logdet(backend(a))), np.log([2, 3, 5]))
    assert np.array_equal(to_host(slogdet(backend(a))[0]), [1, -1, 1])
    assert logdet(backend(a)).dtype == backend.dtype("float64")
    assert logdet([[[2.0]], [[3.0]]]) == pytest.approx(np.log([2, 3]))


def test_errors_name_the_matrix(backend, method):
    a = definite()
    a[1, 2, 3, 3] = np.nan
    for call in (logdet, slogdet, trace, lambda b: trace_function(b, "exp")):
        with pytest.raises(ValueError, match=r"A\[1, 2\]: A contains NaN"):
            call(backend(a))
    with pytest.raises(ValueError, match=r"A\[1, 2\]: A contains NaN"):
        logdet(backend(a), method=method)
    a = definite()
    a[0, 1] = general()[0, 0]
    with pytest.raises(ValueError, match=r"A\[0, 1\]: A is not Hermitian"):
        trace_function(backend(a), "exp")
    with pytest.raises(ValueError, match=r"A\[0, 1\]: hermitian=True, but"):
        logdet(backend(a), hermitian=True)
    a = definite()
    a[1, 0] *= -1
    with pytest.raises(ValueError, match=r"A\[1, 0\]: A has a negative eigenvalue"):
        trace_function(backend(a), "sqrt")
    with pytest.raises(ValueError, match=r"shape \(2, 3, 4\); expected square matrices"):
        logdet(backend(np.ones((2, 3, 4))))
    with pytest.raises(ValueError, match="shift is nan"):
        logdet(backend(definite()), shift=math.nan)
    with pytest.raises(ValueError, match="probes is 0"):
        logdet(backend(definite()), probes=0)


def test_doubt_is_told_once():
    with pytest.warns(AccuracyWarning, match=r"^1 of 8 results .* A\[4\]: -inf is not") as told:
        logdet(mixed())
    assert len(told) == 1
    assert told[0].filename == __file__
    a = np.array([np.diag(np.geomspace(1e-5, 1, 60))] * 3)
    for call in (logdet, lambda b, **k: trace_function(b, "log", **k)):
        with pytest.warns(AccuracyWarning, match=r"^3 of 3 results .* A\[0\]: .* Raise") as told:
            call(a, method="lanczos", moments=4)
        assert len(told) == 1
        assert told[0].filename == __file__


def test_many_and_large_matrices_go_in_pieces(monkeypatch, quiet):
    a = mixed()
    with quiet():
        whole = slogdet(a)
        for entries in (1, 3 * N * N):
            monkeypatch.setattr(batch, "ENTRIES_TOGETHER", entries)
            assert np.array_equal(slogdet(a), whole)
        monkeypatch.setattr(batch, "TOGETHER_UP_TO", 4)
        assert np.array_equal(slogdet(a), whole)


# --- Gradients -----------------------------------------------------------------------------------

WAYS = {
    "exact": {},
    "sampled": {"method": "lanczos", "probes": N, "moments": 2 * N},
}


@pytest.mark.parametrize("dtype", ["float64", "complex128"])
@pytest.mark.parametrize("way", WAYS)
def test_gradients_of_stacks(way, dtype):
    weights = torch.arange(1.0, 7).reshape(2, 3).to(torch.float64)
    a = torch.tensor(definite(dtype), requires_grad=True)
    (found,) = torch.autograd.grad((weights * logdet(a, **WAYS[way])).sum(), a)
    expected = weights[..., None, None] * torch.linalg.inv(a.detach()).mH
    assert torch.allclose(found, expected)
    (found,) = torch.autograd.grad((weights * trace_function(a, "exp", **WAYS[way])).sum(), a)
    expected = weights[..., None, None] * torch.linalg.matrix_exp(a.detach())
    assert torch.allclose(found, expected, rtol=1e-7)
    b = torch.tensor(general(dtype), requires_grad=True)
    (found,) = torch.autograd.grad((weights * slogdet(b, **WAYS[way])[1]).sum(), b)
    expected = weights[..., None, None] * torch.linalg.inv(b.detach()).mH
    assert torch.allclose(found, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("number", [0.5, 0.0])
@pytest.mark.parametrize("way", WAYS)
def test_gradient_with_respect_to_a_common_shift(way, number):
    a = torch.tensor(definite())
    shift = torch.tensor(number, dtype=torch.float64, requires_grad=True)
    (found,) = torch.autograd.grad(logdet(a, shift=shift, **WAYS[way]).sum(), shift)
    eye = torch.eye(N, dtype=torch.float64)
    expected = torch.linalg.inv(a + number * eye).diagonal(dim1=-2, dim2=-1).sum()
    assert found.item() == pytest.approx(expected.item())


def test_gradcheck_of_a_stack():
    a = torch.tensor(general("complex128", shape=(2,))[:, :4, :4], requires_grad=True)
    assert torch.autograd.gradcheck(logdet, (a,))
    own = (lambda x: 1 / (x - 1j), lambda x: -1 / (x - 1j) ** 2)
    assert torch.autograd.gradcheck(lambda b: trace_function(b @ b.mH, own), (a,))


def test_infinite_values_of_a_stack_have_no_gradient(quiet):
    a = torch.tensor(mixed(), requires_grad=True)
    with quiet():
        value = logdet(a)
    with pytest.raises(ValueError, match="infinite"):
        value.sum().backward()


@pytest.mark.parametrize("way", WAYS)
def test_no_second_derivatives_of_stacks(way):
    a = torch.tensor(definite(), requires_grad=True)
    (first,) = torch.autograd.grad(logdet(a, **WAYS[way]).sum(), a, create_graph=True)
    with pytest.raises(NotImplementedError, match="second derivatives"):
        first.sum().backward()
