"""Commands of the operator: the stack, the HTTP server, keys, budgets, ledger, reports."""
