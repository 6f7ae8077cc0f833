"""Exploration: a sample of a batch is asked of another model too, so that routers can learn from the pair.

Read `explore` first, then `companion` (calls of our own that are made as a batch) and `pairs` (what comes of them).
"""
