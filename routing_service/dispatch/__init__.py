"""Dispatch: planned requests are claimed, sent and settled, and the batch is finished.

Read `pump` first (the loop of a dispatch worker), then `claim` and `admission` (which requests go out, to which model),
`settle` (what an answer does to money and request) and `sweep` (what goes on when something died). `fairness` says
whose turn it is, `quarantine` how requests go out whose worker died, `lease` what a pump may call its own.
"""
