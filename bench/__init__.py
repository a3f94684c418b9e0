"""Benchmarks of the engines; ``throughput.py`` and ``scaling.py`` are run as scripts."""
