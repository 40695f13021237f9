"""Steps on CUDA devices: Triton's kernels, cuSPARSE's products, CUDA graphs.

Load them by `specdens.kernels.compiled.kernel`: without Triton it returns None.
"""
