"""The border to array libraries, and random vectors that are the same on each of them.

Only here is it known which library an array is of. Matrices belong to `operators`.
"""
