"""Routers: what estimates how good the answer of each model to a prompt will be.

Read `base` first (what a router is), then `registry` (routers by name) and `artifact` (how a fitted one is stored). The
methods: `gain`, `bradley_terry` (similarity_weighted, matrix_factorization), `transformers` (bert, causal_llm),
`ensemble` and `random`.
"""
