"""Operators of others that reuse memory: products must not see each other's."""

import numpy as np
import pytest
import scipy.sparse.linalg as sla

import specdens

N = 60
WIDE = 400
"""Columns with which a block is too large to be copied without a thought."""

D = np.linspace(1, 5, N)


def reuses_a_buffer(d, like):
    out = np.empty(like)

    def apply(v):
        return np.multiply(d, v, out=out)

    return apply


def works_in_place(d, _):
    def apply(v):
        v *= d
        return v

    return apply


def scales_its_argument(d, _):
    def apply(v):
        v *= 2
        return d * v / 2

    return apply


def gives_a_view_of_its_buffer(d, like):
    out = np.empty((2, *like) if isinstance(like, tuple) else (2, like))

    def apply(v):
        np.multiply(d, v, out=out[1])
        return out[1][:]

    return apply


def takes_turns(d, like):
    buffers = [np.empty(like), np.empty(like)]

    def apply(v):
        buffers.reverse()
        return np.multiply(d, v, out=buffers[0])

    return apply


KINDS = [
    reuses_a_buffer,
    works_in_place,
    scales_its_argument,
    gives_a_view_of_its_buffer,
    takes_turns,
]


def remembered(make, d):
    """Return a function of blocks with one memory for each shape."""
    known = {}

    def apply(x):
        if x.shape not in known:
            known[x.shape] = make(d[:, None], x.shape)
        return known[x.shape](x)

    return apply


class Scipy(sla.LinearOperator):
    def __init__(self, apply):
        super().__init__(np.float64, (N, N))
        self.apply = apply

    def _matvec(self, v):
        return self.apply(v.ravel())

    _rmatvec = _matvec


class Bare:
    shape = (N, N)
    hermitian = True

    def __init__(self, apply):
        self.matvec = apply


def operators(make):
    vector = make(D, N)
    block = remembered(make, D)
    yield specdens.aslinearoperator(vector, n=N, hermitian=True)
    yield specdens.aslinearoperator(vector, n=N, rmatvec=make(D, N))
    yield specdens.aslinearoperator(vector, n=N, matmat=block, rmatmat=block)
    yield specdens.aslinearoperator(sla.LinearOperator((N, N), vector, rmatvec=vector, dtype=float))
    yield specdens.aslinearoperator(
        sla.LinearOperator((N, N), vector, rmatvec=vector, matmat=block, rmatmat=block, dtype=float)
    )
    scipy = Scipy(vector)
    yield specdens.aslinearoperator(scipy)
    yield specdens.aslinearoperator(0.5 * (scipy + scipy.H))
    yield specdens.aslinearoperator(scipy**2 + (scipy.T @ scipy - scipy @ scipy) - scipy**2 + scipy)
    yield specdens.aslinearoperator(Bare(vector))


@pytest.mark.parametrize("make", KINDS)
@pytest.mark.parametrize("columns", [1, 7, WIDE])
def test_products_share_no_memory(make, columns):
    g = np.random.default_rng(0)
    for op in operators(make):
        x, y = g.standard_normal((2, N, columns))
        kept = x.copy(), y.copy()
        first, second, adjoint = op.matmat(x), op.matmat(y), op.rmatmat(x)
        np.testing.assert_allclose(first, D[:, None] * kept[0], rtol=1e-12)
        np.testing.assert_allclose(second, D[:, None] * kept[1], rtol=1e-12)
        np.testing.assert_allclose(adjoint, first, rtol=1e-12)
        np.testing.assert_array_equal(x, kept[0])
        np.testing.assert_array_equal(y, kept[1])


@pytest.mark.parametrize("make", KINDS)
def test_traces_and_determinants(make):
    for op in operators(make):
        claim = specdens.aslinearoperator(op, hermitian=True)
        claim.hermitian = True
        assert float(specdens.trace(claim, method="exact")) == pytest.approx(D.sum(), rel=1e-12)
        found = specdens.logdet(claim, method="lanczos", probes=N, moments=120)
        assert float(found) == pytest.approx(np.log(D).sum(), rel=1e-10)


@pytest.mark.parametrize("columns", [3, WIDE])
def test_of_torch(columns):
    torch = pytest.importorskip("torch")
    d, out = torch.linspace(1, 5, N, dtype=torch.float64), np.empty((N, columns))
    buffer = torch.empty(N, columns, dtype=torch.float64)
    vector = torch.empty(N, dtype=torch.float64)
    functions = [
        {"matmat": lambda x: torch.mul(d[:, None], x, out=buffer)},
        {"matmat": lambda x: x.mul_(d[:, None])},
        {"matmat": lambda x: x.mul_(d[:, None]).view(N, -1)},
        {"matmat": lambda x: torch.from_numpy(np.multiply(D[:, None], x.numpy(), out=out))},
        {},
    ]
    for products in functions:
        op = specdens.aslinearoperator(
            lambda v: torch.mul(d, v, out=vector), n=N, like=d, hermitian=True, **products
        )
        x, y = torch.randn(2, N, columns, dtype=torch.float64, generator=torch.manual_seed(0))
        kept = x.clone()
        first, second = op.matmat(x), op.matmat(y)
        torch.testing.assert_close(first, d[:, None] * kept)
        torch.testing.assert_close(second, d[:, None] * y)
        torch.testing.assert_close(x, kept)


def test_histories_pass():
    torch = pytest.importorskip("torch")
    d = torch.linspace(1, 5, N, dtype=torch.float64, requires_grad=True)
    op = specdens.aslinearoperator(lambda v: d * v, n=N, like=d.detach(), hermitian=True)
    specdens.logdet(op, method="lanczos", probes=N, moments=120).backward()
    torch.testing.assert_close(d.grad, 1 / d.detach())


def test_fresh_blocks_are_not_copied():
    x, made = np.ones((N, WIDE)), []

    def product(block):
        y = 2 * block
        made.append(y.__array_interface__["data"][0])
        return y

    op = specdens.aslinearoperator(lambda v: 2 * v, n=N, matmat=product, hermitian=True)
    for _ in range(3):
        assert op.matmat(x).__array_interface__["data"][0] == made[-1]


def test_a_change_that_comes_late_is_refused():
    calls = []

    def product(block):
        calls.append(1)
        if len(calls) > 2:
            block *= 2
        return block * 1.0

    op = specdens.aslinearoperator(lambda v: v, n=N, matmat=product, hermitian=True)
    x = np.ones((N, WIDE))
    op.matmat(x)
    op.matmat(x)
    with pytest.raises(ValueError, match="changed its argument"):
        op.matmat(x)
