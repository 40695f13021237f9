"""What Torch's autograd can follow: gradients of sampled and of factored values.

Only files here and in `torch` import Torch when they load.
"""
