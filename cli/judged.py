"""What `routebatch judge` prints: what is asked, what came of it, and the judge's health."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from training.evaluate.intervals import Mean
    from training.label.judge.ask import Asked
    from training.label.judge.collect import Collected
    from training.label.judge.health import JudgeHealth


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
