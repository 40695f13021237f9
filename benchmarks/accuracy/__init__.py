"""Are values and their errors right? On known spectra, hostile ones too, beside other packages.

Seconds to minutes a part; `equal_products`, of which `report` makes docs/accuracy.md, an hour.
"""
