"""Every kind of matrix as one protocol: `LinearOperator`, with a product with a block.

Matrices made of smaller ones belong to `structured`, curvature of Torch models to `torch`.
"""
