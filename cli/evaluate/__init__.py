"""Commands that measure routers: evaluate and similarity.

Read `evaluate` first, then `run` (the measurements), `report` and `plots` (how they are shown).
"""
