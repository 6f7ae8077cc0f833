"""The main job on the whole stack, as processes: a bulk file in, routed answers and a cost report out.

The stock `openai` SDK is the client. Workers are killed and the broker is emptied in mid-batch.
"""

from __future__ import annotations

import csv
import io
import json
import time
from collections.abc import Callable
from contextlib import suppress
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx2
import psutil
import redis
from openai import OpenAI
from openai.types import Batch

from routing_service.routers.registry import DEFAULT_ARTIFACT
from sandbox.problems import generate
from tests.support.paths import EXAMPLES
from tests.support.stack import RunningStack
from tests.support.upstreams.sandbox_server import Sandbox


def _lines(count: int, seed: int) -> bytes:
    return b"".join(
        json.dumps(
            {
                "custom_id": f"p-{n}",
                "method": "POST",
                "url": "/v1/chat/completions",
                "body": {"model": "routebatch-auto", "messages": [{"role": "user", "content": problem.prompt}]},
            }
        ).encode()
        + b"\n"
        for n, problem in enumerate(generate(count, seed))
    )


def _submit(client: OpenAI, content: bytes, budget: str) -> Batch:
    file = client.files.create(file=("prompts.jsonl", content), purpose="batch")
    return client.batches.create(
        input_file_id=file.id,
        endpoint="/v1/chat/completions",
        completion_window="24h",
        extra_body={"routing": {"budget_usd": budget}},
    )


def _wait(client: OpenAI, batch_id: str, until: Callable[[Batch], bool], seconds: float = 90) -> Batch:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        batch = client.batches.retrieve(batch_id)
        if until(batch):
            return batch
        time.sleep(0.1)
    raise AssertionError(f"still {batch.status} after {seconds} s: {batch.request_counts}")


def _ended(batch: Batch) -> bool:
    return batch.status in ("completed", "failed", "expired", "cancelled")


def _counting(done: int) -> Callable[[Batch], bool]:
    return lambda batch: batch.request_counts is not None and batch.request_counts.completed >= done


def _answers(client: OpenAI, batch: Batch) -> list[dict[str, Any]]:
    assert batch.output_file_id
    return [json.loads(line) for line in client.files.content(batch.output_file_id).text.splitlines()]


def _routing(batch: Batch) -> dict[str, Any]:
    assert batch.model_extra
    return dict(batch.model_extra["routing"])


def _reported_nano(stack: RunningStack, batch_id: str) -> int:
    done = stack.run("report", "costs", "--by", "batch", "--format", "csv")
    assert done.returncode == 0, done.stderr
    rows = [row for row in csv.DictReader(io.StringIO(done.stdout)) if row["batch_id"] == batch_id]
    return int(Decimal(rows[0]["cost_usd"]) * 1_000_000_000)


def _verify(stack: RunningStack) -> None:
    done = stack.run("ledger", "verify")
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_bulk_file_comes_back_answered_and_every_account_agrees(
    stack: RunningStack, client: OpenAI, sandbox: Sandbox
) -> None:
    before = sandbox.billed_nano()
    batch = _wait(client, _submit(client, _lines(200, seed=1), "0.15").id, _ended)
    assert batch.status == "completed"
    answers = _answers(client, batch)
    assert sorted(a["custom_id"] for a in answers) == sorted(f"p-{n}" for n in range(200))
    models = {a["response"]["body"]["model"] for a in answers}
    assert models == {"sandbox-strong", "sandbox-weak"}
    billed = sandbox.billed_nano() - before
    routing = _routing(batch)
    assert int(Decimal(routing["settled_usd"]) * 1_000_000_000) == billed
    assert Decimal(routing["settled_usd"]) <= Decimal("0.15")
    assert _reported_nano(stack, batch.id) == billed
    assert sum(Decimal(a["response"]["routing"]["cost_usd"]) for a in answers) == Decimal(routing["settled_usd"])
    _verify(stack)


def test_a_killed_dispatch_worker_loses_nothing(stack: RunningStack, client: OpenAI, sandbox: Sandbox) -> None:
    before = sandbox.billed_nano()
    batch = _submit(client, _lines(400, seed=2), "1")
    _wait(client, batch.id, _counting(40))
    worker = psutil.Process(stack.processes["dispatch"])
    for process in [worker, *worker.children(recursive=True)]:
        with suppress(psutil.NoSuchProcess):  # its pool may end with it
            process.kill()
    batch = _wait(client, batch.id, _ended)
    _assert_whole(client, batch, 400, sandbox.billed_nano() - before)
    _verify(stack)


def test_an_emptied_broker_loses_nothing(stack: RunningStack, client: OpenAI, sandbox: Sandbox) -> None:
    before = sandbox.billed_nano()
    batch = _submit(client, _lines(400, seed=3), "1")
    _wait(client, batch.id, _counting(40))
    url = str(stack.file["broker_url"])
    with redis.Redis.from_url(url.replace("redis+socket://", "unix://").partition("?")[0]) as broker:
        broker.flushall()
    batch = _wait(client, batch.id, _ended)
    _assert_whole(client, batch, 400, sandbox.billed_nano() - before)
    _verify(stack)


def _assert_whole(client: OpenAI, batch: Batch, count: int, billed_nano: int) -> None:
    assert batch.status == "completed"
    assert sorted(a["custom_id"] for a in _answers(client, batch)) == sorted(f"p-{n}" for n in range(count))
    routing = _routing(batch)
    assert Decimal(billed_nano) / 1_000_000_000 <= Decimal(routing["settled_usd"]) <= Decimal(routing["budget_usd"])


def test_a_bad_batch_costs_nothing_and_does_not_hold_back_a_good_one(
    client: OpenAI, sandbox: Sandbox, stack: RunningStack
) -> None:
    bad = _submit(client, _lines(3, seed=4) + b"{broken\n" + _lines(1, seed=4), "1")
    good = _submit(client, _lines(20, seed=5), "1")
    assert _wait(client, good.id, _ended).status == "completed"
    failed = _wait(client, bad.id, _ended)
    assert failed.status == "failed"
    assert failed.errors is not None
    assert failed.errors.data is not None
    assert {(e.code, e.line) for e in failed.errors.data} == {("invalid_json_line", 4), ("duplicate_custom_id", 5)}
    assert _routing(failed)["settled_usd"] == "0.00"


def test_a_cancelled_batch_keeps_its_partial_output(client: OpenAI, stack: RunningStack) -> None:
    batch = _submit(client, _lines(400, seed=6), "1")
    _wait(client, batch.id, _counting(20))
    client.batches.cancel(batch.id)
    batch = _wait(client, batch.id, _ended)
    assert batch.status == "cancelled"
    assert batch.request_counts is not None
    assert 20 <= batch.request_counts.completed < 400
    assert len(_answers(client, batch)) == batch.request_counts.completed
    _verify(stack)


def test_the_command_line_submits_waits_and_writes_results(stack: RunningStack, tmp_path: Path) -> None:
    output = tmp_path / "results.jsonl"
    done = stack.run(
        "submit", str(EXAMPLES / "prompts.csv"), "--budget", "0.5", "--wait", "--output", str(output), "--json"
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["status"] == "completed"
    assert all(json.loads(line)["response"]["status_code"] == 200 for line in output.read_text().splitlines())


def test_an_api_key_of_nobody_is_refused(stack: RunningStack) -> None:
    answer = httpx2.get(stack.file["api_url"] + "/v1/batches", headers={"Authorization": "Bearer rb-nobody"})
    assert answer.status_code == 401
    assert answer.json()["error"]["code"] == "invalid_api_key"


def test_nothing_secret_stands_in_the_logs(stack: RunningStack) -> None:
    secrets = [stack.file["api_key"], stack.file["flower_password"]]
    for log in (stack.root / "logs").iterdir():
        content = log.read_text(errors="replace")
        assert not any(secret in content for secret in secrets), log.name
    assert (stack.root / "stack.json").stat().st_mode & 0o777 == 0o600


def test_a_promotion_and_a_rollback_reach_the_workers_that_run(stack: RunningStack, client: OpenAI) -> None:
    def operate(*arguments: str) -> dict[str, Any]:
        done = stack.run("routers", *arguments, "--json")
        assert done.returncode == 0, done.stderr
        return dict(json.loads(done.stdout))

    worker = stack.processes["score"]
    version = operate("register", str(DEFAULT_ARTIFACT))
    operate("promote", version["name"])
    promoted = _wait(client, _submit(client, _lines(20, seed=6), "1").id, _ended)
    assert operate("rollback")["active"] == "gain"
    back = _wait(client, _submit(client, _lines(20, seed=7), "1").id, _ended)
    assert (_routing(promoted)["router"], _routing(back)["router"]) == (version["name"], "gain")
    named = [{a["response"]["routing"].get("router_version") for a in _answers(client, b)} for b in (promoted, back)]
    assert named == [{version["id"]}, {None}]
    assert stack.processes["score"] == worker
