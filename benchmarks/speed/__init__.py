"""How fast are whole calls and single steps, beside other packages and the limits of the machine?

``python -m benchmarks.speed`` runs all parts in 45 minutes on two cores, with ``--quick`` small
ones in two minutes; `report` makes docs/speed.md of the results.
"""
