"""The matrices that a structured one is made of: of one library, on one device."""

from __future__ import annotations

from typing import Any

from specdens.operators.linear_operator import LinearOperator
from specdens.problem.prepare import finite_operator

__all__ = ["common_home", "operators_together"]


def operators_together(parts: list[Any], what: str) -> list[LinearOperator]:
    """Return parts as finite operators; raise a ValueError unless they share library and device."""
    operators = [finite_operator(part) for part in parts]
    homes = {(op.xp.__name__, str(op.device)) for op in operators}
    if len(homes) != 1:
        found = "; ".join(f"{x} on {d}" for x, d in sorted(homes)) or "none"
        msg = f"expected {what} of one library and device, one at least; got {found}."
        raise ValueError(msg)
    return operators


def common_home(parts: list[LinearOperator]) -> dict[str, Any]:
    """Return namespace, device and precision of what is made of parts."""
    xp = parts[0].xp
    return {
        "xp": xp,
        "device": parts[0].device,
        "dtype": xp.result_type(*(op.dtype for op in parts)),
        "result_dtype": xp.result_type(*(op.result_dtype for op in parts)),
    }
