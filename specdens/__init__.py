"""Spectral densities, traces of matrix functions and log-determinants of large matrices.

>>> import numpy as np
>>> import specdens
>>> print(f"{specdens.logdet(np.diag([1.0, 2.0, 3.0])):.4f}")
1.7918
"""

from specdens.adapters import aslinearoperator
from specdens.counting import eigencount, spectral_bounds
from specdens.density import density, local_density
from specdens.functions import trace_function
from specdens.inertia import Inertia, inertia
from specdens.logdet import logdet, logpdet, slogdet
from specdens.operators import Gram, Scaled, Shifted, Sum
from specdens.results import AccuracyWarning, Estimate, SpectralBounds
from specdens.spectral_density import SpectralDensity
from specdens.structure import BlockDiagonal, DiagonalPlusLowRank, Kronecker, Permuted
from specdens.trace import trace

__all__ = [
    # Determinants
    "logdet",
    "slogdet",
    "logpdet",
    # Traces
    "trace",
    "trace_function",
    # Spectra
    "density",
    "local_density",
    "eigencount",
    "inertia",
    "spectral_bounds",
    # Operators that are never formed
    "aslinearoperator",
    "Gram",
    "Shifted",
    "Scaled",
    "Sum",
    # Matrices made of smaller ones
    "Kronecker",
    "BlockDiagonal",
    "DiagonalPlusLowRank",
    "Permuted",
    # What comes back
    "Estimate",
    "Inertia",
    "SpectralBounds",
    "SpectralDensity",
    "AccuracyWarning",
]  # fmt: skip

__version__ = "0.1.0"
