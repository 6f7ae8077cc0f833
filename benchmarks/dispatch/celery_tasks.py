"""The peer of `benchmarks.dispatch` that most services start from: one Celery task a prompt, with the openai client.

An application for `celery --app benchmarks.dispatch.celery_tasks worker`; broker and upstream come from the
environment. Each process of the pool keeps its client. What Celery does by default is left as it is, save that no
result is kept.
"""

from __future__ import annotations

import os
from functools import cache

from celery import Celery
from openai import OpenAI

from benchmarks.dispatch.clients import CAP

BROKER, UPSTREAM = "DISPATCH_BENCH_BROKER", "DISPATCH_BENCH_UPSTREAM"

app = Celery("dispatch", broker=os.environ.get(BROKER))
app.conf.update(task_ignore_result=True)


@cache
def client() -> OpenAI:
    return OpenAI(base_url=os.environ[UPSTREAM], api_key="none", max_retries=0)


@app.task
def answer(model: str, prompt: str) -> None:
    completion = client().chat.completions.create(
        model=f"sandbox-{model}", messages=[{"role": "user", "content": prompt}], max_tokens=CAP
    )
    assert completion.choices[0].message.content
