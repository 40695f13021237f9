"""Spectral densities, traces of matrix functions and log-determinants of large matrices."""

__version__ = "0.1.0"
