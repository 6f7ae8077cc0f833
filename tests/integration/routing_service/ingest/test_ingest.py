"""Ingest on a real database: files become requests, or the batch fails with its reasons and leaves nothing behind."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import orjson
import pytest
from sqlalchemy import func, select, text, update

from routing_service.db import Database
from routing_service.ingest.ingest import ingest
from routing_service.ingest.reader import split_lines
from routing_service.models import Batch, BatchState, Request, ScoreRange
from routing_service.money.pricing import Price, PriceBook, Step, price_book
from routing_service.settings import Settings
from tests.support.factories import chat_file, chat_line, make_batch, make_file, make_key, make_settings, new_batch


def run(database: Database, batch_id: str, settings: Settings | None = None) -> BatchState | None:
    settings = settings or make_settings()
    return ingest(database, settings, price_book(settings), batch_id)


def batch_of(database: Database, batch_id: str) -> Batch:
    with database.transaction() as session:
        return session.get_one(Batch, batch_id)


def count(database: Database, table: type[Request] | type[ScoreRange]) -> int:
    with database.transaction() as session:
        return session.scalars(select(func.count()).select_from(table)).one()


def refused(database: Database, content: bytes | list[Any], **limits: int) -> list[tuple[str, int | None]]:
    """Codes and lines of the errors that a batch over this file fails with."""
    batch_id = new_batch(database, content)
    assert run(database, batch_id, make_settings(limits=limits)) is BatchState.FAILED
    batch = batch_of(database, batch_id)
    assert batch.state is BatchState.FAILED
    assert batch.failed_at is not None
    assert batch.total == 0
    assert count(database, Request) == count(database, ScoreRange) == 0
    assert batch.errors
    return [(error["code"], error["line"]) for error in batch.errors]


def test_a_valid_file_becomes_requests_and_ranges(database: Database) -> None:
    batch_id = new_batch(database, 25)
    assert run(database, batch_id, make_settings(score={"range_lines": 10})) is BatchState.IN_PROGRESS
    batch = batch_of(database, batch_id)
    assert (batch.state, batch.total, batch.model) == (BatchState.IN_PROGRESS, 25, "routebatch-auto")
    assert batch.in_progress_at is not None
    with database.transaction() as session:
        requests = session.scalars(select(Request).order_by(Request.line)).all()
        ranges = session.execute(select(ScoreRange.first_line, ScoreRange.last_line).order_by(ScoreRange.first_line))
        assert [tuple(row) for row in ranges] == [(1, 10), (11, 20), (21, 25)]
    assert [(r.line, r.custom_id) for r in requests] == [(n, f"request-{n}") for n in range(1, 26)]
    assert orjson.loads(requests[0].body) == chat_line(content="What is 1 times 7?")["body"]
    assert batch.floor_nano == sum(r.floor_nano for r in requests) > 0


def test_what_a_line_says_is_stored(database: Database) -> None:
    body = chat_line()["body"] | {"max_tokens": 9, "n": 3, "user": "tab\tnewline\nbackslash\\ Grüße \\N"}
    line = chat_line("id\t\n\\N", body=body, routing={"model": "strong", "max_cost_usd": "0.01", "priority": 7})
    batch_id = new_batch(database, [line])
    run(database, batch_id)
    with database.transaction() as session:
        request = session.scalars(select(Request)).one()
    assert orjson.loads(request.body) == body
    assert (request.custom_id, request.pinned, request.max_cost_nano) == ("id\t\n\\N", "strong", 10_000_000)
    assert (request.output_cap, request.choices, request.priority) == (9, 3, 7)
    assert batch_of(database, batch_id).line_priorities == [7]


@pytest.mark.parametrize("chunk_bytes", [1, 7, 100, 10_000])
def test_chunks_may_cut_lines_anywhere(database: Database, chunk_bytes: int) -> None:
    content = b"\xef\xbb\xbf" + chat_file(5).replace(b"\n", b"\r\n").rstrip() + b"\r\n\r\n  \n"
    with database.transaction() as session:
        key = make_key(session)
        batch_id = make_batch(session, key, make_file(session, key, content, chunk_bytes)).id
    assert run(database, batch_id) is BatchState.IN_PROGRESS
    assert batch_of(database, batch_id).total == 5


def test_every_faulty_line_is_named(database: Database) -> None:
    lines = [
        chat_line("a"),
        b"{broken",
        b"",
        chat_line("a"),
        chat_line("b", url="/v1/embeddings"),
        chat_line("c", body={"model": "strong", "messages": [{"role": "user", "content": "x"}]}),
        b"x" * 5000,
        chat_line("d", method="GET"),
        chat_line("e", body={"model": "routebatch-auto"}),
        chat_line("f"),
    ]
    assert refused(database, lines, max_line_bytes=4000) == [
        ("invalid_json_line", 2),
        ("invalid_json_line", 3),
        ("duplicate_custom_id", 4),
        ("url_mismatch", 5),
        ("mismatched_model", 6),
        ("line_too_long", 7),
        ("unsupported_parameter", 8),
        ("missing_required_parameter", 9),
    ]


@pytest.mark.parametrize("content", [b"", b"\n\n", b"\xef\xbb\xbf", b"  \r\n"])
def test_a_file_without_lines_is_empty(database: Database, content: bytes) -> None:
    assert refused(database, content) == [("empty_file", None)]


def test_a_file_with_too_many_lines_is_refused_at_the_first_one_over(database: Database) -> None:
    assert refused(database, chat_file(5), max_lines=3) == [("too_many_lines", 4)]


def test_a_binary_file_is_refused(database: Database) -> None:
    assert refused(database, bytes(range(256)) * 40, max_listed_errors=1) == [("invalid_json_line", 1)]


def test_only_some_errors_are_listed_and_all_are_counted(database: Database) -> None:
    batch_id = new_batch(database, b"{\n" * 50)
    run(database, batch_id, make_settings(limits={"max_listed_errors": 3}))
    batch = batch_of(database, batch_id)
    assert len(batch.errors or []) == 3
    assert batch.error_count == 50


def test_a_budget_too_small_for_all_weak_is_refused_with_the_least_that_would_do(database: Database) -> None:
    poor = new_batch(database, 20, budget_nano=1000)
    assert run(database, poor) is BatchState.FAILED
    error = (batch_of(database, poor).errors or [])[0]
    assert (error["code"], error["param"], error["line"]) == ("budget_too_small", "budget_usd", None)
    least = int(float(error["message"].rsplit("$", 1)[1].rstrip(".")) * 1e9 + 0.5)
    assert count(database, Request) == 0
    assert run(database, new_batch(database, 20, budget_nano=least - 2000)) is BatchState.FAILED
    assert run(database, new_batch(database, 20, budget_nano=least)) is BatchState.IN_PROGRESS


def test_a_pinned_line_counts_at_its_own_model(database: Database) -> None:
    cheap, dear = (new_batch(database, [chat_line(routing=routing)]) for routing in (None, {"model": "strong"}))
    run(database, cheap)
    run(database, dear)
    assert batch_of(database, dear).floor_nano > 10 * batch_of(database, cheap).floor_nano


def test_a_threshold_alias_sets_router_and_mode(database: Database) -> None:
    line = chat_line(body=chat_line()["body"] | {"model": "router-random-0.25"})
    batch_id = new_batch(database, [line], options={"mode": "share", "strong_share": 0.5})
    run(database, batch_id)
    batch = batch_of(database, batch_id)
    assert (batch.model, batch.router) == ("router-random-0.25", "random")
    assert (batch.options["mode"], batch.options["threshold"]) == ("threshold", 0.25)


def test_a_candidate_that_is_no_longer_configured_fails_the_batch(database: Database) -> None:
    batch_id = new_batch(database, 2, candidates=["gone", "strong"])
    assert run(database, batch_id) is BatchState.FAILED
    assert [error["code"] for error in batch_of(database, batch_id).errors or []] == ["unpriced_model"]


def test_a_second_ingest_changes_nothing(database: Database) -> None:
    batch_id = new_batch(database, 3)
    assert run(database, batch_id) is BatchState.IN_PROGRESS
    assert run(database, batch_id) is None
    assert count(database, Request) == 3
    assert run(database, "batch_unknown") is None


def test_only_one_of_many_runners_ingests(database: Database) -> None:
    batch_id = new_batch(database, 300)
    outcomes: list[BatchState | None] = []
    threads = [threading.Thread(target=lambda: outcomes.append(run(database, batch_id))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes, key=str) == [None, None, None, BatchState.IN_PROGRESS]
    assert count(database, Request) == 300


class InterruptedPrices(PriceBook):
    """Prices that call back when they are first asked for one: in the middle of reading a file."""

    def __init__(self, interrupt: Callable[[], None]) -> None:
        super().__init__({key: (Step(-1, Price(1, 1, 1)),) for key in ("weak", "strong")})
        self._interrupt: Callable[[], None] | None = interrupt

    def price(self, model: str, input_bound: int) -> Price:
        interrupt, self._interrupt = self._interrupt, None
        if interrupt:
            interrupt()
        return super().price(model, input_bound)


@pytest.mark.parametrize("content", [chat_file(50), chat_file(50) + b"{broken"])
def test_a_cancel_comes_through_while_the_file_is_read_and_nothing_is_kept(database: Database, content: bytes) -> None:
    batch_id = new_batch(database, content)

    def cancel() -> None:
        with database.transaction() as session:
            values = {"state": BatchState.CANCELLING, "cancelling_at": func.now()}
            session.execute(update(Batch).where(Batch.id == batch_id).values(values))

    assert ingest(database, make_settings(), InterruptedPrices(cancel), batch_id) is None
    assert batch_of(database, batch_id).state is BatchState.CANCELLING
    assert count(database, Request) == 0


def test_an_ingest_that_died_leaves_nothing_and_can_be_run_again(database: Database) -> None:
    batch_id = new_batch(database, 20)

    def die() -> None:
        raise MemoryError

    with pytest.raises(MemoryError):
        ingest(database, make_settings(), InterruptedPrices(die), batch_id)
    assert batch_of(database, batch_id).state is BatchState.VALIDATING
    assert count(database, Request) == 0
    assert run(database, batch_id) is BatchState.IN_PROGRESS


def test_a_huge_line_is_refused_without_being_held() -> None:
    served = 0

    def chunks() -> Any:
        nonlocal served
        for _ in range(400):
            served += 1
            yield b"x" * 262_144
        yield b"\nok\n"

    assert list(split_lines(chunks(), 1000)) == [(1, None), (2, b"ok")]
    assert served == 400


def test_no_connection_is_left_in_a_transaction(database: Database) -> None:
    run(database, new_batch(database, b"{\n"))
    run(database, new_batch(database, 3))
    with database.transaction() as session:
        idle = "select count(*) from pg_stat_activity where state like 'idle in%' and datname = current_database()"
        assert session.scalar(text(idle)) == 0
