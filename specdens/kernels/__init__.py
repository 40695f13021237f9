"""Compiled steps of the recurrences, on CPUs (numba) and on GPUs (Triton).

Here belongs code that is compiled, and `compiled.kernel`, which loads it when it is first used.
What a step serves, and the plain path that does the same, belong to the callers.
"""
