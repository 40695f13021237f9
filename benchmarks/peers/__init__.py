"""Other packages to compare with, each in an environment of its own, asked by JSON.

Nothing here is a question. `environments` installs them in some minutes; kwant is compiled.
"""
