"""Upstreams for tests: scripted, gated, raw, replayed."""
