"""What chaos left behind, held against what must hold: every batch once, the money, and every answer its line's own."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from openai import OpenAI
from openai.types import Batch
from sqlalchemy import text

from routing_service.db import Database
from sandbox.answers import SyntheticAnswers
from sandbox.config import SandboxConfig
from sandbox.tokens import cut
from tests.chaos import Chaos, Endured, persistently
from tests.e2e.running import RunningStack
from tests.stress_account import Account, account

CAP = 128  # tokens of an answer, as configured


def settle_accounts(stack: RunningStack, chaos: Chaos, endured: Endured) -> Account:
    """Add up and compare; `wrong` of what is returned should be empty."""
    database = Database(str(stack.file["database_url"]))
    try:
        with database.transaction() as session:
            batch_ids = list(session.scalars(text("select id from batches order by created_at, id")))
        found = account(database, batch_ids, endured.bills)
    finally:
        database.dispose()
    if len(batch_ids) != endured.batches:
        found.wrong.append(f"{endured.batches} batches were asked for, {len(batch_ids)} were made")
    answers = SyntheticAnswers(SandboxConfig(seed=chaos.seed))
    for batch_id in batch_ids:
        found.wrong += persistently(stack, lambda client, b=batch_id: list(_answers(client, b, answers)))  # type: ignore[misc]
    done = stack.run("ledger", "verify")
    if done.returncode:
        found.wrong.append(f"ledger verify: {done.stdout}{done.stderr}")
    return found


def _answers(client: OpenAI, batch_id: str, answers: SyntheticAnswers) -> Iterator[str]:
    """Lines of the files, as a client downloads them, that are not what the upstream says to their prompts."""
    batch = client.batches.retrieve(batch_id)
    asked = {line["custom_id"]: line["body"]["messages"][-1]["content"] for line in _lines(client, batch.input_file_id)}
    output, errors = list(_lines(client, batch.output_file_id)), list(_lines(client, batch.error_file_id))
    if sorted(line["custom_id"] for line in output + errors) != sorted(asked):
        yield f"{batch_id}: {len(output)} and {len(errors)} lines of {len(asked)}"
    yield from _counts(batch, len(output), len(errors))
    for line in output:
        body = line["response"]["body"]
        right, _, _ = cut(answers.answer(body["model"], asked[line["custom_id"]], 0), CAP)
        if body["choices"][0]["message"]["content"] != right:
            yield f"{batch_id}: not the answer to {line['custom_id']}: {body}"


def _counts(batch: Batch, answered: int, failed: int) -> Iterator[str]:
    counts = batch.request_counts
    if counts is None or (counts.completed, counts.failed) != (answered, failed):
        yield f"{batch.id}: {answered} answers and {failed} errors in the files, counted {counts}"


def _lines(client: OpenAI, file_id: str | None) -> Iterator[dict[str, Any]]:
    if file_id is None:
        return
    for line in client.files.content(file_id).text.splitlines():
        yield json.loads(line)
