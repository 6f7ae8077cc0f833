"""`routebatch routers`: router versions, which of them is the champion, and what another one would have done.

A version is a fitted router in the artifact store, known by its number. The active version is the champion: it routes
every batch that names no router.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cli.epilog import epilog
from cli.options import database_option, json_option, last_option, yes_option
from cli.output import print_json, print_table, share, usd
from cli.progress import progress_bar
from cli.routers.choice import find_router, version_number
from cli.routers.explain import print_object
from cli.stack_access import find_settings, stack_settings, transaction

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from routing_service.models import RouterVersion
    from routing_service.plans.compare_routers import Difference

LISTED_FAILURE = 60  # characters of it in a table


class Version(click.ParamType[int]):
    """A router version's number, or its name."""

    name = "version"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        number = version_number(str(value))
        if number is None:
            self.fail(f"{value!r} is no router version: write 12 or version-12", param, ctx)
        return number


version_argument = click.argument("number", type=Version(), metavar="ID", help="The version: 12 or version-12.")


def reason_option(default: str) -> Callable[[Any], Any]:
    """--reason of what changes the active version."""
    return click.option("--reason", metavar="TEXT", default=default, help="Record this reason with the change.")


@click.group()
def routers() -> None:
    """Manage router versions: list, show, register, promote, roll back, compare.

    A version is a fitted router that batches may be routed by. The active one routes every batch that names no router;
    what a batch was begun with stays with it.
    """


@routers.command("list")
@json_option
@database_option
def list_versions(as_json: bool, state_dir: Path | None) -> None:
    """List the versions, the newest first."""
    from sqlalchemy import select

    from routing_service.models import RouterVersion

    with transaction(state_dir) as session:
        newest_first = session.scalars(select(RouterVersion).order_by(RouterVersion.id.desc()))
        versions = [_as_dict(version) for version in newest_first]
    if as_json:
        print_json(versions)
    elif not versions:
        click.echo("there are no router versions: the built-in router serves")
    else:
        columns = ("version", "method", "state", "created (UTC)", "activated (UTC)", "failed to load")
        names = ("name", "method", "state", "created_at", "activated_at")
        print_table(columns, [(*(_cell(version[name]) for name in names), _failure(version)) for version in versions])


@routers.command()
@version_argument
@json_option
@database_option
def show(number: int, as_json: bool, state_dir: Path | None) -> None:
    """Show a version: what it was fitted on, its evaluations, and when it was active."""
    from sqlalchemy import select

    from routing_service.models import Evaluation
    from routing_service.router_versions.versions import find, history

    with transaction(state_dir) as session:
        version = _as_dict(find(session, number))
        query = select(Evaluation).where(Evaluation.router_version_id == number).order_by(Evaluation.id)
        evaluations = [{"dataset": row.dataset, **row.metrics} for row in session.scalars(query)]
        changes = [
            {"at": _time(row.created_at), "rolled_back": row.rolled_back, "reason": row.reason}
            for row in history(session)
            if row.router_version_id == number
        ]
    version |= {"promotions": changes, "evaluations": evaluations}
    if as_json:
        print_json(version)
    else:
        print_object(version["name"], version)


@routers.command()
@click.argument(
    "directory",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    metavar="DIR",
    help="A directory that `train` or `import-router` wrote.",
)
@json_option
@database_option
def register(directory: Path, as_json: bool, state_dir: Path | None) -> None:
    """Register the fitted router in DIR, which `train` or `import-router` wrote, as a candidate.

    It is loaded first, then copied into the artifact store. The same router twice is one version.
    """
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
        version = _as_dict(versions.find(session, number))
    if as_json:
        print_json(version)
    else:
        state = "a candidate" if version["state"] == "candidate" else version["state"]
        click.echo(f"{version['name']} ({version['method']}) is {state}; artifact {stored}")


@routers.command()
@version_argument
@reason_option("promoted by hand")
@yes_option
@json_option
@database_option
def promote(number: int, reason: str, yes: bool, as_json: bool, state_dir: Path | None) -> None:
    """Promote a version to the active one. Workers take it with the next range that they score."""
    from routing_service.router_versions.versions import active
    from routing_service.router_versions.versions import promote as promote_version

    _confirm(f"route batches by {_name(number)} from now on?", yes or as_json)

    def change(session: Session) -> dict[str, Any]:
        before = active(session)
        changed = promote_version(session, number, reason)
        return {"changed": changed, "active": _name(number), "before": _name(before.id if before else None)}

    _change(state_dir, change, as_json)


@routers.command()
@reason_option("rolled back by hand")
@yes_option
@json_option
@database_option
def rollback(reason: str, yes: bool, as_json: bool, state_dir: Path | None) -> None:
    """Roll back to the version that was active before, at once; to the built-in router where none was."""
    from routing_service.router_versions.versions import active
    from routing_service.router_versions.versions import rollback as roll_back

    _confirm("go back to the router that was active before?", yes or as_json)

    def change(session: Session) -> dict[str, Any]:
        before = active(session)
        return {
            "changed": True,
            "active": _name(roll_back(session, reason)),
            "before": _name(before.id if before else None),
        }

    _change(state_dir, change, as_json)


def _confirm(question: str, yes: bool) -> None:
    if not yes and sys.stdin.isatty():
        click.confirm(question, abort=True)


def _change(state_dir: Path | None, change: Callable[[Session], dict[str, Any]], as_json: bool) -> None:
    with transaction(state_dir) as session:
        result = change(session)
    if as_json:
        print_json(result)
    elif result["changed"]:
        click.echo(f"{result['active']} is active, in place of {result['before']}")
    else:
        click.echo(f"{result['active']} is active already")
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


@routers.command(epilog=epilog("routebatch routers diff gain version-3 --last 10000"))
@click.argument("a", metavar="A", help="The router to compare with.")
@click.argument("b", metavar="B", help="The router that is compared.")
@last_option(1000, "Compare on this many of the newest requests.")
@json_option
@database_option
def diff(a: str, b: str, last: int, as_json: bool, state_dir: Path | None) -> None:
    """Compare two routers: how many of the last requests B would have sent elsewhere than A, and at what cost.

    A and B: 12, version-12, gain (the built-in router), any configured router's name, or a directory. The newest
    requests of completed batches are scored by both, and each batch is cut again by its own mode, at the dollars that
    its requests were expected to cost. Nothing is sent.
    """
    from routing_service.db import Database
    from routing_service.plans.compare_routers import compare

    settings = stack_settings(state_dir)
    database = Database(settings.database_url.get_secret_value(), pool_size=1)
    try:
        both = (find_router(a, settings, state_dir), find_router(b, settings, state_dir))
        with progress_bar("scoring by both", lambda: last) as advance:
            difference = compare(database, settings, both, last, advance)
    finally:
        database.dispose()
    if as_json:
        print_json(_difference_as_dict(a, b, difference))
    else:
        _print_difference(a, b, difference)


def _difference_as_dict(a: str, b: str, difference: Difference) -> dict[str, Any]:
    from routing_service.money.pricing import format_usd

    cost_a, cost_b = difference.cost_nano
    counts = {"requests": difference.requests, "batches": difference.batches, "elsewhere": difference.elsewhere}
    dollars = {"a": format_usd(cost_a), "b": format_usd(cost_b), "difference": format_usd(cost_b - cost_a)}
    models = {model: {"a": count_a, "b": count_b} for model, (count_a, count_b) in difference.models.items()}
    return {"a": a, "b": b, **counts, "dearer": difference.dearer, "expected_cost_usd": dollars, "models": models}


def _print_difference(a: str, b: str, difference: Difference) -> None:
    if not difference.requests:
        click.echo("no completed batch has requests that a router decided")
        return
    cheaper = difference.elsewhere - difference.dearer
    said = _difference_as_dict(a, b, difference)["expected_cost_usd"]
    elsewhere = share(difference.elsewhere, difference.requests)
    click.echo(
        f"of the last {difference.requests:,} requests, {elsewhere} would have gone elsewhere:"
        f" {difference.dearer:,} to a dearer model, {cheaper:,} to a cheaper one"
    )
    extra = said["difference"]
    change = f"{usd(extra.removeprefix('-'))} {'less' if extra.startswith('-') else 'more'}"
    cost = ("expected cost", usd(said["a"]), f"{usd(said['b'])} ({change})")
    rows = [(model, f"{count_a:,}", f"{count_b:,}") for model, (count_a, count_b) in difference.models.items()]
    print_table(("", a, b), [*rows, cost], numeric=(a, b))


def _as_dict(version: RouterVersion) -> dict[str, Any]:
    """A version as JSON."""
    return {
        "id": version.id,
        "name": _name(version.id),
        "method": version.method,
        "state": str(version.state),
        "artifact": version.artifact,
        "created_at": _time(version.created_at),
        "activated_at": _time(version.activated_at),
        "retired_at": _time(version.retired_at),
        "failed_at": _time(version.failed_at),
        "failure": version.failure,
        "details": version.details,
    }


def _name(number: int | None) -> str:
    """The name of a version; of none the built-in router's."""
    from routing_service.router_versions.versions import version_name
    from routing_service.routers.registry import BUILT_IN

    return BUILT_IN if number is None else version_name(number)


def _time(moment: datetime | None) -> str | None:
    """A moment in UTC, for JSON."""
    return None if moment is None else moment.astimezone(UTC).isoformat(timespec="seconds")


def _cell(value: str | None) -> str:
    """A text or such a moment, for a table."""
    return "-" if value is None else value.replace("T", " ").removesuffix("+00:00")


def _failure(version: dict[str, Any]) -> str:
    if version["failure"] is None:
        return "-"
    return f"{_cell(version['failed_at'])}: {version['failure'][:LISTED_FAILURE]}"
