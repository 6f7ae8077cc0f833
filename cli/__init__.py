"""The `routebatch` command, by click.

Read `main` first, the table of all commands. `options`, `epilog`, `output`, `output_files`, `progress` and `errors` are
what all commands share; `client` talks to the HTTP API, `stack_access` finds a stack's database and configuration,
`inputs` reads files of prompts. The commands stand by subject in `batch`, `operate`, `routers`, `evaluate` and `learn`.
`reference` writes the page of all commands.
"""
