"""Comparisons become fitted routers: data, fits, evaluation, labels, re-fits."""
