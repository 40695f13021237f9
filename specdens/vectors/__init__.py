"""Functions of a matrix with vectors on one side or on both: f(A) b, b^H f(A) b.

Traces and diagonals, which need no vectors of the caller, belong to `traces`.
"""
