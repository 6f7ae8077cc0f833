"""Prompts to vectors: local encoders, an upstream's embeddings endpoint, and a cache on disk."""
