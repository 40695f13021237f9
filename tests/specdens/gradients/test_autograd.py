"""Gradients for Torch: equal to those of all eigenvalues where nothing is left to chance."""

import gc
import math
import weakref

import numpy as np
import pytest
import torch
from scipy import stats
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from specdens import (
    AccuracyWarning,
    DiagonalPlusLowRank,
    Gram,
    Kronecker,
    Scaled,
    Shifted,
    Sum,
    aslinearoperator,
    density,
    eigencount,
    logdet,
    logpdet,
    slogdet,
    trace,
    trace_function,
)
from specdens.gradients import sampled_derivatives
from specdens.testing import laplacian, with_spectrum

N = 14
ALL = {"probes": N, "moments": 2 * N}
DOUBLES = [torch.float64, torch.complex128]

F = {
    "log": torch.log,
    "exp": torch.exp,
    "inv": lambda x: 1 / x,
    "sqrt": torch.sqrt,
    "xlogx": lambda x: x * torch.log(x),
    "square": lambda x: x * x,
}

pytestmark = pytest.mark.filterwarnings("ignore:Sparse:UserWarning")


def positive(dtype, low=0.5, high=3.0, n=N):
    kind = complex if dtype.is_complex else float
    a = with_spectrum(np.linspace(low, high, n), rng=1, dtype=kind)
    return torch.tensor(a, dtype=dtype, requires_grad=True)


def general(dtype, rng=0):
    generator = torch.Generator().manual_seed(rng)
    a = torch.randn(N, N, dtype=dtype, generator=generator) / 5
    return (a + torch.eye(N, dtype=dtype)).requires_grad_()


def sparse(dtype, *, hermitian):
    a = general(dtype).detach()
    kept = torch.rand(N, N, generator=torch.Generator().manual_seed(1)) < 0.2
    a = torch.where(kept, a, 0) + 2 * torch.eye(N, dtype=dtype)
    return (a + a.mH) / 2 if hermitian else a


def gradient(value, *tensors):
    found = torch.autograd.grad(value, tensors)
    return found[0] if len(tensors) == 1 else found


def close(found, expected, tolerance=1e-9):
    found = found.to_dense() if found.layout != torch.strided else found
    assert found.dtype == expected.dtype
    return torch.allclose(found, expected, rtol=tolerance, atol=tolerance)


# --- The same as autograd through all eigenvalues ------------------------------------------------


@pytest.mark.parametrize("dtype", DOUBLES, ids=str)
@pytest.mark.parametrize("name", F)
@pytest.mark.parametrize("way", ["exact", "lanczos", "chebyshev"])
def test_gradient_of_a_trace(name, way, dtype):
    a = positive(dtype)
    expected = gradient(F[name](torch.linalg.eigvalsh(a)).sum(), a)
    value = trace_function(a, name, method=way, bounds=(0.5, 3.0), **ALL)
    assert close(gradient(value, a), expected)
    operator = aslinearoperator(lambda v: a @ v, n=N, matmat=lambda x: a @ x, like=a.detach())
    value = trace_function(operator, name, method=way, bounds=(0.5, 3.0), hermitian=True, **ALL)
    assert close(gradient(value, a), expected)


@pytest.mark.parametrize("dtype", DOUBLES, ids=str)
@pytest.mark.parametrize("way", ["exact", "lanczos"])
def test_gradient_of_a_determinant_of_any_matrix(way, dtype, quiet):
    a = general(dtype)
    expected = gradient(torch.linalg.slogdet(a)[1], a)
    assert close(gradient(logdet(a, method=way, **ALL), a), expected)
    assert close(gradient(slogdet(a, method=way, **ALL)[1], a), expected)
    indefinite = (a + a.mH).detach().requires_grad_()
    expected = gradient(torch.linalg.slogdet(indefinite)[1], indefinite)
    with quiet():
        value = logdet(indefinite, method=way, **ALL)
    assert close(gradient(value, indefinite), expected, 1e-7)


@pytest.mark.parametrize("dtype", DOUBLES, ids=str)
@pytest.mark.parametrize("way", ["exact", "lanczos"])
@pytest.mark.parametrize("layout", [torch.sparse_coo, torch.sparse_csr], ids=str)
@pytest.mark.parametrize("hermitian", [True, False], ids=["hermitian", "general"])
def test_gradient_on_the_pattern_of_a_sparse_matrix(way, layout, dtype, hermitian):
    dense = sparse(dtype, hermitian=hermitian)
    a = dense.to_sparse(layout=layout).requires_grad_()
    there = dense != 0
    dense.requires_grad_()
    expected = gradient(torch.linalg.slogdet(dense)[1], dense)
    found = gradient(logdet(a, method=way, **ALL), a)
    assert found.layout == layout
    assert close(found, torch.where(there, expected, 0))
    composed = gradient(logdet(Scaled(a, 1.0), method=way, **ALL), a)
    assert close(composed, torch.where(there, expected, 0))
    if hermitian:
        shift = 3.0
        expected = gradient(torch.linalg.eigvalsh(dense + shift * ONE).sqrt().sum(), dense)
        found = gradient(trace_function(a, "sqrt", method=way, shift=shift, **ALL), a)
        assert close(found, torch.where(there, expected, 0))


def test_values_of_a_sparse_matrix_get_the_gradient(quiet):
    """Duplicates, in any order, built from values that have a history themselves."""
    index = torch.tensor([[2, 0, 1, 1, 2, 0, 1], [2, 0, 1, 1, 0, 2, 0]])
    roots = torch.tensor([2.0, 2.0, 1.0, 1.5, 0.3, 0.3, 0.0], dtype=torch.float64)
    roots.requires_grad_()

    def value(way):
        a = torch.sparse_coo_tensor(index, roots**2, (3, 3))
        return way(a.to_dense() if way is torch.logdet else a)

    def estimate(a):
        with quiet():
            return logdet(a, method="lanczos", moments=6, probes=3)

    expected = gradient(value(torch.logdet), roots)
    assert close(gradient(value(logdet), roots), expected)
    assert close(gradient(value(estimate), roots), expected)
    csr = torch.sparse_csr_tensor([0, 2, 4], [1, 0, 0, 1], roots[:4], (2, 2))
    expected = gradient(torch.linalg.slogdet(csr.to_dense())[1], roots)
    csr = torch.sparse_csr_tensor([0, 2, 4], [1, 0, 0, 1], roots[:4], (2, 2))
    assert close(gradient(logdet(csr), roots), expected)


ONE = torch.eye(N, dtype=torch.float64)
COMPOSED = {
    "gram": (lambda x: Gram(x, shift=0.2), lambda x: x.mH @ x + 0.2 * ONE),
    "gram, centred": (
        lambda x: Gram(x, shift=0.2, center="features"),
        lambda x: x.mH @ (x - x.mean(0)) + 0.2 * ONE,
    ),
    "shifted": (lambda x: Shifted(x, 2.0), lambda x: x + 2 * ONE),
    "sum": (lambda x: Sum(x, Scaled(Gram(x), 2.0)), lambda x: x + 2 * x.mH @ x),
}


@pytest.mark.parametrize("dtype", DOUBLES, ids=str)
@pytest.mark.parametrize("way", ["exact", "lanczos"])
@pytest.mark.parametrize("name", COMPOSED)
@pytest.mark.parametrize("layout", [torch.strided, torch.sparse_coo], ids=str)
def test_gradient_through_composed_operators(name, way, dtype, layout):
    x = general(dtype)
    op, dense = (make(x) for make in COMPOSED[name])
    expected = gradient(torch.linalg.slogdet(dense)[1], x)
    if layout != torch.strided:
        x = x.detach().to_sparse().requires_grad_()
        op = COMPOSED[name][0](x)
    assert close(gradient(logdet(op, method=way, **ALL), x), expected, 1e-7)


@pytest.mark.parametrize("dtype", DOUBLES, ids=str)
@pytest.mark.parametrize("way", ["exact", "lanczos"])
@pytest.mark.parametrize("number", [0.7, 0.0])
def test_gradient_with_respect_to_the_shift(way, dtype, number):
    a, shift = positive(dtype), torch.tensor(number, dtype=torch.float64, requires_grad=True)
    eigenvalues = np.linspace(0.5, 3, N) + number
    forms = {
        "dense": a,
        "without a history": a.detach(),
        "sparse": a.detach().to_sparse(),
        "operator": aslinearoperator(lambda v: a @ v, n=N, matmat=lambda x: a @ x, like=a.detach()),
    }
    for form in forms.values():
        found = gradient(logdet(form, shift=shift, method=way, hermitian=True, **ALL), shift)
        assert found.item() == pytest.approx((1 / eigenvalues).sum())
        found = gradient(trace_function(form, "exp", shift=shift, method=way, **ALL), shift)
        assert found.item() == pytest.approx(np.exp(eigenvalues).sum())


@pytest.mark.parametrize("way", ["exact", "lanczos"])
@pytest.mark.parametrize("dtype", DOUBLES, ids=str)
def test_complex_shift_and_complex_functions(way, dtype):
    a = positive(dtype)
    shift = torch.tensor(0.3 + 0.4j, dtype=torch.complex128, requires_grad=True)
    expected = gradient(torch.linalg.slogdet(a + shift * ONE)[1], a, shift)
    found = gradient(logdet(a, shift=shift, method=way, **ALL), a, shift)
    assert all(close(f, e) for f, e in zip(found, expected, strict=True))
    z = 1 + 1j
    f = (lambda x: 1 / (z - x), lambda x: 1 / (z - x) ** 2)
    turn = 0.6 + 0.8j  # a real loss from a complex trace
    expected = gradient((turn * (1 / (z - torch.linalg.eigvalsh(a))).sum()).real, a)
    found = gradient((turn * trace_function(a, f, method=way, **ALL)).real, a)
    assert close(found, expected)


@pytest.mark.parametrize("dtype", DOUBLES, ids=str)
def test_gradcheck(dtype):
    a = general(dtype)[:6, :6].detach().requires_grad_()
    assert torch.autograd.gradcheck(logdet, (a,))
    assert torch.autograd.gradcheck(lambda b: trace_function(b @ b.mH, "exp"), (a,))
    assert torch.autograd.gradcheck(lambda b: logdet(b, shift=2.0).exp(), (a,))


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.complex64], ids=str)
@pytest.mark.parametrize("way", ["exact", "lanczos"])
def test_gradients_have_the_precision_of_the_matrix(way, dtype):
    a = positive(torch.complex128 if dtype.is_complex else torch.float64).detach().to(dtype)
    a = ((a + a.mH) / 2).requires_grad_()
    found = gradient(logdet(a, method=way, **ALL), a)
    assert found.dtype == dtype
    wide = torch.complex128 if dtype.is_complex else torch.float64
    expected = torch.linalg.inv(a.detach().to(wide))
    assert torch.allclose(found.to(wide), expected, atol=1e-2 if dtype == torch.float16 else 1e-4)


# --- Operators with parameters ----------------------------------------------------------------


class Kernel(torch.nn.Module):
    """A Gaussian kernel with noise, made anew for every product."""

    def __init__(self, points):
        super().__init__()
        self.points = points
        self.length = torch.nn.Parameter(torch.tensor(0.3, dtype=torch.float64))
        self.noise = torch.nn.Parameter(torch.tensor(0.2, dtype=torch.float64))
        self.shape, self.dtype, self.hermitian = (len(points),) * 2, torch.float64, True

    def dense(self):
        squares = (self.points[:, None] - self.points[None, :]) ** 2
        return torch.exp(-squares / self.length**2) + self.noise * torch.eye(len(self.points))

    def matmat(self, x):
        return self.dense() @ x


@pytest.mark.parametrize("way", ["exact", "lanczos"])
def test_a_module_with_parameters(way):
    kernel = Kernel(torch.linspace(0, 1, N, dtype=torch.float64))
    expected = gradient(torch.logdet(kernel.dense()), *kernel.parameters())
    logdet(kernel, method=way, **ALL).backward()
    assert [p.grad.item() for p in kernel.parameters()] == pytest.approx([
        e.item() for e in expected
    ])


def test_an_operator_that_is_itself_a_derivative():
    """Products with the Hessian of ``sum exp(t_i x_i + x_i x_(i+1))``, by autograd in autograd."""
    t = torch.linspace(1, 2, N, dtype=torch.float64, requires_grad=True)
    x = torch.linspace(0, 1, N, dtype=torch.float64, requires_grad=True)

    def loss(y):
        return torch.exp(t * y).sum() + 0.1 * (y[1:] * y[:-1]).sum() + (y**2).sum()

    def product(v):
        (g,) = torch.autograd.grad(loss(x), x, create_graph=True)
        return torch.autograd.grad(g, x, v, create_graph=True)[0]

    op = aslinearoperator(product, n=N, like=t.detach(), hermitian=True)
    hessian = torch.stack([product(e) for e in torch.eye(N, dtype=torch.float64)])
    expected = gradient(torch.logdet(hessian), t)
    assert close(gradient(logdet(op, method="lanczos", **ALL), t), expected)


def test_an_operator_that_turns_out_not_to_be_hermitian():
    """Without an adjoint product it is formed, by its columns, and so is the gradient."""
    a = general(torch.float64)
    op = aslinearoperator(lambda v: a @ v, n=N, like=a.detach())
    found = gradient(logdet(op, method="lanczos"), a)
    assert close(found, torch.linalg.inv(a.detach()).mH)


def test_what_carries_no_gradient_takes_tensors_as_numbers(method, quiet):
    a = positive(torch.float64)
    options = {"method": method, "rng": 0}
    assert not trace(a).requires_grad
    assert not logpdet(a).requires_grad
    assert not trace(a, **options).requires_grad
    with quiet():
        assert not eigencount(a, 0.0, 1.7, **options).requires_grad
    assert density(a, moments=20, bounds=(0.4, 3.1), **options)(np.ones(1)) > 0


# --- What autograd asks of a function ------------------------------------------------------------

FORMS = {
    "dense": lambda a: a,
    "sparse": lambda a: a.to_sparse(),
    "operator": lambda a: aslinearoperator(
        lambda v: a @ v, n=len(a), matmat=lambda x: a @ x, like=a.detach(), hermitian=True
    ),
}
SAMPLED = {"method": "lanczos", "probes": 5, "moments": 40, "rng": 3}


@pytest.mark.parametrize("options", [{"method": "exact"}, SAMPLED], ids=["exact", "sampled"])
@pytest.mark.parametrize("form", FORMS)
def test_a_second_backward_gives_the_same(form, options):
    a = positive(torch.float64)
    value = 2 * logdet(FORMS[form](a), **options)
    (first,) = torch.autograd.grad(value, a, retain_graph=True)
    (second,) = torch.autograd.grad(value, a)
    assert torch.equal(first, second)
    assert torch.equal(gradient(logdet(FORMS[form](a), **options), a) * 2, first)


@pytest.mark.parametrize("options", [{"method": "exact"}, SAMPLED], ids=["exact", "sampled"])
@pytest.mark.parametrize("form", FORMS)
def test_the_value_does_not_depend_on_autograd(form, options):
    a = positive(torch.float64)
    value, info = logdet(FORMS[form](a), return_info=True, **options)
    assert value.requires_grad
    assert value.dtype == torch.float64
    assert value.item() == info.value
    with torch.no_grad():
        bare = logdet(FORMS[form](a), **options)
    assert not bare.requires_grad
    assert torch.equal(bare, value)
    assert not logdet(FORMS[form](a.detach()), **options).requires_grad


@pytest.mark.parametrize("options", [{"method": "exact"}, SAMPLED], ids=["exact", "sampled"])
@pytest.mark.parametrize("form", FORMS)
def test_second_derivatives_are_refused(form, options):
    """Also where another term has some, so that none is lost in silence."""
    a = positive(torch.float64)
    (first,) = torch.autograd.grad(logdet(FORMS[form](a), **options), a, create_graph=True)
    with pytest.raises(NotImplementedError, match="second derivatives"):
        (first.sum() + (a**3).sum()).backward()


def test_a_change_before_backward_is_noticed():
    a = positive(torch.float64)
    value = logdet(a, **SAMPLED)
    with torch.no_grad():
        a.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        value.backward()


@pytest.mark.parametrize("form", FORMS)
def test_nothing_is_added_to_one_matrix_of_order_1_or_0(form):
    one = torch.full((1, 1), 4.0, dtype=torch.float64, requires_grad=True)
    assert gradient(logdet(FORMS[form](one)), one).item() == pytest.approx(0.25)
    none = torch.zeros((0, 0), dtype=torch.float64, requires_grad=True)
    if form != "operator":
        assert gradient(logdet(FORMS[form](none)), none).shape == (0, 0)


@pytest.mark.parametrize("form", FORMS)
def test_where_the_value_is_infinite(form, quiet):
    a = torch.diag(torch.tensor([1.0, 0.0, 2.0], dtype=torch.float64)).requires_grad_()
    with quiet():
        values = [logdet(FORMS[form](a), method=way) for way in ("exact", "lanczos")]
    for value in values:
        with pytest.raises(ValueError, match="the value is infinite"):
            value.backward()


def test_where_there_is_no_derivative():
    a = torch.diag(torch.tensor([1.0, 0.0, 2.0], dtype=torch.float64)).requires_grad_()
    with pytest.raises(ValueError, match="derivative of sqrt is infinite"):
        trace_function(a, "sqrt").backward()
    with pytest.raises(ValueError, match=r"pass a pair f=\(f, derivative\)"):
        trace_function(a, lambda x: x**3).backward()
    trace_function(a, (lambda x: x**3, lambda x: 3 * x**2)).backward()
    assert torch.allclose(a.grad, 3 * a.detach() @ a.detach())


def test_too_few_steps_for_the_derivative_are_told():
    a = positive(torch.float64, low=1e-4, high=1.0, n=200)
    with pytest.warns(AccuracyWarning, match="not to be trusted"):
        value = logdet(a, method="lanczos", moments=8, rng=0)
    with pytest.warns(AccuracyWarning, match="the gradient .* may be off"):
        value.backward()


# --- Chance ------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
def test_the_gradient_is_unbiased(form):
    """Its product with a fixed direction, against the exact one; false alarms below 1e-6."""
    a = positive(torch.float64)
    direction = general(torch.float64, rng=5).detach()
    direction = direction + direction.mH
    truth = (torch.linalg.inv(a.detach()) * direction).sum().item()
    found = []
    for seed in range(40):
        value = logdet(FORMS[form](a), method="lanczos", probes=2, moments=40, rng=seed)
        found.append((gradient(value, a) * direction).sum().item())
    z = (np.mean(found) - truth) / (np.std(found, ddof=1) / math.sqrt(len(found)))
    assert abs(z) < stats.t.ppf(1 - 0.5e-6, len(found) - 1)


def test_the_control_polynomial_takes_variance_away(monkeypatch):
    a = positive(torch.float64)
    truth = torch.linalg.inv(a.detach())

    def error():
        found = [
            gradient(logdet(a, method="lanczos", probes=4, moments=40, rng=seed), a) - truth
            for seed in range(10)
        ]
        return torch.stack(found).square().mean().item()

    with_control = error()
    none = sampled_derivatives.Control(0.0, 0.0, 1e9)
    monkeypatch.setattr(sampled_derivatives.SampledDerivative, "control", lambda *_: none)
    assert error() > 3 * with_control


# --- Memory ------------------------------------------------------------------------------------


class Alive(TorchDispatchMode):
    """Note every storage that is made, and how much of it is still there."""

    def __init__(self):
        super().__init__()
        self.made = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(tensor, torch.Tensor) and tensor.layout == torch.strided:
                storage = tensor.untyped_storage()
                self.made[storage._cdata] = (StorageWeakRef(storage), storage.nbytes())
        return result

    def bytes(self):
        gc.collect()
        return sum(size for ref, size in self.made.values() if not ref.expired())


@pytest.mark.parametrize("form", FORMS)
def test_nothing_is_kept_between_the_value_and_its_gradient(form):
    """Beside A itself: not the Krylov basis, n x steps x probes, nor one block of probes."""
    n = 600
    one, beside = torch.ones(n, dtype=torch.float64), torch.ones(n - 1, dtype=torch.float64)
    a = (3 * one.diag() + 0.5 * (beside.diag(1) + beside.diag(-1))).requires_grad_()
    op = FORMS[form](a)
    with Alive() as alive:
        value = logdet(op, method="lanczos", probes=8, moments=20, rng=0)
    assert len(alive.made) > 100
    own = 4 * (3 * n) if form == "sparse" else n * n  # entries, indices, shorter ones for CSR
    assert alive.bytes() < 8 * (own + n)
    value.backward()
    assert a.grad.shape == (n, n)


def test_no_reference_remains_after_the_value_is_gone():
    a = positive(torch.float64)
    op = FORMS["operator"](a)
    value = logdet(op, **SAMPLED)
    value.backward()
    ref = weakref.ref(op)
    del value, op
    gc.collect()
    assert ref() is None


def test_a_large_sparse_matrix_never_becomes_dense():
    l3 = laplacian(20, 20, 20).tocoo()
    index = torch.tensor(np.array([l3.row, l3.col]))
    a = torch.sparse_coo_tensor(index, torch.tensor(l3.data), l3.shape).requires_grad_()
    found = gradient(logdet(a, method="lanczos", probes=2, moments=40, rng=0, shift=1.0), a)
    assert found.coalesce().values().shape == (l3.nnz,)


# --- Structure, pencils and pilots -------------------------------------------------------------


@pytest.mark.parametrize("way", ["exact", "lanczos"])
def test_tensors_inside_a_low_rank_update(way):
    """d, U and C get gradients, although no operator holds them."""
    torch.manual_seed(0)
    d, u = (2 + torch.rand(12, dtype=torch.float64)), torch.randn(12, 3, dtype=torch.float64)
    c = torch.eye(3, dtype=torch.float64)
    found, expected = [], []
    for gradients in (found, expected):
        parts = [x.clone().requires_grad_() for x in (d, u, c)]
        if gradients is found:
            op = DiagonalPlusLowRank(parts[0], parts[1], C=parts[2])
            value = logdet(op, method=way, probes=12, moments=24)
        else:
            value = torch.logdet(torch.diag(parts[0]) + parts[1] @ parts[2] @ parts[1].mH)
        gradients += torch.autograd.grad(value, parts)
    assert all(close(x, y, 1e-7) for x, y in zip(found, expected, strict=True))


def test_a_large_product_has_an_estimated_gradient():
    """Its value is exact by a rule; n^2 numbers are never formed."""
    rng = np.random.default_rng(0)
    factors = [
        torch.tensor(with_spectrum(np.linspace(1, 1.5, n), rng=rng)).requires_grad_()
        for n in (60, 50)
    ]
    value = logdet(Kronecker(*factors))
    found = torch.autograd.grad(value, factors)
    for x, factor, n in zip(found, factors, (50, 60), strict=True):
        expected = n * torch.linalg.inv(factor.detach())
        assert abs(float((x - expected).diagonal().mean() / expected.diagonal().mean())) < 0.02


@pytest.mark.parametrize("function", [logdet, lambda a, **o: trace_function(a, "log", **o)])
def test_gradients_through_pencils_are_refused(function):
    a = torch.tensor(with_spectrum(np.linspace(1, 2, 8), rng=0))
    for given in (
        {"a": a.clone().requires_grad_(), "b": a},
        {"a": a, "b": a.clone().requires_grad_()},
    ):
        value = function(given["a"], B=given["b"])
        with pytest.raises(NotImplementedError, match="through B"):
            value.backward()


@pytest.mark.filterwarnings("ignore::specdens.AccuracyWarning")
@pytest.mark.parametrize("form", ["symmetric", "general", "dominated"])
def test_the_gradient_of_what_a_pilot_chose(form):
    """A tenth in norm, of a matrix near the identity; with and without deflation."""
    n = 400
    rng = np.random.default_rng(0)
    a = with_spectrum(np.linspace(1, 2, n), rng=0)
    if form == "general":
        a = a + 0.1 * rng.standard_normal((n, n)) / math.sqrt(n)
    if form == "dominated":
        a = with_spectrum(np.append(np.linspace(1, 1.1, n - 4), [1e3, 2e3, 4e3, 8e3]), rng=0)
    live = torch.tensor(a).requires_grad_()
    _, info = value = logdet(live, method="lanczos", max_matvecs=300, rng=0, return_info=True)
    (found,) = torch.autograd.grad(value[0], live)
    expected = torch.linalg.inv(live.detach()).mH
    assert (info.deflated > 0) == (form == "dominated")
    assert abs(float(found.trace() / expected.trace()) - 1) < 0.05


def test_a_function_called_log_is_not_the_logarithm():
    def log(x):
        return x**2

    a = torch.tensor([[2.0, 1.0], [1.0, 3.0]], dtype=torch.float64, requires_grad=True)
    value = trace_function(a, (log, lambda x: 2 * x))
    value.backward()
    assert float(value.detach()) == pytest.approx(15)
    assert close(a.grad, 2 * a.detach(), 1e-12)


@pytest.mark.filterwarnings("ignore::specdens.AccuracyWarning")
def test_derivatives_are_of_runs_as_long_as_the_longest_of_the_value():
    """Short runs are corrected by long ones; nothing corrects a derivative from short runs."""
    eigenvalues = np.geomspace(1e-3, 1, 1200)
    a = torch.tensor(with_spectrum(eigenvalues, rng=0))
    ratios = []
    for seed in range(3):
        shift = torch.tensor(0.0, dtype=torch.float64, requires_grad=True)
        options = {"method": "lanczos", "max_matvecs": 400, "rng": seed}
        value, info = logdet(a, shift=shift, return_info=True, **options)
        assert info.samples * info.steps > 400
        value.backward()
        ratios.append(float(shift.grad) / np.sum(1 / eigenvalues))
    assert np.mean(ratios) == pytest.approx(1, abs=0.035)


KERNELS = {
    "wide": (0.3, 1.0),
    "wide, little noise": (0.3, 0.1),
    "narrow": (0.08, 0.3),
}


@pytest.mark.filterwarnings("ignore::specdens.AccuracyWarning")
@pytest.mark.parametrize("options", [{"rtol": 1e-3}, {"moments": 40, "probes": 20}])
@pytest.mark.parametrize("kernel", KERNELS)
def test_gradients_of_kernels_are_no_noise(kernel, options):
    """Few huge eigenvalues once made them a thousand times noisier than those of plain probes."""
    width, noise = KERNELS[kernel]
    x = torch.linspace(0, 1, 400, dtype=torch.float64)[:, None]
    length = torch.tensor(width, dtype=torch.float64, requires_grad=True)

    def matrix():
        square = ((x - x.T) / length) ** 2
        return torch.exp(-0.5 * square) + noise * torch.eye(400, dtype=torch.float64)

    (truth,) = torch.autograd.grad(torch.linalg.slogdet(matrix())[1], length)
    errors = []
    for seed in range(5):
        value = logdet(matrix(), method="lanczos", rng=seed, **options)
        errors.append(float(torch.autograd.grad(value, length)[0] / truth - 1))
    assert np.sqrt(np.mean(np.square(errors))) < 0.15
