"""The same numbers on every array library; nothing big on the way to the host; no heavy import."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from torch.overrides import TorchFunctionMode

from specdens import (
    Gram,
    aslinearoperator,
    density,
    diagonal,
    diagonal_function,
    eigencount,
    local_density,
    logdet,
    logpdet,
    slogdet,
    spectral_bounds,
    trace,
    trace_function,
)
from specdens.arrays import libraries as arrays
from specdens.testing import with_spectrum

EIGENVALUES = np.linspace(0.4, 3, 50)


def matrix(dtype):
    return with_spectrum(EIGENVALUES, rng=7, dtype=np.dtype(dtype))


CALLS = {
    "logdet": lambda a, m: logdet(a, method=m, rng=1, moments=30, bounds=(0.4, 3)),
    "logdet, bounds found": lambda a, m: logdet(a + 0 * a, method=m, rng=1, moments=60),
    "logpdet": lambda a, _: logpdet(a, method="lanczos", rng=1, moments=60),
    "trace": lambda a, m: trace(a, method=m, rng=1),
    "exp": lambda a, m: trace_function(a, "exp", method=m, rng=1, bounds=(0.4, 3)),
    "eigencount": lambda a, m: eigencount(a, 0.5, 2, method=m, rng=1, moments=40, probes=50),
    "gram": lambda a, m: logdet(Gram(a, shift=0.1), method=m, rng=1, moments=40),
}


@pytest.mark.filterwarnings("ignore::specdens.AccuracyWarning")
@pytest.mark.parametrize("dtype", ["float64", "complex128", "float32", "complex64"])
@pytest.mark.parametrize("name", CALLS)
def test_every_backend_gives_what_numpy_gives(backend, method, dtype, name):
    a = matrix("complex128" if "complex" in dtype else "float64")
    single = dtype in {"float32", "complex64"}
    found = CALLS[name](backend(a, dtype), method)
    reference = CALLS[name](a.astype(dtype), method)
    tolerance = 1e-3 if single else 1e-10
    host = arrays.to_host(found).item()
    assert host == pytest.approx(complex(reference), rel=tolerance, abs=tolerance)
    real = "float32" if single else "float64"
    kept = dtype if name == "trace" else real
    assert found.dtype == backend.dtype(kept)
    assert arrays.namespace(found) is backend.xp
    assert str(arrays.device(found)) == str(backend.device)


@pytest.mark.parametrize("dtype", ["float64", "complex128"])
def test_densities_of_every_backend(backend, method, dtype):
    a = matrix(dtype)
    x = np.linspace(0.5, 2.9, 20)
    options = {"method": method, "moments": 50, "bounds": (0.4, 3.0)}
    rho, reference = density(backend(a), rng=1, **options), density(a, rng=1, **options)
    assert np.allclose(rho(x), reference(x), atol=1e-9)
    assert np.allclose(rho(backend(x)), reference(x), atol=1e-9)
    assert np.allclose(rho.stderr(x), reference.stderr(x), atol=1e-9)
    local = local_density(backend(a), [0, 7], **options)
    assert np.allclose(local(x), local_density(a, [0, 7], **options)(x), atol=1e-9)


def test_exact_results_stay_on_the_device(backend):
    for value in (
        logdet(backend(matrix("float64"))),
        *slogdet(backend(matrix("complex128"))),
        trace_function(backend(matrix("float64")), "exp"),
        logpdet(backend(matrix("float64"))),
        eigencount(backend(matrix("float64")), 0, 1),
    ):
        assert str(arrays.device(value)) == str(backend.device)
        assert value.ndim == 0


class Spy(TorchFunctionMode):
    """Note the size of every tensor that is on its way to the host."""

    WAYS = ("cpu", "numpy", "tolist", "item", "__array__", "__float__", "__bool__", "__int__")

    def __init__(self):
        super().__init__()
        self.largest = 0

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if getattr(func, "__name__", "") in self.WAYS and isinstance(args[0], torch.Tensor):
            self.largest = max(self.largest, args[0].numel())
        return func(*args, **(kwargs or {}))


N = 700
SPIED = {
    "logdet": lambda a, m: logdet(a, method=m, bounds=(0.4, 3), rng=0),
    "logdet, bounds found": lambda a, m: logdet(a, method=m, moments=60, rng=0),
    "slogdet, exact": lambda a, _: slogdet(a),
    "nonsymmetric": lambda a, m: logdet(
        a + torch.triu(0.01 * torch.ones_like(a), 1), method=m, moments=60, rng=0
    ),
    "logpdet": lambda a, _: logpdet(a, method="lanczos", moments=60, rng=0),
    "logpdet, exact": lambda a, _: logpdet(a),
    "trace": lambda a, m: trace(a, method=m, rng=0),
    "trace, exact": lambda a, _: trace(a),
    "xtrace": lambda a, _: trace(a, method="xtrace", rng=0),
    "xnystrace": lambda a, _: trace(a, method="xnystrace", rng=0),
    "hutch++": lambda a, _: trace(a, method="hutch++", rng=0),
    "orthogonal": lambda a, m: trace(a, method=m, distribution="orthogonal", rng=0),
    "xdiag": lambda a, _: diagonal(a, method="xdiag", rng=0),
    "diag++": lambda a, _: diagonal(a, method="diag++", rng=0),
    "diagonal of exp": lambda a, _: diagonal_function(a, "exp", method="xdiag", probes=5, rng=0),
    "exp": lambda a, m: trace_function(a, "exp", method=m, bounds=(0.4, 3), rng=0),
    "exp, exact": lambda a, _: trace_function(a, "exp"),
    "density": lambda a, m: density(a, method=m, moments=40, rng=0),
    "density, exact": lambda a, _: density(a, moments=40),
    "local density": lambda a, m: local_density(a, [0, 3], method=m, moments=40),
    "local density, exact": lambda a, _: local_density(a, [0, 3], method="exact", moments=40),
    "eigencount": lambda a, m: eigencount(a, 0.5, 1, method=m, moments=40, rng=0),
    "eigencount, exact": lambda a, _: eigencount(a, 0.5, 1),
    "bounds": lambda a, _: spectral_bounds(a, rng=0),
    "gram": lambda a, m: logdet(Gram(a, shift=0.1), method=m, rng=0),
    "operator": lambda a, m: logdet(
        aslinearoperator(lambda v: a @ v, n=N, matmat=lambda x: a @ x, like=a), method=m, rng=0
    ),
}


@pytest.mark.filterwarnings("ignore::specdens.AccuracyWarning")
@pytest.mark.parametrize("name", SPIED)
def test_no_array_of_size_n_reaches_the_host(method, name):
    """The other device of array-api-strict refuses; for Torch every way out is watched."""
    a = torch.tensor(with_spectrum(np.linspace(0.4, 3, N), rng=0))
    with Spy() as spy:
        SPIED[name](a, method)
    assert 0 < spy.largest < N


def test_the_spy_sees_what_it_should():
    with Spy() as spy:
        torch.ones(50).numpy()
    assert spy.largest == 50


IMPORT = """
import sys, time
import numpy, scipy.sparse, scipy.linalg, scipy.sparse.linalg
before, start = set(sys.modules), time.process_time()
import specdens
print(time.process_time() - start)
print(*sorted({m.split(".")[0] for m in set(sys.modules) - before}))
print(*[m for m in sys.modules if m.startswith("scipy.stats")])
"""


def test_import_loads_little():
    """At most 0.1 s of CPU beyond NumPy and SciPy's sparse and linalg; the best of five runs."""
    times = []
    for _ in range(5):
        run = subprocess.run(
            [sys.executable, "-c", IMPORT], capture_output=True, text=True, check=True
        )
        spent, modules, stats = run.stdout.splitlines()
        times.append(float(spent))
        assert not {"torch", "numba", "cupy", "matplotlib", "pandas"} & set(modules.split())
        assert stats == ""
    assert min(times) <= 0.1
