"""Matrices made of smaller ones, and the exact rules for them.

Kronecker products, blocks, low-rank updates, permutations. A single matrix belongs to `operators`.
"""
