"""The record of a training: rows that all processes agree on, and what is logged of them."""

from __future__ import annotations

from collections.abc import Sequence

from torch import distributed

from send.checkpoints.checkpoint import Row

__all__ = ["OF_A_CHOICE", "agreed", "prefixed", "spread"]

OF_A_CHOICE = ("sensitivity", "masked_share", "magnitude_ratio", "loss_jump", "loss_jump_stderr")
"""What the history says only where a mask was chosen."""

LOGGED = ("tracking_loss", "eigenscore", "eigenscore_stderr", *OF_A_CHOICE[1:])


def prefixed(row: Row) -> Row:
    """Return what is logged of a row of the history: numbers, their names beginning with ``send/``.

    ``send/masked`` is the number of dropped indices and ``send/sensitivity_mean`` the mean over all
    indices. What is None is left out.
    """
    logs = {f"send/{name}": row[name] for name in LOGGED if row[name] is not None}
    if row["sensitivity"] is not None:
        logs["send/sensitivity_mean"] = sum(row["sensitivity"]) / len(row["sensitivity"])
    return {"send/checkpoint": row["checkpoint"], **logs, "send/masked": len(row["masked"])}


def spread(rows: Sequence[Row], name: str) -> float:
    """Return the range of one entry over rows."""
    values = [float(row[name]) for row in rows]
    return max(values) - min(values)


def agreed(row: Row) -> Row:
    """Return the row of the first process, which may differ from that of another in last bits.

    Every process has to call this. What is decided by a row is then decided alike.
    """
    if not (distributed.is_available() and distributed.is_initialized()):
        return row
    rows = [row]
    distributed.broadcast_object_list(rows, src=0)
    return rows[0]
