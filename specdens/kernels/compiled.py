"""Compiled steps of the recurrences, where numba is installed; else the plain path does the same.

``SPECDENS_KERNELS=off`` in the environment turns them off.
"""

from __future__ import annotations

import importlib
import logging
import os
import threading
from collections.abc import Callable
from functools import lru_cache, wraps
from typing import Any

__all__ = ["HOST_WIDTHS", "WIDTHS", "kernel", "padded_width"]

WIDTHS = (4, 8, 16, 32)
"""Columns of a block that there is code for: others are padded."""

HOST_WIDTHS = (4, 8, 10, 12, 16, 20, 24, 32)
"""As `WIDTHS` in the memory of the host. Each is compiled for itself, so these are not all."""

_log = logging.getLogger(__name__)


def padded_width(columns: int, widths: tuple[int, ...] = WIDTHS) -> int | None:
    """Return the least width that holds so many columns, or None if there is none."""
    return next((width for width in widths if width >= columns), None)


def kernel(module: str, name: str) -> Callable[..., Any] | None:
    """Return a function of a module of this package, or None where it is not to be had.

    Nor is it in a forked child of a process that has used one: GNU's OpenMP ends such a child.
    """
    if _state.forked or os.environ.get("SPECDENS_KERNELS", "on").lower() == "off":
        return None
    return _compiled(module, name)


class _State:
    forked = False


_state = _State()
_lock = threading.Lock()


@lru_cache
def _compiled(module: str, name: str) -> Callable[..., Any] | None:
    try:
        home = importlib.import_module(f"specdens.kernels.{module}")
    except ImportError as problem:
        _say_once(f"{problem.name} is not installed: products take the plain, slower path.")
        return None
    _watch_forks()
    return _one_at_a_time(getattr(home, name))


@lru_cache
def _say_once(line: str) -> None:
    _log.info(line)


@lru_cache
def _watch_forks() -> None:
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=lambda: setattr(_state, "forked", True))


def _one_at_a_time(function: Callable[..., Any]) -> Callable[..., Any]:
    """Let Python's threads wait for each other: each call uses all cores, as far as it may."""

    @wraps(function)
    def alone(*args: Any) -> Any:
        with _lock:
            return function(*args)

    return alone
