"""Following a batch to its end: progress on a terminal, and what the end means for the exit code.

`follow` and `follow_plan` poll the API; `wait_and_save` and `announce` are how commands that made a batch end.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import click

from cli.batch.results import save
from cli.client import TERMINAL, Api, ApiError, Batch, Plan
from cli.errors import DONE, FAILED, INTERRUPTED, STOPPED_BY_BUDGET
from cli.output import awaits_approval, print_errors, print_json, print_summary, state, usd
from cli.output_files import STDOUT

END_CODES = "Exit codes: 0 done, 1 failed, 2 wrong usage, 3 stopped by the budget."
WAIT_CODES = "Exit codes: 0 done, 1 failed, 2 wrong usage, 3 stopped by the budget (with --wait)."
BEING_PLANNED = ("validating", "scoring")
FIRST_PAUSE_S, LONGEST_PAUSE_S, PAUSE_GROWTH = 0.2, 2.0, 1.25
PATIENCE_S = 120.0  # with a server that does not answer: it may be starting again

Show = Callable[[Batch], None]


def announce(batch: Batch, *, as_json: bool) -> None:
    """Print the id of a batch that nobody waits for, or all of it as JSON."""
    if as_json:
        print_json(batch)
    else:
        click.echo(batch["id"])


def wait_and_save(
    api: Api,
    batch: Batch,
    output: Path | None,
    errors: Path | None,
    *,
    as_json: bool,
    source_line: Callable[[int], int] = int,
) -> NoReturn:
    """Follow the batch to its end, write what is wanted, and exit by how it ended.

    `source_line`: where a line of the batch's file stands in the client's own.
    """
    click.echo(f"batch {batch['id']}", err=True)
    batch = follow(api, batch["id"])
    if batch["status"] == "failed":
        print_errors(batch, source_line)
    else:
        save(api, batch, output, errors)
    if as_json:
        print_json(batch)
    else:
        print_summary(batch, stderr=STDOUT in (output, errors))
        if batch["error_file_id"] and errors is None:
            click.echo(f"the errors: routebatch results {batch['id']} --errors FILE", err=True)
    raise SystemExit(exit_code(batch))


def follow(api: Api, batch_id: str) -> Batch:
    """Poll a batch until it ends and return it. Ctrl-C leaves the batch running and says so (exit 130)."""
    try:
        with _progress() as show:
            return _poll(lambda: api.batch(batch_id), _has_ended, show)
    except KeyboardInterrupt:
        click.echo(f"batch {batch_id} goes on; follow it with `routebatch watch {batch_id}`", err=True)
        raise SystemExit(INTERRUPTED) from None


def follow_plan(api: Api, plan_id: str) -> Plan:
    """Poll a plan until it is ready, or has failed, and return it. Ctrl-C leaves it to be made (exit 130)."""
    try:
        with _progress() as show:

            def show_scored(plan: Plan) -> None:
                requests = plan["requests"]
                counts = {"total": requests["total"], "completed": requests["scored"], "failed": 0}
                show({"status": plan["status"], "request_counts": counts})

            return _poll(lambda: api.plan(plan_id), lambda plan: plan["status"] not in BEING_PLANNED, show_scored)
    except KeyboardInterrupt:
        click.echo(f"plan {plan_id} goes on; see it with `routebatch plan --id {plan_id}`", err=True)
        raise SystemExit(INTERRUPTED) from None


def exit_code(batch: Batch) -> int:
    """DONE (also: a plan that waits), FAILED (also: not one request answered) or STOPPED_BY_BUDGET."""
    if awaits_approval(batch):
        return DONE
    if batch["status"] != "completed":
        return FAILED
    if (batch.get("routing") or {}).get("incomplete"):
        return STOPPED_BY_BUDGET
    counts = batch["request_counts"]
    return FAILED if counts["failed"] and not counts["completed"] else DONE


def _has_ended(batch: Batch) -> bool:
    """Or it stands still for its owner to approve it."""
    return batch["status"] in TERMINAL or awaits_approval(batch)


def _poll(ask: Callable[[], Batch], is_over: Callable[[Batch], bool], show: Show) -> Batch:
    pause, give_up = FIRST_PAUSE_S, time.monotonic() + PATIENCE_S
    while True:
        try:
            batch = ask()
        except ApiError as error:
            if not error.transient or time.monotonic() > give_up:
                raise
        else:
            give_up = time.monotonic() + PATIENCE_S
            show(batch)
            if is_over(batch):
                return batch
        time.sleep(pause)
        pause = min(LONGEST_PAUSE_S, pause * PAUSE_GROWTH)


@contextmanager
def _progress() -> Iterator[Show]:
    """A progress bar on stderr, or nothing where that is no terminal."""
    if not sys.stderr.isatty():
        yield lambda batch: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[cost]}"))
    with Progress(*columns, TimeElapsedColumn(), console=Console(stderr=True)) as bar:
        task = bar.add_task("waiting", total=None, cost="")

        def show(batch: Batch) -> None:
            counts = batch["request_counts"]
            done = counts["completed"] + counts["failed"]
            bar.update(task, description=state(batch), total=counts["total"] or None, completed=done, cost=cost(batch))

        yield show


def cost(batch: Batch) -> str:
    """What a batch has spent of its budget."""
    routing = batch.get("routing") or {}
    return f"{usd(routing['settled_usd'])} of {usd(routing['budget_usd'])}" if routing.get("budget_usd") else ""
