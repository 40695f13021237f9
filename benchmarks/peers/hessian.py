"""Spectra of a Hessian by curvlinops and PyHessian: extreme Ritz values, and the network.

What a caller makes once, an operator and the graph that PyHessian keeps, is kept here, too: only a
first call, which warms up, makes it.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import nn

__all__ = ["by_curvlinops", "by_pyhessian", "problem"]

INPUTS, HIDDEN, CLASSES, SAMPLES = 784, 512, 10, 1000


@cache
def problem() -> tuple[nn.Module, tuple[torch.Tensor, torch.Tensor]]:
    """Return a perceptron of 407,050 parameters and its data: the same ones in each process."""
    generator = torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(INPUTS, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, CLASSES))
    inputs = torch.randn(SAMPLES, INPUTS, generator=generator)
    return model, (inputs, torch.randint(0, CLASSES, (SAMPLES,), generator=generator))


def by_curvlinops(steps: int, probes: int, bounds: list[float] | None) -> list[float]:
    """Its stochastic Lanczos quadrature; without `bounds` they are found by ARPACK."""
    from curvlinops.papyan2020traces import spectrum

    seen: list[float] = []
    lanczos = spectrum.fast_lanczos

    def noting(*arguments: Any) -> Any:
        values, vectors = lanczos(*arguments)
        seen.extend(float(value) for value in values)
        return values, vectors

    spectrum.fast_lanczos = noting
    try:
        spectrum.lanczos_approximate_spectrum(
            _curvlinops_operator(), steps, num_repeats=probes,
            boundaries=None if bounds is None else tuple(bounds),
        )  # fmt: skip
    finally:
        spectrum.fast_lanczos = lanczos
    return [min(seen), max(seen)]


@cache
def _curvlinops_operator() -> Any:
    from curvlinops import HessianLinearOperator

    model, data = problem()
    return HessianLinearOperator(model, nn.CrossEntropyLoss(), list(model.parameters()), [data])


def by_pyhessian(steps: int, probes: int) -> list[float]:
    """Its density, with the function that it calls and Torch has no longer put in its place."""
    torch.eig = _eig  # type: ignore[attr-defined]
    values, _ = _pyhessian_problem().density(iter=steps, n_v=probes)
    seen = [float(value) for of_probe in values for value in of_probe]
    return [min(seen), max(seen)]


@cache
def _pyhessian_problem() -> Any:
    from pyhessian import hessian

    model, data = problem()
    return hessian(model, nn.CrossEntropyLoss(), data=data, cuda=False)


def _eig(a: torch.Tensor, *, eigenvectors: bool) -> Any:
    values, vectors = torch.linalg.eigh(a)
    return values[:, None], vectors
