"""Commands about batches, which talk to the HTTP API with a key.

Read `submit` first, then `plan`. `status` shows batches (status, watch, list), `lifecycle` pauses, resumes and cancels
them, `extend` goes on with them (top-up, retry), `results` writes their files, `feedback` says how good an answer was.
`follow` waits for a batch and knows what its end means; `frontier` draws a plan.
"""
