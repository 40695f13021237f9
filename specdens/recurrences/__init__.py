"""Lanczos and Chebyshev recurrences, and the quadrature rules and series that follow.

Deterministic: vectors come in, coefficients go out. What is random belongs to `estimation`.
"""
