"""`routebatch routers diff`: what another router would have done with the last requests."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cli.database import database_options

if TYPE_CHECKING:
    from routing_service.plans.compare_routers import Difference


@click.command(epilog="Exit codes: 0 done, 1 failed, 2 usage.")
@click.argument("a", metavar="A")
@click.argument("b", metavar="B")
@click.option("--last", type=click.IntRange(min=1), default=1000, show_default=True, help="How many requests.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, alone, on stdout.")
@database_options
def diff(a: str, b: str, last: int, as_json: bool, state_dir: Path | None) -> None:
    """Say how many of the last requests B would have sent elsewhere than A, and at what cost.

    A and B: 12, version-12, gain (the built-in router), any configured router's name, or a directory. The newest
    requests of completed batches are scored by both, and each batch is cut again by its own mode, at the dollars that
    its requests were expected to cost. Nothing is sent.
    """
    from cli.output import print_json
    from cli.progress import progress_bar
    from cli.scoring import find_router
    from cli.versions import stack_settings
    from routing_service.db import Database
    from routing_service.errors import RoutebatchError
    from routing_service.plans.compare_routers import compare

    settings = stack_settings(state_dir)
    database = Database(settings.database_url.get_secret_value(), pool_size=1)
    try:
        both = (find_router(a, settings, state_dir), find_router(b, settings, state_dir))
        with progress_bar("scoring by both", lambda: last) as advance:
            found = compare(database, settings, both, last, advance)
    except RoutebatchError as error:
        raise click.ClickException(str(error)) from error
    finally:
        database.dispose()
    if as_json:
        print_json(_difference(a, b, found))
    else:
        _print_difference(a, b, found)


def _difference(a: str, b: str, found: Difference) -> dict[str, Any]:
    from routing_service.money.pricing import format_usd

    cost_a, cost_b = found.cost_nano
    counts = {"requests": found.requests, "batches": found.batches, "elsewhere": found.elsewhere}
    dollars = {"a": format_usd(cost_a), "b": format_usd(cost_b), "difference": format_usd(cost_b - cost_a)}
    models = {model: {"a": count_a, "b": count_b} for model, (count_a, count_b) in found.models.items()}
    return {"a": a, "b": b, **counts, "dearer": found.dearer, "expected_cost_usd": dollars, "models": models}


def _print_difference(a: str, b: str, found: Difference) -> None:
    from cli.output import print_table, share, usd

    if not found.requests:
        click.echo("no completed batch has requests that a router decided")
        return
    cheaper = found.elsewhere - found.dearer
    said = _difference(a, b, found)["expected_cost_usd"]
    click.echo(
        f"of the last {found.requests:,} requests, {share(found.elsewhere, found.requests)} would have gone elsewhere:"
        f" {found.dearer:,} to a dearer model, {cheaper:,} to a cheaper one"
    )
    extra = said["difference"]
    change = f"{usd(extra.removeprefix('-'))} {'less' if extra.startswith('-') else 'more'}"
    cost = ("expected cost", usd(said["a"]), f"{usd(said['b'])} ({change})")
    rows = [(model, f"{count_a:,}", f"{count_b:,}") for model, (count_a, count_b) in found.models.items()]
    print_table(("", a, b), [*rows, cost], numeric=(a, b))
