"""Compiled steps of the recurrences, where numba is installed; else the plain path does the same.

``SPECDENS_KERNELS=off`` in the environment turns them off.
"""

from __future__ import annotations

import importlib
import logging
import os
from collections.abc import Callable
from functools import lru_cache
from typing import Any

__all__ = ["WIDTHS", "kernel", "padded_width"]

WIDTHS = (4, 8, 16, 32)
"""Columns of a block that there is code for: others are padded."""

_log = logging.getLogger(__name__)


def padded_width(columns: int) -> int | None:
    """Return the least width that holds so many columns, or None if there is none."""
    return next((width for width in WIDTHS if width >= columns), None)


def kernel(module: str, name: str) -> Callable[..., Any] | None:
    """Return a function of a module of this package, or None where it is not to be had."""
    if os.environ.get("SPECDENS_KERNELS", "on").lower() == "off":
        return None
    return _compiled(module, name)


@lru_cache
def _compiled(module: str, name: str) -> Callable[..., Any] | None:
    try:
        home = importlib.import_module(f"specdens._kernels.{module}")
    except ImportError as problem:
        _log.info("%s is not installed: products take the plain, slower path.", problem.name)
        return None
    return getattr(home, name)  # type: ignore[no-any-return]  # a function of that module
