"""Scores of plain arrays: no model is needed.

What runs a model to get these arrays belongs to `models` and `detection`.
"""
