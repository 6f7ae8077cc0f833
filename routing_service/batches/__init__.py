"""What a client asks of a batch: create it, look at it, pause, cancel, extend it, and say how good its answers were.

Read `create` and `options` first, then `view`. The work on a batch stands beside this package: `ingest`, `scoring`,
`plans`, `dispatch`, `exploration`, in the order in which a batch passes through them.
"""
