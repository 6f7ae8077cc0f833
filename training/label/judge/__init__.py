"""The judge: a model that is asked which of two answers is better, or how good one is.

Its calls are a companion batch. `prompts`: what it is shown and how its reply is read; `ask`: the companion;
`collect`: comparisons and ratings; `health`: whether it can be believed.
"""
