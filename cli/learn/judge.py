"""`routebatch judge`: a model's opinion of a batch's answers, what came of it, and whether it can be believed.

What `routebatch judge` prints: what is asked, what came of it, and the judge's health.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cli.options import Usd, json_option
from cli.progress import spinner
from cli.stack_access import database_options, find_database, find_settings
from cli.stack_access import reading as transaction

if TYPE_CHECKING:
    from routing_service.settings import Settings
    from training.evaluate.intervals import Mean
    from training.label.judge.ask import Asked
    from training.label.judge.collect import Collected
    from training.label.judge.health import JudgeHealth

ASK = "ask"  # the command that `judge BATCH` is short for
POLL_S = 1.0


class _Group(click.Group):
    """What is no command's name is a batch's: `judge BATCH` is `judge ask BATCH`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        named = set(self.commands) | set(ctx.help_option_names)
        return super().parse_args(ctx, args if not args or args[0] in named else [ASK, *args])


@click.group(cls=_Group, short_help="Let a model judge a batch's answers.")
def judge() -> None:
    """Let a model judge a batch's answers: `routebatch judge BATCH --budget USD`.

    The judge is a model of the configuration, named in [learning.judge]. Its calls are requests like any other's, under
    a budget of their own. Pairs become comparisons, scores become ratings.
    """


@judge.command(ASK, epilog="Exit codes: 0 done, 1 failed, 2 usage, 3 some questions have no reply (with --wait).")
@click.argument("batch", metavar="BATCH")
@click.option(
    "--mode",
    type=click.Choice(["pairwise", "score"]),
    default="pairwise",
    show_default=True,
    help="Which of two answers is better, asked in both orders; or how good one is, 1 to 5, by a reference answer.",
)
@click.option(
    "--reference",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="For scores: custom_id (or id) and reference (or gold, answer). Default: weak answers by the strong ones.",
)
@click.option("--limit", type=click.IntRange(min=1), help="Ask about at most so many, drawn by lot.")
@click.option("--budget", type=Usd(), help="Dollars that the judge may cost. Default: learning.judge.budget_usd.")
@click.option("--wait", is_flag=True, help="Wait for the replies, and collect them.")
@json_option
@database_options
def ask(
    batch: str,
    mode: str,
    reference: Path | None,
    limit: int | None,
    budget: str | None,
    wait: bool,
    as_json: bool,
    state_dir: Path | None,
) -> None:
    """Put the answers of BATCH before the judge.

    Pairs are requests that both models have answered (paired sampling). The calls begin within sweep.interval_s. What
    this judge was asked before with this template is not asked, or paid, again; what got no reply is.
    """
    from dataclasses import asdict

    from cli.output import print_json

    if reference is not None and mode != "score":
        raise click.UsageError("--reference is for --mode score")
    asked = _ask(find_settings(state_dir), state_dir, batch, mode, reference, limit, budget)
    if not as_json:
        show_asked(asked)
    found = _wait_for(asked.batch_id, state_dir) if wait else None
    if as_json:
        print_json(asked_as_json(asked) | {"collected": asdict(found) if found else None})
    elif found:
        show_collected(found)
    if found and found.unanswered:
        raise SystemExit(3)


@judge.command()
@json_option
@database_options
def collect(as_json: bool, state_dir: Path | None) -> None:
    """Make comparisons and ratings of the replies that are there. A worker does the same every minute."""
    from dataclasses import asdict

    from cli.output import print_json

    found = _collect(state_dir)
    if as_json:
        print_json(asdict(found))
    else:
        show_collected(found)


@judge.command()
@json_option
@database_options
def health(as_json: bool, state_dir: Path | None) -> None:
    """Say whether the judge can be believed: agreement of the two orders, and with golden labels; what it has cost.

    By judge and template, with 95 % intervals.
    """
    from dataclasses import asdict

    from cli.output import print_json
    from routing_service.money.pricing import format_usd
    from training.label.judge.health import judge_health

    with transaction(state_dir) as session:
        found = judge_health(session)
    if as_json:
        print_json([asdict(each) | {"cost_usd": format_usd(each.cost_nano)} for each in found])
    elif not found:
        click.echo("no judge was asked yet")
    for each in () if as_json else found:
        show_health(each)


def _ask(
    settings: Settings,
    state_dir: Path | None,
    batch: str,
    mode: str,
    reference: Path | None,
    limit: int | None,
    budget: str | None,
) -> Asked:
    from decimal import Decimal

    from routing_service.money.pricing import price_book, to_nano
    from training.label.judge.ask import REFERENCE_COLUMNS, ask_judge, read_references

    told = settings.learning.judge
    usd = Decimal(budget) if budget is not None else told.budget_usd if told else None
    if told is not None and usd is None:
        raise click.UsageError("name the judge's budget: --budget, or learning.judge.budget_usd")
    references = None if reference is None else read_references(reference, REFERENCE_COLUMNS)
    prices = price_book(settings)
    nano = to_nano(usd or Decimal(0))
    with transaction(state_dir) as session:
        return ask_judge(
            session, settings, prices, batch, budget_nano=nano, mode=mode, references=references, limit=limit
        )


def _wait_for(batch_id: str, state_dir: Path | None) -> Collected:
    """Collect until the companion's replies are read, by us or by a worker."""
    from training.label.judge.collect import collected_of

    try:
        with spinner(f"waiting for {batch_id}"):
            while True:
                _collect(state_dir)
                with transaction(state_dir) as session:
                    found = collected_of(session, batch_id)
                if found is not None:
                    return found
                time.sleep(POLL_S)
    except KeyboardInterrupt:
        click.echo(f"{batch_id} goes on; a worker collects its replies, or `routebatch judge collect`", err=True)
        raise SystemExit(130) from None


def _collect(state_dir: Path | None) -> Collected:
    from routing_service.db import Database
    from training.label.judge.collect import collect_judgements

    database = Database(find_database(state_dir), pool_size=1)
    try:
        return collect_judgements(database)
    finally:
        database.dispose()


def asked_as_json(asked: Asked) -> dict[str, Any]:
    from dataclasses import asdict

    from routing_service.money.pricing import format_usd

    amounts = {"budget_usd": asked.budget_nano, "expected_cost_usd": asked.expected_cost_nano}
    return asdict(asked) | {name: format_usd(nano) for name, nano in amounts.items()}


def show_asked(asked: Asked) -> None:
    from cli.output import usd
    from routing_service.money.pricing import to_usd

    what = "pairs" if asked.calls > asked.subjects else "answers"
    click.echo(
        f"{asked.batch_id}: {asked.judge} is asked about {asked.subjects:,} {what} in {asked.calls:,} calls, for about"
        f" {usd(to_usd(asked.expected_cost_nano))} of at most {usd(to_usd(asked.budget_nano))}"
    )
    if asked.asked_before:
        click.echo(f"{asked.asked_before:,} were asked about before", err=True)
    if asked.too_long:
        click.echo(f"{asked.too_long:,} are too long to be asked about (limits.max_line_bytes)", err=True)


def show_collected(found: Collected) -> None:
    click.echo(
        f"{found.verdicts:,} verdicts: {found.comparisons:,} comparisons and {found.ratings:,} ratings;"
        f" {found.unparsed:,} replies in no form that counts, {found.unanswered:,} questions without a reply"
    )


def show_health(found: JudgeHealth) -> None:
    from cli.output import print_table, usd
    from routing_service.money.pricing import to_usd

    counts = ", ".join(f"{verdict} {count:,}" for verdict, count in found.verdicts.items())
    click.echo(
        f"{found.judge}, {found.template}: {found.calls:,} questions for {usd(to_usd(found.cost_nano))} ({counts})"
    )
    shares = [
        ("replies in no form that counts", found.unparsed),
        ("both orders say the same", found.swap_agreement),
        ("prefers what is shown first (0.5: no bias)", found.first_preferred),
        ("agrees with golden labels, ties included", found.golden_agreement),
        ("agrees with them where both prefer one answer", found.golden_decided),
    ]
    columns = ("share", "n", "of 1", "95 %")
    print_table(columns, [(name, *_cells(share)) for name, share in shares if share.n], numeric=columns[1:])


def _cells(share: Mean) -> tuple[str, str, str]:
    low, high = share.interval
    return f"{share.n:,}", f"{share.mean or 0:.3f}", f"{low:.3f} to {high:.3f}"
