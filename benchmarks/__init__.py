"""Measurements, run by hand, never by the tests. Everything stays on loopback and ends by itself.

`python -m benchmarks` lists them. `make bench` lists them and runs `benchmarks.dispatch.scale`, which needs no data.
"""
