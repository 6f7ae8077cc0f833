"""An OpenAI-compatible upstream for trials and tests: a simulation, billed in play money.

It imports nothing of ours.
"""
