"""`routebatch routers`: fitted routers by number, which of them serves, and what another one would have done.

`routebatch routers diff`: what another router would have done with the last requests.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cli.options import json_option, yes_option
from cli.stack_access import cell, database_options, find_settings, router_name, shown, time_of
from cli.stack_access import reading as transaction

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from routing_service.plans.compare_routers import Difference

LISTED_FAILURE = 60  # characters of it in a table
CODES = "Exit codes: 0 done, 1 failed, 2 usage."


class Version(click.ParamType[int]):
    """A router version's number, or its name."""

    name = "version"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        from cli.stack_access import number_of

        number = number_of(str(value))
        if number is None:
            self.fail(f"{value!r} is no router version: write 12 or version-12", param, ctx)
        return number


version_argument = click.argument("number", type=Version(), metavar="ID")


@click.group()
def routers() -> None:
    """Router versions: fitted routers that batches of `auto` may be routed by.

    The active one serves every batch that names no router; what a batch was begun with stays with it.
    """


@routers.command("list", epilog=CODES)
@json_option
@database_options
def list_versions(as_json: bool, state_dir: Path | None) -> None:
    """List the versions, newest first."""
    from sqlalchemy import select

    from cli.output import print_json, print_table
    from routing_service.models import RouterVersion

    with transaction(state_dir) as session:
        found = [shown(row) for row in session.scalars(select(RouterVersion).order_by(RouterVersion.id.desc()))]
    if as_json:
        print_json(found)
    elif not found:
        click.echo("there are no router versions: the built-in router serves")
    else:
        columns = ("version", "method", "state", "created (UTC)", "activated (UTC)", "failed to load")
        names = ("name", "method", "state", "created_at", "activated_at")
        print_table(columns, [(*(cell(row[name]) for name in names), _failure(row)) for row in found])


@routers.command(epilog=CODES)
@version_argument
@json_option
@database_options
def show(number: int, as_json: bool, state_dir: Path | None) -> None:
    """Show a version: what it was fitted on, its evaluations, and when it was active."""
    from sqlalchemy import select

    from cli.output import print_json
    from cli.routers.explain import print_object
    from routing_service.models import Evaluation
    from routing_service.router_versions.versions import find, history

    with transaction(state_dir) as session:
        found = shown(find(session, number))
        query = select(Evaluation).where(Evaluation.router_version_id == number).order_by(Evaluation.id)
        evaluations = [{"dataset": row.dataset, **row.metrics} for row in session.scalars(query)]
        changes = [
            {"at": time_of(row.created_at), "rolled_back": row.rolled_back, "reason": row.reason}
            for row in history(session)
            if row.router_version_id == number
        ]
    found |= {"promotions": changes, "evaluations": evaluations}
    if as_json:
        print_json(found)
    else:
        print_object(found["name"], found)


@routers.command(epilog=CODES)
@click.argument("directory", type=click.Path(exists=True, file_okay=False, path_type=Path), metavar="DIR")
@json_option
@database_options
def register(directory: Path, as_json: bool, state_dir: Path | None) -> None:
    """Make a candidate of the fitted router in DIR, which `train` or `import-router` wrote.

    It is loaded first, then copied into the artifact store. The same router twice is one version.
    """
    from cli.output import print_json
    from cli.stack_access import stack_settings
    from routing_service.router_versions import versions
    from routing_service.router_versions.artifact_store import ArtifactStore
    from routing_service.routers import artifact
    from routing_service.routers.registry import load_router

    settings = stack_settings(state_dir)
    router = load_router(directory, settings)
    details = {"metadata": artifact.read(directory).metadata}
    stored = ArtifactStore.of(settings).put(directory)
    with transaction(state_dir) as session:
        number = versions.register(session, method=router.name, artifact=stored, details=details)
        found = shown(versions.find(session, number))
    if as_json:
        print_json(found)
    else:
        state = "a candidate" if found["state"] == "candidate" else found["state"]
        click.echo(f"{found['name']} ({found['method']}) is {state}; artifact {stored}")


@routers.command(epilog=CODES)
@version_argument
@click.option("--reason", default="promoted by hand", show_default=True, help="Kept with the change.")
@yes_option
@json_option
@database_options
def promote(number: int, reason: str, yes: bool, as_json: bool, state_dir: Path | None) -> None:
    """Make a version the active one. Workers take it with the next range that they score."""
    from routing_service.router_versions.versions import active
    from routing_service.router_versions.versions import promote as promote_version

    _confirm(f"route batches by {router_name(number)} from now on?", yes or as_json)

    def change(session: Session) -> dict[str, Any]:
        before = active(session)
        changed = promote_version(session, number, reason)
        return {"changed": changed, "active": router_name(number), "before": router_name(before.id if before else None)}

    _change(state_dir, change, as_json)


@routers.command(epilog=CODES)
@click.option("--reason", default="rolled back by hand", show_default=True, help="Kept with the change.")
@yes_option
@json_option
@database_options
def rollback(reason: str, yes: bool, as_json: bool, state_dir: Path | None) -> None:
    """Go back to the version that was active before, at once; to the built-in router where none was."""
    from routing_service.router_versions.versions import active
    from routing_service.router_versions.versions import rollback as roll_back

    _confirm("go back to the router that was active before?", yes or as_json)

    def change(session: Session) -> dict[str, Any]:
        before = active(session)
        return {
            "changed": True,
            "active": router_name(roll_back(session, reason)),
            "before": router_name(before.id if before else None),
        }

    _change(state_dir, change, as_json)


def _confirm(question: str, yes: bool) -> None:
    if not yes and sys.stdin.isatty():
        click.confirm(question, abort=True)


def _change(state_dir: Path | None, change: Callable[[Session], dict[str, Any]], as_json: bool) -> None:
    from cli.output import print_json

    with transaction(state_dir) as session:
        found = change(session)
    if as_json:
        print_json(found)
    elif found["changed"]:
        click.echo(f"{found['active']} is active, in place of {found['before']}")
    else:
        click.echo(f"{found['active']} is active already")
    if not as_json:
        _note_configured(state_dir)


def _note_configured(state_dir: Path | None) -> None:
    """Say where what is active does not show: in batches that name no router, if the configuration names one."""
    from routing_service.routers.registry import AUTO

    try:
        configured = find_settings(state_dir).routing.router
    except click.ClickException:  # what was asked for is done, whatever is wrong with the configuration
        return
    if configured != AUTO:
        click.echo(f"batches that name no router still get {configured!r} (routing.router), not `auto`", err=True)


def _failure(row: dict[str, Any]) -> str:
    if row["failure"] is None:
        return "-"
    return f"{cell(row['failed_at'])}: {row['failure'][:LISTED_FAILURE]}"


@click.command(epilog="Exit codes: 0 done, 1 failed, 2 usage.")
@click.argument("a", metavar="A")
@click.argument("b", metavar="B")
@click.option("--last", type=click.IntRange(min=1), default=1000, show_default=True, help="How many requests.")
@json_option
@database_options
def diff(a: str, b: str, last: int, as_json: bool, state_dir: Path | None) -> None:
    """Say how many of the last requests B would have sent elsewhere than A, and at what cost.

    A and B: 12, version-12, gain (the built-in router), any configured router's name, or a directory. The newest
    requests of completed batches are scored by both, and each batch is cut again by its own mode, at the dollars that
    its requests were expected to cost. Nothing is sent.
    """
    from cli.output import print_json
    from cli.progress import progress_bar
    from cli.routers.scoring import find_router
    from cli.stack_access import stack_settings
    from routing_service.db import Database
    from routing_service.plans.compare_routers import compare

    settings = stack_settings(state_dir)
    database = Database(settings.database_url.get_secret_value(), pool_size=1)
    try:
        both = (find_router(a, settings, state_dir), find_router(b, settings, state_dir))
        with progress_bar("scoring by both", lambda: last) as advance:
            found = compare(database, settings, both, last, advance)
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


routers.add_command(diff)
