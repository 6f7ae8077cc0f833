"""Re-fits: routers are fitted again on what has come in, measured, and promoted if they are better.

Read `refit` first, then `snapshot` (what is fitted on and held out), `candidates`, `challenge` against the `champion`,
`gate` (the verdict), `triggers` and `drift` (when a re-fit is due), `record` (the table of re-fits).
"""
