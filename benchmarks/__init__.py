"""Benchmarks, in folders by their question; `run` is the door, ``results/`` what they found."""
