"""Training data: comparisons, labels and ratings, from files and the database.

Read `comparisons` and `labels` first (what routers are fitted on), then `readers` and `forms` (files), `database` and
`imports` (the table), `decontamination` and `stats`.
"""
