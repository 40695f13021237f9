"""What Torch's autograd can follow: gradients of sampled and of factored values.

Torch is imported inside functions here: whose tensors come in has it. Matrices of Torch models
belong to `torch`.
"""
