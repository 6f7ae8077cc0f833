"""Weights that others published, as artifacts of ours."""
