"""Measurements, run by hand (`make bench`), never by the tests. Everything stays on loopback and ends by itself."""
