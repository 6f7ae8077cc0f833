"""A whole stack under fire: batch after batch by its API, an upstream that errs, every process struck at random.

Clients keep a few batches open while the trouble lasts; then the stack is left alone and all of them must end.
`tests.support.chaos.chaos` says afterwards what does not hold. Used by tests and benchmarks.

What chaos left behind, held against what must hold: every batch once, the money, and every answer its line's own.
"""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import openai
from openai import OpenAI
from openai.types import Batch
from sqlalchemy import text

from deploy.stack import KEY_NAME
from routing_service.db import Database
from sandbox.answers import SyntheticAnswers
from sandbox.config import SandboxConfig
from sandbox.problems import generate
from sandbox.wire import cut_to_cap
from tests.support.chaos.stress import Billed, read_bill
from tests.support.chaos.stress_account import Account, account
from tests.support.chaos.strikes import Strike, Striker, strikes
from tests.support.factories import chat_line
from tests.support.stack import RunningStack
from tests.support.upstreams.sandbox_server import sandbox_process

FAULTS = {"p429": 0.10, "p500": 0.05, "reset": 0.01, "reset-after": 0.01, "hang": 0.01, "garbage": 0.01}
"""Of a hundred calls nineteen go wrong."""

CONFIG = """
[models.strong]
name = "sandbox-strong"
base_url = "{url}"
input_usd_per_million = 10
output_usd_per_million = 30
max_output_tokens = 128
expected_output_tokens = 40
max_concurrency = 12
timeout_s = 4
[models.weak]
name = "sandbox-weak"
base_url = "{url}"
input_usd_per_million = 0.15
output_usd_per_million = 0.6
max_output_tokens = 128
expected_output_tokens = 40
max_concurrency = 12
timeout_s = 4
[routing]
candidates = ["weak", "strong"]
[dispatch]
claim_chunk = 16
lease_s = 4
renew_s = 1
claim_s = 10
grace_s = 5
backoff_base_s = 0.1
backoff_max_s = 2
[sweep]
interval_s = 1
announce_after_s = 3
"""
BUDGETS_USD = ("0.0003", "0.001", "0.004")
"""For a line: of the tight ones some lines go without an answer, of the ample ones none need."""

ENDED = ("completed", "failed", "expired", "cancelled")
LOOK_S = 0.3
T = TypeVar("T")
Say = Callable[[str], object]


@dataclass(frozen=True)
class Chaos:
    """What is to be done: every target is struck once a round, a round takes `round_s` or as long as its strikes do;
    after the last one all must end within `rest_s`."""

    seed: int
    rounds: int
    round_s: float
    rest_s: float
    lines: int = 150  # of a batch
    open_batches: int = 3
    latency_ms: float = 150


@dataclass(frozen=True)
class Endured:
    """What was left: how many batches were asked for, the upstream's bill, the strikes, and how long it all took."""

    batches: int
    bills: list[Billed]
    strikes: list[Strike]
    seconds: float


@contextmanager
def troubled_stack(directory: Path, chaos: Chaos) -> Iterator[tuple[RunningStack, Path]]:
    """A stack before a faulty upstream, its key with a budget beside those of the batches; and the upstream's bill."""
    bill, config = directory / "billed.csv", directory / "routebatch.toml"
    rates = [word for name, rate in FAULTS.items() for word in (f"--{name}", str(rate))]
    options = ["--latency-ms", str(chaos.latency_ms), "--seed", str(chaos.seed), "--billed", str(bill)]
    with sandbox_process(*options, *rates) as url:
        config.write_text(CONFIG.format(url=url))
        stack = RunningStack(directory / "state", config)
        try:
            stack.up()
            limited = stack.run("budgets", "set", KEY_NAME, "--per", "all", "--limit", "1000")
            assert limited.returncode == 0, limited.stderr
            yield stack, bill
        finally:
            stack.down()


def endure(stack: RunningStack, bill: Path, chaos: Chaos, say: Say) -> Endured:
    """Submit and strike, then wait until all batches have ended. TimeoutError where they do not."""
    striker = Striker(stack, random.Random(f"strikes {chaos.seed}"))

    def trouble(stopped: Callable[[], bool]) -> None:
        try:
            for number in range(chaos.rounds):
                _round(striker, chaos, number, stopped, say)
        finally:
            striker.wake(all_of_them=True)

    started = time.monotonic()
    batches = submitting(stack, chaos, trouble, say)
    _come_back(striker, chaos.rest_s)
    return Endured(batches, read_bill(bill), striker.done, time.monotonic() - started)


def submitting(
    stack: RunningStack, chaos: Chaos, trouble: Callable[[Callable[[], bool]], None], say: Say = lambda _: None
) -> int:
    """Keep batches open while the trouble lasts, and see all of them end. Returns how many there were.

    `trouble` is given a function that says whether clients have given up.
    """
    over, abandoned = threading.Event(), threading.Event()
    with ThreadPoolExecutor(max_workers=1) as pool:
        client = pool.submit(_submit_until, stack, chaos, over, abandoned)
        try:
            trouble(client.done)
        except BaseException:
            abandoned.set()
            raise
        finally:
            over.set()
        say("the trouble is over")
        return client.result()


def _round(striker: Striker, chaos: Chaos, number: int, stopped: Callable[[], bool], say: Say) -> None:
    """Every strike of a round, at its moment. Who is away at that moment is struck as soon as he is back."""
    started = time.monotonic()
    rng = random.Random(f"round {number} {chaos.seed}")
    coming = [(started + rng.uniform(0, chaos.round_s), *strike) for strike in strikes(chaos.seed + number)]
    while coming and not stopped():
        due = sorted(strike for strike in coming if strike[0] <= time.monotonic())
        done = next((strike for strike in due if striker.strike(*strike[1:])), None)
        if done is None:
            striker.wake()
            time.sleep(0.1)
            continue
        coming.remove(done)
        say(f"round {number + 1}, {time.monotonic() - started:5.1f} s: {done[1]} {done[2]}")


def _come_back(striker: Striker, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while missing := striker.missing():
        if time.monotonic() > deadline:
            raise TimeoutError(f"did not come back: {missing}")
        time.sleep(LOOK_S)


def _submit_until(stack: RunningStack, chaos: Chaos, over: threading.Event, abandoned: threading.Event) -> int:
    """Keep some batches open until it is over, then see all of them end. Returns how many there were."""
    rng = random.Random(f"batches {chaos.seed}")
    made, deadline = 0, float("inf")
    while not abandoned.is_set():
        batches = persistently(stack, lambda client: list(client.batches.list(limit=100)), abandoned)
        still = [batch for batch in batches if batch.status not in ENDED]
        if over.is_set():
            deadline = min(deadline, time.monotonic() + chaos.rest_s)
            if not still:
                break
        elif len(still) < chaos.open_batches:
            _submit(stack, chaos, made, rng.choice(BUDGETS_USD), abandoned)
            made += 1
            continue
        if time.monotonic() > deadline:
            raise TimeoutError(f"have not ended: {[(b.id, b.status, b.request_counts, b.model_extra) for b in still]}")
        time.sleep(LOOK_S)
    return made


def _submit(stack: RunningStack, chaos: Chaos, number: int, usd_a_line: str, abandoned: threading.Event) -> Batch:
    """Another batch, made once however often its creation is asked for."""
    problems = generate(chaos.lines, chaos.seed * 1000 + number)
    lines = [chat_line(f"line-{n}", f"{n}. {problem.prompt}") for n, problem in enumerate(problems)]
    content = "".join(json.dumps(line) + "\n" for line in lines).encode()
    named = ("lines.jsonl", content)
    file = persistently(stack, lambda client: client.files.create(file=named, purpose="batch"), abandoned)
    return persistently(
        stack,
        lambda client: client.batches.create(
            input_file_id=file.id,
            endpoint="/v1/chat/completions",
            completion_window="24h",
            extra_headers={"Idempotency-Key": f"chaos-{number}"},
            extra_body={"routing": {"budget_usd": f"{float(usd_a_line) * chaos.lines:.6f}"}},
        ),
        abandoned,
    )


def persistently(
    stack: RunningStack, work: Callable[[OpenAI], T], abandoned: threading.Event | None = None, seconds: float = 120
) -> T:
    """What a patient client does: asks again while the API is away or its database is. Anything else is an error."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            details = stack.file
            url, key = details["api_url"] + "/v1", details["api_key"]
            with OpenAI(base_url=url, api_key=key, timeout=10, max_retries=0) as client:
                return work(client)
        except (openai.APIConnectionError, openai.InternalServerError, KeyError, FileNotFoundError) as error:
            if isinstance(error, openai.InternalServerError) and error.status_code != 503:
                raise
            if time.monotonic() > deadline or (abandoned and abandoned.is_set()):
                raise
            time.sleep(LOOK_S)


CAP = 128  # tokens of an answer, as configured


def settle_accounts(stack: RunningStack, chaos: Chaos, endured: Endured) -> Account:
    """Add up and compare; `wrong` of what is returned should be empty."""
    database = Database(str(stack.file["database_url"]))
    try:
        with database.transaction() as session:
            batch_ids = list(session.scalars(text("select id from batches order by created_at, id")))
        statement = account(database, batch_ids, endured.bills)
    finally:
        database.dispose()
    if len(batch_ids) != endured.batches:
        statement.wrong.append(f"{endured.batches} batches were asked for, {len(batch_ids)} were made")
    answers = SyntheticAnswers(SandboxConfig(seed=chaos.seed))
    for batch_id in batch_ids:
        statement.wrong += persistently(stack, lambda client, b=batch_id: list(_answers(client, b, answers)))  # type: ignore[misc]
    done = stack.run("ledger", "verify")
    if done.returncode:
        statement.wrong.append(f"ledger verify: {done.stdout}{done.stderr}")
    return statement


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
        right, _, _ = cut_to_cap(answers.answer(body["model"], asked[line["custom_id"]], 0), CAP)
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
