"""What outlives a kill: state files, and what makes a checkpoint complete.

What is saved belongs to its owner; how it is written and found again belongs here.
"""
