"""Embeddings: prompts to unit vectors, by a local encoder or an upstream, and a cache of them on disk.

Read `base` first (what an encoder is), then `registry` (encoders by name).
"""
