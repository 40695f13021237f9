"""Steps and sums compiled by numba for the host.

Load them by `specdens.kernels.compiled.kernel`: without numba it returns None.
"""
