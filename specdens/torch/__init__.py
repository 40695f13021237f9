"""Hessian, Gauss-Newton and Fisher matrices of Torch models, as operators on their parameters.

>>> import specdens, torch
>>> import specdens.torch as curvature
>>> _ = torch.manual_seed(0)
>>> model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.Tanh(), torch.nn.Linear(16, 3))
>>> data = torch.randn(50, 8), torch.randint(0, 3, (50,))
>>> H = curvature.hessian_operator(model, torch.nn.CrossEntropyLoss(), data)
>>> H.shape
(195, 195)
>>> rho = specdens.density(H, rng=0)

Here belongs what is made of Torch models; tensors as matrices belong to `operators`. Each name
loads its module, and Torch, when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from specdens.torch.curvature import CurvatureOperator
    from specdens.torch.operators import fisher_operator, gauss_newton_operator, hessian_operator

__all__ = ["CurvatureOperator", "fisher_operator", "gauss_newton_operator", "hessian_operator"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        msg = f"module 'specdens.torch' has no attribute {name!r}"
        raise AttributeError(msg)
    home = "curvature" if name == "CurvatureOperator" else "operators"
    return getattr(import_module(f"specdens.torch.{home}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
