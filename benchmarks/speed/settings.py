"""How large the speed benchmark is, and where the other packages live."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.sparse import issparse, save_npz

from benchmarks.peers.server import Peer

__all__ = ["Settings"]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What all parts share.

    Attributes
    ----------
    side : int
        Of the lattices: n is its cube.
    order : int
        Of the dense matrices.
    repeats : int
        Turns that count.
    quick : bool
        Whether slow peers and long sweeps are left out.
    folder : Path
        For matrices that other processes read.
    largest : float
        Sites of the largest lattice of the growth.
    environments : Path
        The folder in which `peers/environments.py` made those of other packages.
    """

    side: int = 100
    order: int = 4000
    repeats: int = 7
    quick: bool = False
    folder: Path
    largest: float = 1e7
    environments: Path = Path("out")

    @property
    def n(self) -> int:
        """The order of the sparse matrices."""
        return self.side**3

    @property
    def few(self) -> int:
        """Turns of what takes tens of seconds."""
        return min(self.repeats, 3)

    def saved(self, name: str, a: Any) -> str:
        """Write a matrix for other processes; return its path."""
        path = self.folder / (name + (".npz" if issparse(a) else ".npy"))
        if issparse(a):
            save_npz(path, a, compressed=False)
        else:
            np.save(path, a)
        return str(path)

    def peer(self, environment: str) -> Peer:
        """Return the process of an environment."""
        return Peer(self.environments / environment)
