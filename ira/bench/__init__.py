"""Benchmarks: each hot path timed beside its peer and beside what the machine allows, in one run."""
