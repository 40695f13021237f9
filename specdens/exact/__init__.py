"""Answers without chance: factorisations, all eigenvalues, counts by factorisation.

Rules that take a structured matrix apart belong to `structured`.
"""
