"""Sensitivity Dropout: what it measures, what it drops, and when.

`SensitivityDropout` knows no trainer, `SendCallback` brings it to one. Our own trainer belongs to
`training`.
"""
