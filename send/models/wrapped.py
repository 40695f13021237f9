"""Models as Accelerate, PEFT and Torch wrap them: what is inside, and how it runs as written."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from accelerate.utils import is_compiled_module
from torch import nn

__all__ = ["check_head", "uncompiled", "unwrapped"]


def unwrapped(model: nn.Module) -> nn.Module:
    """Return the model that is replicated or compiled, its blocks being those that train.

    One that is sharded stays in its wrapper, without which it does not compute.
    """
    while True:
        inner: Any = None
        if isinstance(model, (nn.parallel.DistributedDataParallel, nn.DataParallel)):
            inner = model.module
        elif is_compiled_module(model):
            inner = model._orig_mod
        if inner is None:
            return model
        model = inner


def check_head(model: nn.Module) -> None:
    """Raise a ValueError unless the model predicts tokens."""
    can_generate: Any = getattr(model, "can_generate", None)
    if can_generate is not None and not can_generate():
        msg = (
            f"{type(model).__name__} has no head that predicts tokens; expected a causal language "
            "model, as AutoModelForCausalLM loads it."
        )
        raise ValueError(msg)


def uncompiled(model: nn.Module) -> AbstractContextManager[Any]:
    """Return a context in which compiled parts of a model run as they are written.

    Measurements come in other shapes than training, and each would be compiled for itself.
    """
    compiled = any(
        module._compiled_call_impl is not None or hasattr(module, "_orig_mod")
        for module in model.modules()
    )
    return torch.compiler.set_stance("force_eager") if compiled else nullcontext()
