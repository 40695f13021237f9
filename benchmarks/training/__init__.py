"""What does SenD cost, and what does it do? Fine-tunings with it and without, in turn or in pairs.

Minutes a part; `closed_world`, eight worlds with a model each, hours.
"""
