"""Log-determinants of all kinds.

Of any square matrix, of singular ones, and together with the quadratic form of a likelihood.
"""
