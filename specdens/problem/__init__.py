"""What is found out about A before any work: is it Hermitian, where is its spectrum.

Also stacks of matrices, which are taken apart here. Answers belong to the folders below.
"""
