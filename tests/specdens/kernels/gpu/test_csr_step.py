"""Steps with Torch's matrices: on CPUs as fast as SciPy's, on GPUs by Triton.

Without a GPU, Triton's interpreter runs the kernel and its compiler translates it; what CUDA alone
can do is marked.
"""

import importlib.util
import os
import subprocess
import sys

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from specdens import aslinearoperator, density, logdet
from specdens.arrays.libraries import to_host
from specdens.kernels import compiled as _kernels
from specdens.kernels.gpu import csr_step as torch_step
from specdens.kernels.gpu import cuda_graph as replay
from specdens.operators import sparse
from specdens.recurrences import lanczos
from specdens.recurrences.chebyshev_moments import chebyshev_moments
from specdens.testing import laplacian
from tests.specdens.matrices import block, random_rows

DTYPES = ["float32", "float64", "complex64", "complex128"]
UNIT = {name: float(np.finfo(name).eps) for name in DTYPES}
CUDA = torch.cuda.is_available()
DEVICE = "cuda" if CUDA else "cpu"
"""Where kernels of Triton run: those of a CPU are interpreted."""


has_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="Triton is not installed"
)

has_library = pytest.mark.skipif(
    not (CUDA or torch.backends.mkl.is_available()), reason="Torch has no sparse products in place"
)


def on_gpu(test):
    return pytest.mark.gpu(pytest.mark.skipif(not CUDA, reason="there is no GPU")(test))


def graph(dtype):
    """A Hermitian matrix, complex where that is asked for."""
    a = sp.csr_array(laplacian(9, 11)).astype(dtype)
    if dtype.startswith("complex"):
        hop = sp.csr_array(sp.diags_array(np.full(98, 0.5j), offsets=1))
        a = sp.csr_array(a + hop + hop.conj().T).astype(dtype)
    return a


def tensor_of(a, layout="coo", device="cpu"):
    coo = torch.sparse_coo_tensor(
        np.array(a.tocoo().coords), a.data, a.shape, check_invariants=True
    )
    return (coo if layout == "coo" else coo.to_sparse_csr()).to(device)


def triton_recurrence(*csr):
    return torch_step.csr_recurrence(*csr, columns=4)


makers = pytest.mark.parametrize(
    "maker",
    [
        pytest.param(triton_recurrence, marks=has_triton, id="triton"),
        pytest.param(torch_step.library_recurrence, marks=has_library, id="library"),
    ],
)


@makers
@pytest.mark.parametrize("dtype", DTYPES)
@given(
    n=st.sampled_from([0, 1, 2, 7, 300]),
    width=st.sampled_from([4, 8, 32, 64]),
    seed=st.integers(0, 999),
    index=st.sampled_from(["int32", "int64"]),
    zero=st.sampled_from(["none", "none", "a", "b", "c"]),
)
@settings(max_examples=6, deadline=None)
def test_the_step_is_the_plain_one(maker, dtype, n, width, seed, index, zero):
    rng = np.random.default_rng(seed)
    abc = rng.standard_normal((3, width)) if seed % 2 else rng.standard_normal(3)
    a, b, c = (0.0 if name == zero else k for name, k in zip("abc", abc, strict=True))
    csr = random_rows(rng, n, dtype, index)
    x, y = block(rng, (n, width), dtype), block(rng, (n, width), dtype)
    wide = np.result_type(dtype, np.float64)
    matrix = sp.csr_array((csr[2].astype(wide), *csr[1::-1]), shape=(n, n), copy=True)
    expected = a * (matrix @ x.astype(wide)) + b * x + c * y
    size = np.abs(a) * (abs(matrix) @ np.abs(x)) + np.abs(b * x) + np.abs(c * y)

    tensors = [torch.from_numpy(part.copy()).to(DEVICE) for part in (*csr, x, y)]
    step = maker(*tensors[:3])
    squares, mixed = step(*tensors[3:], a, b, c)

    assert squares.dtype == mixed.dtype == torch.float64
    assert squares.shape == mixed.shape == (width,)
    found = tensors[4].cpu().numpy().astype(wide)
    assert np.all(np.abs(found - expected) <= 50 * UNIT[dtype] * size)
    norms = (np.abs(found) ** 2).sum(axis=0)
    products = (found.conj() * x.astype(wide)).sum(axis=0).real
    assert np.all(np.abs(to_host(squares) - norms) <= 1e-13 * (1 + norms))
    assert np.all(np.abs(to_host(mixed) - products) <= 1e-12 * (1 + np.abs(found * x).sum(axis=0)))
    for old, new in zip((*csr, x), tensors, strict=False):
        assert np.array_equal(old, new.cpu().numpy())


@makers
@pytest.mark.parametrize("dtype", DTYPES)
def test_coefficients_may_lie_on_the_device(maker, dtype):
    rng = np.random.default_rng(0)
    csr = [torch.from_numpy(part).to(DEVICE) for part in random_rows(rng, 40, dtype, "int32")]
    x, y = (torch.from_numpy(block(rng, (40, 4), dtype)).to(DEVICE) for _ in range(2))
    abc = rng.standard_normal((3, 4))
    there, here = y.clone(), y.clone()
    maker(*csr)(x, there, *torch.from_numpy(abc).to(DEVICE))
    maker(*csr)(x, here, *abc)
    assert torch.equal(there, here)


@has_triton
@pytest.mark.parametrize("limit", ["LONGEST_ROW", "MOST_ENTRIES"])
def test_what_a_program_cannot_read_goes_to_the_library(monkeypatch, limit):
    monkeypatch.setattr(torch_step, limit, 3)
    called = []
    monkeypatch.setattr(torch_step, "library_recurrence", lambda *csr: called.append(csr))
    csr = [
        torch.from_numpy(part)
        for part in random_rows(np.random.default_rng(0), 9, "float32", "int32")
    ]
    torch_step.csr_recurrence(*csr, columns=8)
    assert called


@has_triton
def test_chunks_depend_on_the_shape_alone():
    from specdens.kernels.gpu import triton_csr as triton_step

    assert [triton_step._chunk(n, 16) for n in (0, 10**3, 10**6, 10**9)] == [16, 16, 128, 512]


class OnDevice(sparse.TorchSparseOperator):
    """A matrix that takes the steps of a device wherever it lies."""

    def recurrence(self, columns):
        return torch_step.csr_recurrence(*self._csr, columns)


@has_triton
@pytest.mark.parametrize("dtype", ["float64", "complex64"])
def test_whole_runs_take_the_step(monkeypatch, dtype):
    monkeypatch.setattr(torch_step, "BELOW", 2**40 if CUDA else 0)
    monkeypatch.setattr(lanczos, "EXACT_UP_TO", 0)
    a = graph(dtype)
    start = block(np.random.default_rng(0), (99, 3), dtype)
    op = OnDevice(tensor_of(a, device=DEVICE))
    there = torch.from_numpy(start).to(DEVICE)
    found = chebyshev_moments(op, there, 24, -2, 12)
    expected = chebyshev_moments(aslinearoperator(a), start, 24, -2, 12)
    np.testing.assert_allclose(found, expected, atol=1e3 * UNIT[dtype])
    for one, other in zip(
        lanczos.tridiagonalize(op, there, 6),
        lanczos.tridiagonalize(aslinearoperator(a), start, 6),
        strict=True,
    ):
        np.testing.assert_allclose(one.diagonal, other.diagonal, rtol=1e4 * UNIT[dtype])
        np.testing.assert_allclose(one.off_diagonal, other.off_diagonal, rtol=1e4 * UNIT[dtype])


class Recorder:
    """What a CUDA graph does, by running the launches again."""

    def __init__(self):
        self.recorded = self.replays = 0

    def __call__(self, launch):
        self.recorded += 1
        written = (torch.zeros(4), torch.zeros(4))

        def run():
            self.replays += 1
            for place, dots in zip(written, launch(), strict=True):
                place.copy_(dots)

        return run, written


def test_a_recurrence_is_recorded_once_and_replayed():
    recorder, launches = Recorder(), []

    def step(x, y, a, b, c):
        launches.append((a, b, c))
        y[:] = a * x + b * x + c * y
        return (y * y).sum(dim=0), (y * x).sum(dim=0)

    again = replay.replayed(step, recorder)
    x, y = torch.ones(3, 4) / 2, torch.zeros(3, 4)
    u, v = x.clone(), y.clone()
    found, expected = [], []
    for k in range(30):
        a = 0.5 if k else 0.25
        found.append(again(x, y, a, 0.125, -1.0))
        expected.append(step(u, v, a, 0.125, -1.0))
        x, y, u, v = y, x, v, u
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one[0], other[0])
        assert torch.equal(one[1], other[1])
    assert recorder.recorded == 2
    assert recorder.replays == 29 - 2 * replay.AFTER


def test_changing_coefficients_are_not_recorded():
    recorder = Recorder()
    again = replay.replayed(lambda x, y, *abc: (y.sum(dim=0), x.sum(dim=0)), recorder)
    x = torch.ones(2, 4)
    for k in range(3 * replay.AFTER):
        again(x, x, np.full(4, 0.5), 0.0, 1.0)
        again(x, x, float(k), 0.0, 1.0)
    assert recorder.recorded == 0


@pytest.mark.parametrize("layout", ["coo", "csr"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta")
def test_moments_of_a_tensor_on_the_host_are_those_of_scipy(for_small_ones, layout, dtype):
    a, start = graph(dtype), block(np.random.default_rng(0), (99, 3), dtype)
    found = chebyshev_moments(
        aslinearoperator(tensor_of(a, layout)), torch.from_numpy(start), 11, -2, 12
    )
    expected = chebyshev_moments(aslinearoperator(a), start, 11, -2, 12)
    np.testing.assert_allclose(found, expected, atol=1e-13)  # only mu_0 is summed in another order


def test_blocks_and_entries_on_the_host_are_shared(for_small_ones):
    op = aslinearoperator(tensor_of(graph("float64")))
    assert np.shares_memory(op._host_csr.data, op.values().numpy())
    x, y = torch.ones(99, 4, dtype=torch.float64), torch.zeros(99, 4, dtype=torch.float64)
    op.recurrence(4)(x, y, 1.0, 0.0, 0.0)
    torch.testing.assert_close(y, op @ x)


@pytest.mark.parametrize("dtype", DTYPES)
def test_products_on_the_host_are_those_of_the_dense_matrix(dtype):
    rng = np.random.default_rng(0)
    a = sp.random_array((30, 20), density=0.2, rng=rng).astype(dtype)
    a.data = block(rng, a.data.shape, dtype)
    op = aslinearoperator(tensor_of(a))
    x, y = (torch.from_numpy(block(rng, (size, 3), dtype)) for size in (20, 30))
    dense = torch.from_numpy(a.toarray())
    torch.testing.assert_close(op.matmat(x), dense @ x)
    torch.testing.assert_close(op.rmatmat(y), dense.mH @ y)
    torch.testing.assert_close(op.rmatmat(y.conj()), dense.mH @ y.conj())
    x.requires_grad_()
    assert op.matmat(x).requires_grad


COMPILES = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from specdens.kernels.gpu import triton_csr as triton_step

kernel = triton_step._update_rows
for real, width, parts in [("fp64", 32, 1), ("fp32", 16, 2), ("fp32", 4, 1)]:
    arrays = {"crow": "i32", "col": "i32", "values": real, "x": real, "y": real, "abc": real,
              "partial": "fp64"}
    signature = {name: "*" + kind for name, kind in arrays.items()} | {"n": "i32", "chunk": "i32"}
    rows = triton_step.WARPS * 32 * 16 // (8 if real == "fp64" else 4) // width
    constants = {"ROWS": rows, "WIDTH": width, "PARTS": parts, "PRODUCT": True,
                 "UNROLL": triton_step.UNROLLED}
    names = [*signature, *constants]
    source = ASTSource(
        kernel, signature | dict.fromkeys(constants, "constexpr"),
        constexprs={(names.index(name),): value for name, value in constants.items()},
        attrs={(k,): [["tt.divisibility", 16]] for k, name in enumerate(names) if name in arrays},
    )
    for capability in (80, 90):
        options = {"num_warps": triton_step.WARPS}
        built = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
        whole = "ld.global.v2.b64" if real == "fp64" else "ld.global.v4.b32"
        assert built.asm["ptx"].count(whole) >= 2 + triton_step.UNROLLED, (real, capability)
"""


@has_triton
def test_the_kernel_compiles_and_threads_read_16_bytes_at_once(tmp_path):
    """For GPUs of two generations, without one: NVIDIA's assembler comes with Triton."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    environment["TRITON_CACHE_DIR"] = str(tmp_path)
    subprocess.run([sys.executable, "-c", COMPILES], check=True, env=environment)


@on_gpu
@pytest.mark.parametrize("columns", [4, 8, 32])
@pytest.mark.parametrize("dtype", DTYPES)
def test_moments_on_a_gpu_are_those_of_the_plain_path(for_small_ones, monkeypatch, dtype, columns):
    a, start = graph(dtype), block(np.random.default_rng(0), (99, columns), dtype)
    op = aslinearoperator(tensor_of(a, device="cuda"))
    there = torch.from_numpy(start).cuda()
    found = chebyshev_moments(op, there, 200, -2, 12)
    again = chebyshev_moments(op, there, 200, -2, 12)
    monkeypatch.setattr(torch_step, "BELOW", 0)
    launched = chebyshev_moments(op, there, 200, -2, 12)
    monkeypatch.setenv("SPECDENS_KERNELS", "off")
    expected = chebyshev_moments(op, there, 200, -2, 12)
    np.testing.assert_array_equal(found, again)
    np.testing.assert_array_equal(found, launched)
    assert np.abs(found - expected).max() <= 1e4 * UNIT[dtype]


@on_gpu
def test_a_graph_replays_the_bits_of_plain_launches():
    rng = np.random.default_rng(0)
    csr = [torch.from_numpy(p).cuda() for p in random_rows(rng, 5000, "float64", "int32")]
    first = torch.from_numpy(block(rng, (5000, 32), "float64")).cuda()
    found = []
    for below in (2**40, 0):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(torch_step, "BELOW", below)
            step = torch_step.csr_recurrence(*csr, columns=32)
        x, y, rows = first.clone(), torch.zeros_like(first), []
        for _ in range(60):
            rows += step(x, y, 0.01, 0.02, -0.5)
            x, y = y, x
        found.append(torch.stack(rows).cpu())
    assert torch.equal(*found)


@on_gpu
def test_no_step_waits_for_the_gpu():
    rng = np.random.default_rng(0)
    csr = [torch.from_numpy(p).cuda() for p in random_rows(rng, 300, "float64", "int32")]
    step = torch_step.csr_recurrence(*csr, columns=8)
    x, y = (torch.from_numpy(block(rng, (300, 8), "float64")).cuda() for _ in range(2))
    step(x, y, 0.5, 0.25, -1.0)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(3 * replay.AFTER):
            step(x, y, 0.5, 0.25, -1.0)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@on_gpu
def test_cupy_shares_its_memory(for_small_ones):
    cupy = pytest.importorskip("cupy")
    import cupyx.scipy.sparse

    a, start = graph("float64"), block(np.random.default_rng(0), (99, 8), "float64")
    op = aslinearoperator(cupyx.scipy.sparse.csr_matrix(a))
    for stream in (cupy.cuda.Stream.null, cupy.cuda.Stream(non_blocking=True)):
        with stream:
            found = chebyshev_moments(op, cupy.asarray(start), 40, -2, 12)
        expected = chebyshev_moments(aslinearoperator(a), start, 40, -2, 12)
        np.testing.assert_allclose(found, expected, atol=1e-12)


@on_gpu
def test_results_on_a_gpu_are_those_of_the_host(for_small_ones):
    a = sp.csr_array(laplacian(40, 40) + 0.1 * sp.eye_array(1600))
    there = tensor_of(a, device="cuda")
    here = tensor_of(a)
    options = {"moments": 60, "probes": 8, "rng": 0}
    x = np.linspace(0.2, 8, 50)
    expected = density(here, bounds=(0, 9), **options)(x)
    np.testing.assert_allclose(density(there, bounds=(0, 9), **options)(x), expected, rtol=1e-9)
    options |= {"method": "lanczos"}
    expected = float(logdet(here, **options))
    assert float(logdet(there, **options)) == pytest.approx(expected, rel=1e-9)


def test_widths_are_powers_of_two():
    assert all(width & (width - 1) == 0 for width in _kernels.WIDTHS)
