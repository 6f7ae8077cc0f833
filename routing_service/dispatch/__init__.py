"""Dispatch: planned requests are claimed, sent and settled, and the batch is finished.

Read `pump` first (the loop of a dispatch worker), then `claim` and `admission` (which requests go out, to which model),
`settle` (what an answer does to money and request) and `sweep` (what goes on when something died).
"""
