"""Traces and diagonals, of a matrix and of functions of it.

Log-determinants, which are traces of log A, belong to `determinants`.
"""
