"""Spectral densities, traces of matrix functions and log-determinants of large matrices.

>>> import numpy as np
>>> import specdens
>>> print(f"{specdens.logdet(np.diag([1.0, 2.0, 3.0])):.4f}")
1.7918

Importing this package imports nothing heavy: each name loads its module when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from specdens.determinants.inv_quad_logdet import inv_quad_logdet
    from specdens.determinants.logdet import logdet, slogdet
    from specdens.determinants.logpdet import logpdet
    from specdens.exact.ldl_inertia import Inertia
    from specdens.operators.algebra import Scaled, Shifted, Sum
    from specdens.operators.aslinearoperator import aslinearoperator
    from specdens.operators.diagonals import Diagonals
    from specdens.operators.gram import Gram
    from specdens.operators.stencil import Stencil
    from specdens.results import AccuracyWarning, Estimate, SpectralBounds
    from specdens.sketching.xdiag import DiagonalEstimate
    from specdens.spectra.density import density, local_density
    from specdens.spectra.eigencount import eigencount
    from specdens.spectra.entropies import entropy, estrada_index, heat_trace, renyi_entropy
    from specdens.spectra.inertia import inertia
    from specdens.spectra.norms import (
        condition_number,
        effective_rank,
        nuclear_norm,
        numerical_rank,
        schatten_norm,
    )
    from specdens.spectra.spectral_bounds import spectral_bounds
    from specdens.spectra.spectral_density import SpectralDensity
    from specdens.spectra.spectrum import Spectrum, spectrum
    from specdens.structured.block_diagonal import BlockDiagonal
    from specdens.structured.diagonal_plus_low_rank import DiagonalPlusLowRank
    from specdens.structured.kronecker import Kronecker
    from specdens.structured.permuted import Permuted
    from specdens.traces.diagonal import diagonal, diagonal_function
    from specdens.traces.trace import trace
    from specdens.traces.trace_function import trace_function
    from specdens.vectors.apply_function import VectorEstimate, apply_function
    from specdens.vectors.double_moments import double_moments
    from specdens.vectors.greens_function import greens_function
    from specdens.vectors.quadratic_form import quadratic_form
    from specdens.vectors.response_functions import DoubleMoments

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
    # Matrices without indices
    "Stencil",
    "Diagonals",
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

_HOME = {
    "aslinearoperator": "operators.aslinearoperator",
    "VectorEstimate": "vectors.apply_function",
    "apply_function": "vectors.apply_function",
    "Diagonals": "operators.diagonals",
    "DoubleMoments": "vectors.response_functions",
    "double_moments": "vectors.double_moments",
    "eigencount": "spectra.eigencount",
    "spectral_bounds": "spectra.spectral_bounds",
    "density": "spectra.density",
    "local_density": "spectra.density",
    "logdet": "determinants.logdet",
    "slogdet": "determinants.logdet",
    "DiagonalEstimate": "sketching.xdiag",
    "diagonal": "traces.diagonal",
    "diagonal_function": "traces.diagonal",
    "trace_function": "traces.trace_function",
    "greens_function": "vectors.greens_function",
    "Inertia": "exact.ldl_inertia",
    "inertia": "spectra.inertia",
    "Stencil": "operators.stencil",
    "inv_quad_logdet": "determinants.inv_quad_logdet",
    "condition_number": "spectra.norms",
    "effective_rank": "spectra.norms",
    "nuclear_norm": "spectra.norms",
    "numerical_rank": "spectra.norms",
    "schatten_norm": "spectra.norms",
    "Gram": "operators.gram",
    "Scaled": "operators.algebra",
    "Shifted": "operators.algebra",
    "Sum": "operators.algebra",
    "logpdet": "determinants.logpdet",
    "quadratic_form": "vectors.quadratic_form",
    "AccuracyWarning": "results",
    "Estimate": "results",
    "SpectralBounds": "results",
    "Spectrum": "spectra.spectrum",
    "spectrum": "spectra.spectrum",
    "SpectralDensity": "spectra.spectral_density",
    "BlockDiagonal": "structured.block_diagonal",
    "DiagonalPlusLowRank": "structured.diagonal_plus_low_rank",
    "Kronecker": "structured.kronecker",
    "Permuted": "structured.permuted",
    "entropy": "spectra.entropies",
    "estrada_index": "spectra.entropies",
    "heat_trace": "spectra.entropies",
    "renyi_entropy": "spectra.entropies",
    "trace": "traces.trace",
}
"""Where a name lives: its module loads when it is first used."""


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        msg = f"module 'specdens' has no attribute {name!r}"
        raise AttributeError(msg)
    found = getattr(import_module(f"specdens.{_HOME[name]}"), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted(__all__)
