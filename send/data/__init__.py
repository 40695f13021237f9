"""Rows of text, wherever they come from, and what is wrong with one.

Needs no model and no tokenizer; rows as tokens belong to `models`.
"""
