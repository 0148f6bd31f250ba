"""Measurements of calmgrad beside what else one could use: `python -m benchmarks --help`."""
