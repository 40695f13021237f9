"""Metrics with intervals over prompts, at checkpoints or on their own.

Scores of embeddings belong to `scores`, rates in a closed world to `world`.
"""
