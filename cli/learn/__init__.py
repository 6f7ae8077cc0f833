"""Commands of the learning loop, from labels to a better router.

Comparisons come from files (`comparisons`), gold answers (`grade`) and a judge (`judge`); `refit` fits on them.
"""
