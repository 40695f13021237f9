"""Spectral densities, traces of matrix functions and log-determinants of large matrices.

>>> import numpy as np
>>> import specdens
>>> print(f"{specdens.logdet(np.diag([1.0, 2.0, 3.0])):.4f}")
1.7918
"""

from specdens.adapters import aslinearoperator
from specdens.application import VectorEstimate, apply_function
from specdens.correlation import DoubleMoments, double_moments
from specdens.counting import eigencount, spectral_bounds
from specdens.density import density, local_density
from specdens.diagonal import diagonal, diagonal_function
from specdens.diagonal_estimators import DiagonalEstimate
from specdens.functions import trace_function
from specdens.green import greens_function
from specdens.inertia import Inertia, inertia
from specdens.likelihood import inv_quad_logdet
from specdens.logdet import logdet, logpdet, slogdet
from specdens.norms import (
    condition_number,
    effective_rank,
    nuclear_norm,
    numerical_rank,
    schatten_norm,
)
from specdens.operators import Gram, Scaled, Shifted, Sum
from specdens.quadratic_form import quadratic_form
from specdens.results import AccuracyWarning, Estimate, SpectralBounds
from specdens.spectral_density import SpectralDensity
from specdens.spectrum import Spectrum, spectrum
from specdens.structure import BlockDiagonal, DiagonalPlusLowRank, Kronecker, Permuted
from specdens.summaries import entropy, estrada_index, heat_trace, renyi_entropy
from specdens.trace import trace

__all__ = [
    # Determinants
    "logdet",
    "slogdet",
    "logpdet",
    # Traces
    "trace",
    "trace_function",
    # Functions of a matrix and vectors
    "apply_function",
    "quadratic_form",
    "inv_quad_logdet",
    "greens_function",
    "double_moments",
    # Diagonals
    "diagonal",
    "diagonal_function",
    # Spectra
    "density",
    "local_density",
    "eigencount",
    "inertia",
    "spectral_bounds",
    "spectrum",
    # Summaries of a spectrum
    "entropy",
    "renyi_entropy",
    "effective_rank",
    "numerical_rank",
    "schatten_norm",
    "nuclear_norm",
    "condition_number",
    "estrada_index",
    "heat_trace",
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
    "VectorEstimate",
    "DiagonalEstimate",
    "Inertia",
    "SpectralBounds",
    "SpectralDensity",
    "Spectrum",
    "DoubleMoments",
    "AccuracyWarning",
]  # fmt: skip

__version__ = "0.1.0"
