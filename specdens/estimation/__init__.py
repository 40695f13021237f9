"""From random probes to a value with its errors, and what products are spent on.

Here belong estimators of tr f(A) by quadrature; those by sketches belong to `sketching`, and what
is asked by name (`logdet`, `trace`) to the folders of its theme.
"""
