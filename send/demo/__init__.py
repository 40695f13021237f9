"""The demonstration of `send demo` and `make demo`, and the experiment it runs.

Pictures belong to `send.plotting`, worlds to `send.world`.
"""
