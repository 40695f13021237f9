"""How many random vectors a budget of products pays for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from specdens.arrays.probes import DEFAULT_COUNT

__all__ = ["require_plain", "vectors_for"]

TWICE = {"xtrace", "xdiag"}
"""Each vector is multiplied, and then the basis vector that it gave."""

HALF_TWICE = {"hutch++", "diag++"}
"""One half of the vectors makes a basis; the other half are probes of the rest."""


def vectors_for(
    method: str, n: int, probes: Any, limit: int | None, least: Mapping[str, int]
) -> int | None:
    """Return the number of random vectors that ``probes=`` or ``max_matvecs=`` ask for.

    None means the n unit vectors instead, which cost no more.

    Raises
    ------
    ValueError
        If the random vectors are fewer than the method needs.
    """
    if limit is None:
        asked = count = DEFAULT_COUNT if probes is None else int(probes)
        name = "probes"
    else:
        asked, count, name = limit, _affordable(method, limit), "max_matvecs"
    if asked >= n:
        return None
    if count < least[method]:
        enough = least[method]
        msg = (
            f"{name} is {asked}, too little for {method!r}; expected at least probes={enough}, "
            f"or max_matvecs={_cost(method, enough)}."
        )
        raise ValueError(msg)
    return None if _cost(method, count) >= n else count


def _cost(method: str, count: int) -> int:
    if method in TWICE:
        return 2 * count
    return count + count // 2 if method in HALF_TWICE else count


def _affordable(method: str, limit: int) -> int:
    if method in TWICE:
        return limit // 2
    return (2 * limit + 1) // 3 if method in HALF_TWICE else limit


def require_plain(method: str, probes: Any, distribution: str) -> None:
    """Refuse options that only Hutchinson's estimator has."""
    if not (probes is None or isinstance(probes, (int, np.integer))):
        msg = (
            f"probes is of type {type(probes).__name__}, but {method!r} draws its own vectors; "
            "expected their number."
        )
        raise ValueError(msg)
    if distribution != "signs":
        msg = f"distribution={distribution!r} is for method='hutchinson', not for {method!r}."
        raise ValueError(msg)
