"""Fine-tuning in one call: settings, trainer, result.

The methods that it offers belong to folders of their own: `dropout`, `distillation`.
"""
