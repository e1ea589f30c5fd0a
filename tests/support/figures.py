"""Measured figures for tests, proofs and benchmarks: the very writer that the demo uses, so all share one table."""

from eco_lab.figures import FILE, Figure, meets, missed, record, rows, table

__all__ = ["FILE", "Figure", "meets", "missed", "record", "rows", "table"]
