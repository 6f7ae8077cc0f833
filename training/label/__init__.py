"""Labels: how good answers are, by gold answers (`golden`, `graders`) or by a judge (`judge`).

Read `golden` first; `answers` reads a batch with its answers, `store` keeps what came of them.
"""
