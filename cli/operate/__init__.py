"""Commands of the operator, who has the database or the machine.

Read `stack` first (up, down, doctor). `api`, `migrate` and `sandbox` are single processes; `keys`, `budgets`, `models`,
`ledger`, `report` and `prune` ask or change the database.
"""
