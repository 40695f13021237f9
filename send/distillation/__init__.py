"""A teacher beside the labels: knowledge distillation.

The trainer that adds its loss belongs to `training`.
"""
