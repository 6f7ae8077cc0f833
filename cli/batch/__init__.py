"""Commands about batches, by the HTTP API: submit, plan, status, watch, results, list, pause, cancel, retry, top-up.

Read `submit` first; `inputs` reads the forms of a file, `follow` waits for a batch, `results` writes its files.
"""
