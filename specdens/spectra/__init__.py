"""Densities of states, counts of eigenvalues, and one run with many answers.

What one number says of a spectrum (norm, rank, entropy) belongs here, too, except for
determinants and traces.
"""
