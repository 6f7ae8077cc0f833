"""The money: what calls cost, and where every dollar of a budget is.

Read `pricing` first (prices, token bounds, worst cases), then `ledger` (reserve, settle, release) and `budgets` (the
limits of API keys). `reconcile` and `reports` read what these have written.
"""
