"""Every backend runs the same tests; a GPU's join where there is one."""

import importlib.util
import warnings
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import array_api_strict
import numpy as np
import pytest
import torch

from specdens.arrays.libraries import namespace


@dataclass(frozen=True)
class Backend:
    """An array library and a device: ``backend(x)`` brings a NumPy array there."""

    name: str
    library: Any
    device: Any

    def __call__(self, x: Any, dtype: str | None = None) -> Any:
        x = np.asarray(x)
        dtype = getattr(self.library, dtype or str(x.dtype))
        if self.library is np:
            return np.asarray(x, dtype=dtype)
        return self.library.asarray(x, dtype=dtype, device=self.device)

    @property
    def xp(self) -> Any:
        return namespace(self(np.zeros(1)))

    def dtype(self, name: str) -> Any:
        return getattr(self.xp, name)


def _backends() -> list[Any]:
    found = [
        Backend("numpy", np, "cpu"),
        Backend("torch", torch, torch.device("cpu")),
        Backend("strict", array_api_strict, array_api_strict.Device("CPU_DEVICE")),
        Backend("strict:other-device", array_api_strict, array_api_strict.Device("device1")),
    ]
    gpu = pytest.mark.gpu
    params = [pytest.param(b, id=b.name) for b in found]
    if torch.cuda.is_available():
        there = Backend("torch:cuda", torch, torch.device("cuda", 0))
        params.append(pytest.param(there, id=there.name, marks=gpu))
    if importlib.util.find_spec("cupy") is not None:
        import cupy

        there = Backend("cupy", cupy, cupy.cuda.Device(0))
        params.append(pytest.param(there, id=there.name, marks=gpu))
    return params


@pytest.fixture(params=_backends(), scope="session")
def backend(request: pytest.FixtureRequest) -> Backend:
    return request.param


@pytest.fixture(params=["lanczos", "chebyshev"], scope="session")
def method(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def quiet():
    """A context in which doubt may be voiced without failing the test."""

    @contextmanager
    def context():
        import specdens

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", specdens.AccuracyWarning)
            yield

    return context
