"""XTrace, XDiag, Hutch++ and their kin: a sketch takes the range of A exactly.

Estimators by quadrature of spectral measures belong to `estimation`.
"""
