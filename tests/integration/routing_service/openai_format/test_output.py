"""Output and error files: rendered from the rows, exact in size, one valid JSON object a line."""

from __future__ import annotations

import json
from typing import Any

from openai import OpenAI
from sqlalchemy import text

from routing_service.db import Database
from routing_service.models import Batch, BatchState, Decision, File, FilePurpose, Reason, Request, RequestState
from routing_service.openai_format.output import PAGE_LINES, file_bytes, render
from routing_service.router_versions.versions import register
from tests.support.api_server import Api
from tests.support.client import create, routing

BODY = '{"object":"chat.completion","model":"sandbox-strong"}'


def answered(line: int, **changes: Any) -> dict[str, Any]:
    values: dict[str, Any] = {
        "line": line,
        "custom_id": f"c-{line}",
        "body": "{}",
        "input_bytes": 10,
        "state": RequestState.SUCCEEDED,
        "win_rate": 0.75,
        "model": "strong",
        "reason": Reason.PLAN,
        "cost_nano": 12_300_000,
        "status_code": 200,
        "request_id": f"req_{line}",
        "response": BODY,
    }
    return values | changes


def failed(line: int, state: RequestState, **changes: Any) -> dict[str, Any]:
    nothing = {"model": None, "reason": None, "cost_nano": 0, "status_code": None, "request_id": None, "response": None}
    return answered(line, state=state) | nothing | changes


def put(database: Database, batch_id: str, rows: list[dict[str, Any]]) -> None:
    with database.transaction() as session:
        now = session.scalar(text("select now()"))
        session.add_all(Request(batch_id=batch_id, finished_at=now, **row) for row in rows)


def content(database: Database, batch_id: str, *, errors: bool = False) -> list[dict[str, Any]]:
    """The lines of a file. Its size is what `file_bytes` said."""
    whole = b"".join(render(database, batch_id, errors=errors))
    with database.transaction() as session:
        lines, size = file_bytes(session, batch_id, errors=errors)
    assert (whole.decode().splitlines(), len(whole)) == (whole.decode().split("\n")[:-1], size)
    actual = [json.loads(line) for line in whole.decode().splitlines()]
    assert len(actual) == lines
    return actual


def test_an_answer_carries_the_upstreams_body_and_why_it_went_there(client: OpenAI, database: Database) -> None:
    batch_id = create(client).id
    put(database, batch_id, [answered(1), answered(2, win_rate=None, reason=Reason.UNSCORED, request_id=None)])
    with database.transaction() as session:
        for number, gain in ((1, 0.1), (2, 0.5)):
            session.add(
                Decision(batch_id=batch_id, line=1, number=number, model="strong", reason=Reason.PLAN, gain=gain)
            )
    first, second = content(database, batch_id)
    short = batch_id.removeprefix("batch_")
    assert first == {
        "id": f"batch_req_{short}_1",
        "custom_id": "c-1",
        "response": {
            "status_code": 200,
            "request_id": "req_1",
            "body": json.loads(BODY),
            "routing": {"model": "strong", "win_rate": 0.75, "gain": 0.5, "reason": "plan", "cost_usd": "0.0123"},
        },
        "error": None,
    }
    assert second["response"]["routing"]["win_rate"] is None
    assert second["response"]["routing"]["reason"] == "unscored"
    assert content(database, batch_id, errors=True) == []


def test_an_answer_names_the_router_version_that_it_was_routed_by(client: OpenAI, database: Database) -> None:
    batch_id = create(client).id
    put(database, batch_id, [answered(1)])
    with database.transaction() as session:
        number = register(session, method="gain", artifact="a" * 64, details={})
        version = {"router_version_id": number, "gain": 0.5}
        session.add(Decision(batch_id=batch_id, line=1, number=1, model="strong", reason=Reason.PLAN, **version))
    (line,) = content(database, batch_id)
    assert line["response"]["routing"]["router_version"] == number


def test_failures_say_what_happened(client: OpenAI, database: Database) -> None:
    batch_id = create(client).id
    error = '{"error":{"message":"too long","type":"x","param":null,"code":"context_length_exceeded"}}'
    rows = [
        failed(1, RequestState.FAILED, status_code=400, request_id="r", response=error, model="weak", reason="plan"),
        failed(2, RequestState.FAILED, status_code=503, error_code="overloaded", error_message='say "no"'),
        failed(3, RequestState.FAILED, error_code="connection_error", error_message="no answer"),
        failed(4, RequestState.EXPIRED),
        failed(5, RequestState.CANCELLED),
        failed(6, RequestState.UNAFFORDABLE),
        answered(7),
    ]
    put(database, batch_id, rows)
    actual = content(database, batch_id, errors=True)
    assert [line["custom_id"] for line in actual] == [f"c-{n}" for n in range(1, 7)]
    assert [line["error"] and line["error"]["code"] for line in actual] == [
        None,
        None,
        "connection_error",
        "batch_expired",
        "batch_cancelled",
        "budget_exhausted",
    ]
    assert all(line["error"]["message"] for line in actual[2:])
    assert [line["response"] is None for line in actual] == [False, False, True, True, True, True]
    assert actual[0]["response"]["status_code"] == 400
    assert actual[0]["response"]["body"] == json.loads(error)
    expected = {"message": 'say "no"', "type": "upstream_error", "param": None, "code": "overloaded"}
    assert actual[1]["response"]["body"] == {"error": expected}


def test_a_line_is_never_broken_by_what_a_model_or_a_client_wrote(client: OpenAI, database: Database) -> None:
    batch_id = create(client).id
    nasty = 'a"b\\c\n\r\t\u2028\u2029\u0085\x0b\x1c é 🙂 :name %s'
    body = '{\n "content": ' + json.dumps(nasty, ensure_ascii=False) + "\r\n}"
    put(database, batch_id, [answered(1, custom_id=nasty, response=body, request_id=nasty)])
    (line,) = content(database, batch_id)
    assert line["custom_id"] == line["response"]["request_id"] == nasty
    assert line["response"]["body"] == {"content": nasty}


def test_costs_are_exact_decimals(client: OpenAI, database: Database) -> None:
    batch_id = create(client).id
    costs = {0: "0.00", 1: "0.000000001", 5_000_000_000: "5.00", 1_230_000_000: "1.23", 100_000_000: "0.10"}
    put(database, batch_id, [answered(n, cost_nano=cost) for n, cost in enumerate(costs, start=1)])
    actual = [line["response"]["routing"]["cost_usd"] for line in content(database, batch_id)]
    assert actual == list(costs.values())


def test_files_longer_than_a_page_come_whole_and_in_order(client: OpenAI, database: Database) -> None:
    """By lines and by bytes: a body that is larger than a page's bytes is a page of its own."""
    batch_id = create(client).id
    large = json.dumps({"content": "x" * 5_000_000})
    lines = 2 * PAGE_LINES + 10
    rows = [answered(n, response=large if n in (1, 3, 4, lines) else BODY) for n in range(1, lines + 1)]
    rows[1] = failed(2, RequestState.EXPIRED)
    put(database, batch_id, rows)
    actual = [line["custom_id"] for line in content(database, batch_id)]
    assert actual == [f"c-{n}" for n in range(1, lines + 1) if n != 2]
    assert [line["custom_id"] for line in content(database, batch_id, errors=True)] == ["c-2"]


def test_a_finished_batch_shows_its_counts_and_its_file_downloads(api: Api, client: OpenAI, database: Database) -> None:
    batch_id = create(client, extra_body={"routing": {"budget_usd": "1"}}).id
    rows = [answered(1), answered(2, model="weak", reason=Reason.BUDGET), failed(3, RequestState.UNAFFORDABLE)]
    put(database, batch_id, rows)
    finish(api, batch_id)
    batch = client.batches.retrieve(batch_id)
    assert batch.output_file_id == "file-out"
    assert batch.request_counts is not None
    assert batch.request_counts.to_dict() == {"total": 3, "completed": 2, "failed": 1}
    assert routing(batch)["models"] == {"strong": 1, "weak": 1}
    assert routing(batch)["reasons"] == {"plan": 1, "budget": 1}
    assert routing(batch)["incomplete"] is True
    assert batch.usage is not None
    assert batch.usage.to_dict() == {
        "input_tokens": 30,
        "input_tokens_details": {"cached_tokens": 4},
        "output_tokens": 7,
        "output_tokens_details": {"reasoning_tokens": 2},
        "total_tokens": 37,
    }
    output = client.files.content("file-out").read()
    assert len(output) == client.files.retrieve("file-out").bytes
    assert [json.loads(line)["custom_id"] for line in output.splitlines()] == ["c-1", "c-2"]
    assert [f.id for f in client.files.list(purpose="batch_output")] == ["file-out"]


def finish(api: Api, batch_id: str) -> None:
    """As dispatching and finishing leave a batch: two attempts, the counts, the output file."""
    attempt = text(
        "insert into attempts (batch_id, line, number, model, upstream_model, input_price, cached_input_price,"
        " output_price, reserved_nano, state, ended_at, input_tokens, cached_tokens, output_tokens, reasoning_tokens)"
        " values (:batch, :line, 1, 'm', 'm', 1, 1, 1, 1, 'succeeded', now(), :i, :c, :o, :r)"
    )
    with api.database.transaction() as session:
        session.execute(attempt, {"batch": batch_id, "line": 1, "i": 10, "c": 4, "o": 5, "r": 2})
        session.execute(attempt, {"batch": batch_id, "line": 2, "i": 20, "c": None, "o": 2, "r": None})
        _, size = file_bytes(session, batch_id, errors=False)
        session.add(
            File(
                id="file-out",
                api_key_id=api.key_id,
                purpose=FilePurpose.BATCH_OUTPUT,
                filename="out.jsonl",
                bytes=size,
                batch_id=batch_id,
            )
        )
        session.flush()
        batch = session.get_one(Batch, batch_id)
        batch.state, batch.completed_at = BatchState.COMPLETED, session.scalar(text("select now()"))
        batch.total, batch.succeeded, batch.failed, batch.output_file_id = 3, 2, 1, "file-out"
