"""A model's answers, scored: the scorer of prompts and its table.

Scores of plain arrays belong to `scores`, comparisons with references to `evaluation`.
"""
