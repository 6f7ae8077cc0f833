"""Scoring: each request gets its expected quality and cost by model.

Read `score` first, then `ranking` (costs, and the steps that a plan cuts). `length_model` predicts how long answers
are, `lengths` fits it from settled answers.
"""
