"""Benchmarks against peers and raw hardware; `python -m benchmarks.NAME [--quick] [--json FILE]`."""
