"""Evaluation: how good routers are, and how surely.

Read `metrics` first (PGR, APGR, CPT), then `benchmark_sets` (what is measured on) and `assessment` (routers side by
side). `dollars`, `qini`, `intervals` and `thresholds` are what they say.
"""
