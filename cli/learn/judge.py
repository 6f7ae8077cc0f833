"""`routebatch judge`: ask a model about a batch's answers, collect its replies, and say whether to believe it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cli.epilog import epilog
from cli.errors import INTERRUPTED
from cli.options import Usd, batch_argument, database_option, json_option
from cli.output import print_json, print_table, usd
from cli.progress import spinner
from cli.stack_access import find_settings, open_database, transaction

if TYPE_CHECKING:
    from routing_service.settings import Settings
    from training.evaluate.intervals import Mean
    from training.label.judge.ask import Asked
    from training.label.judge.collect import Collected
    from training.label.judge.health import JudgeHealth

ASK = "ask"  # the command that `judge BATCH` stands for
POLL_S = 1.0
NO_REPLY = 3  # the exit code where questions are left without a reply


class _Group(click.Group):
    """What is no command's name is a batch's: `judge BATCH` is `judge ask BATCH`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        named = set(self.commands) | set(ctx.help_option_names)
        return super().parse_args(ctx, args if not args or args[0] in named else [ASK, *args])


@click.group(
    cls=_Group,
    epilog=epilog("routebatch judge batch_... --budget 2 --wait", "routebatch judge health"),
)
def judge() -> None:
    """Have a model judge a batch's answers.

    `routebatch judge BATCH` is short for `routebatch judge ask BATCH`. The judge is a model of the configuration, named
    in [learning.judge]. Its calls are requests like any other's, under a budget of their own. Pairs become comparisons,
    scores become ratings.
    """


@judge.command(
    ASK,
    epilog=epilog(
        "routebatch judge ask batch_... --budget 2",
        "routebatch judge ask batch_... --mode score --reference gold.csv --limit 500 --budget 2 --wait",
        codes="Exit codes: 0 done, 1 failed, 2 wrong usage, 3 some questions have no reply (with --wait).",
    ),
)
@batch_argument
@click.option(
    "--mode",
    type=click.Choice(["pairwise", "score"]),
    default="pairwise",
    help="Ask which of two answers is better, in both orders; or how good one is, 1 to 5, by a reference answer.",
)
@click.option(
    "--reference",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="With --mode score: judge by these answers, a file with custom_id (or id) and reference (or gold, answer). "
    "Default: weak answers by the strong ones.",
)
@click.option("--limit", type=click.IntRange(min=1), help="Ask about at most this many, drawn at random.")
@click.option(
    "--budget", type=Usd(), help="Never spend more on the judge than this. Default: learning.judge.budget_usd."
)
@click.option("--wait", is_flag=True, help="Wait for the replies, and collect them.")
@json_option
@database_option
def ask(
    batch_id: str,
    mode: str,
    reference: Path | None,
    limit: int | None,
    budget: str | None,
    wait: bool,
    as_json: bool,
    state_dir: Path | None,
) -> None:
    """Ask the judge about the answers of a batch.

    Pairs are requests that both models have answered (paired sampling). The calls begin within sweep.interval_s. What
    this judge was asked before with this template is not asked, or paid, again; what got no reply is.
    """
    from dataclasses import asdict

    if reference is not None and mode != "score":
        raise click.UsageError("--reference belongs to --mode score")
    asked = _ask(find_settings(state_dir), state_dir, batch_id, mode, reference, limit, budget)
    if not as_json:
        show_asked(asked)
    replies = _wait_for(asked.batch_id, state_dir) if wait else None
    if as_json:
        print_json(asked_as_json(asked) | {"collected": asdict(replies) if replies else None})
    elif replies:
        show_collected(replies)
    if replies and replies.unanswered:
        raise SystemExit(NO_REPLY)


@judge.command()
@json_option
@database_option
def collect(as_json: bool, state_dir: Path | None) -> None:
    """Collect the replies that are there, as comparisons and ratings. A worker does the same every minute."""
    from dataclasses import asdict

    replies = _collect(state_dir)
    if as_json:
        print_json(asdict(replies))
    else:
        show_collected(replies)


@judge.command()
@json_option
@database_option
def health(as_json: bool, state_dir: Path | None) -> None:
    """Show whether the judge can be believed: agreement of the two orders and with golden labels, and what it has cost.

    Figures are by judge and template, with 95 % intervals.
    """
    from dataclasses import asdict

    from routing_service.money.pricing import format_usd
    from training.label.judge.health import judge_health

    with transaction(state_dir) as session:
        judges = judge_health(session)
    if as_json:
        print_json([asdict(each) | {"cost_usd": format_usd(each.cost_nano)} for each in judges])
        return
    if not judges:
        click.echo("no judge was asked yet")
    for each in judges:
        show_health(each)


def _ask(
    settings: Settings,
    state_dir: Path | None,
    batch_id: str,
    mode: str,
    reference: Path | None,
    limit: int | None,
    budget: str | None,
) -> Asked:
    from decimal import Decimal

    from routing_service.money.pricing import price_book, to_nano
    from training.label.judge.ask import REFERENCE_COLUMNS, ask_judge, read_references

    configured = settings.learning.judge
    dollars = Decimal(budget) if budget is not None else configured.budget_usd if configured else None
    if configured is not None and dollars is None:
        raise click.UsageError("name the judge's budget: --budget, or learning.judge.budget_usd")
    references = None if reference is None else read_references(reference, REFERENCE_COLUMNS)
    prices = price_book(settings)
    nano = to_nano(dollars or Decimal(0))
    with transaction(state_dir) as session:
        return ask_judge(
            session, settings, prices, batch_id, budget_nano=nano, mode=mode, references=references, limit=limit
        )


def _wait_for(batch_id: str, state_dir: Path | None) -> Collected:
    """Collect until the companion's replies are read, by us or by a worker."""
    from training.label.judge.collect import collected_of

    try:
        with spinner(f"waiting for {batch_id}"):
            while True:
                _collect(state_dir)
                with transaction(state_dir) as session:
                    replies = collected_of(session, batch_id)
                if replies is not None:
                    return replies
                time.sleep(POLL_S)
    except KeyboardInterrupt:
        click.echo(f"{batch_id} goes on; a worker collects its replies, or `routebatch judge collect`", err=True)
        raise SystemExit(INTERRUPTED) from None


def _collect(state_dir: Path | None) -> Collected:
    from training.label.judge.collect import collect_judgements

    with open_database(state_dir) as database:
        return collect_judgements(database)


def asked_as_json(asked: Asked) -> dict[str, Any]:
    from dataclasses import asdict

    from routing_service.money.pricing import format_usd

    amounts = {"budget_usd": asked.budget_nano, "expected_cost_usd": asked.expected_cost_nano}
    return asdict(asked) | {name: format_usd(nano) for name, nano in amounts.items()}


def show_asked(asked: Asked) -> None:
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


def show_collected(replies: Collected) -> None:
    click.echo(
        f"{replies.verdicts:,} verdicts: {replies.comparisons:,} comparisons and {replies.ratings:,} ratings;"
        f" {replies.unparsed:,} replies in no form that counts, {replies.unanswered:,} questions without a reply"
    )


def show_health(health: JudgeHealth) -> None:
    from routing_service.money.pricing import to_usd

    counts = ", ".join(f"{verdict} {count:,}" for verdict, count in health.verdicts.items())
    click.echo(
        f"{health.judge}, {health.template}: {health.calls:,} questions for {usd(to_usd(health.cost_nano))} ({counts})"
    )
    shares = [
        ("replies in no form that counts", health.unparsed),
        ("both orders say the same", health.swap_agreement),
        ("prefers what is shown first (0.5: no bias)", health.first_preferred),
        ("agrees with golden labels, ties included", health.golden_agreement),
        ("agrees with them where both prefer one answer", health.golden_decided),
    ]
    columns = ("share", "n", "of 1", "95 %")
    print_table(columns, [(name, *_cells(share)) for name, share in shares if share.n], numeric=columns[1:])


def _cells(share: Mean) -> tuple[str, str, str]:
    low, high = share.interval
    return f"{share.n:,}", f"{share.mean or 0:.3f}", f"{low:.3f} to {high:.3f}"
