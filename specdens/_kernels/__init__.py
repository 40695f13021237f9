"""Compiled steps of the recurrences, where numba is installed; else the plain path does the same.

``SPECDENS_KERNELS=off`` in the environment turns them off.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from functools import lru_cache
from typing import Any

__all__ = ["WIDTHS", "chebyshev_step", "padded_width"]

WIDTHS = (4, 8, 16, 32)
"""Columns of a block that there is code for: others are padded."""

_log = logging.getLogger(__name__)


def padded_width(columns: int) -> int | None:
    """Return the least width that holds so many columns, or None if there is none."""
    return next((width for width in WIDTHS if width >= columns), None)


def chebyshev_step() -> Callable[..., Any] | None:
    """Return `specdens._kernels.csr.chebyshev_step`, or None where it is not to be had."""
    return None if os.environ.get("SPECDENS_KERNELS", "on").lower() == "off" else _compiled()


@lru_cache
def _compiled() -> Callable[..., Any] | None:
    try:
        from specdens._kernels.csr import chebyshev_step as step
    except ImportError:
        _log.info("numba is not installed: sparse products take the plain, slower path.")
        return None
    return step
