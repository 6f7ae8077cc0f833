"""Comparisons for commands that fit or measure routers: from files, and from the database."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cli.stack_access import transaction

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cli.progress import Bars
    from routing_service.settings import Settings
    from training.data.readers import Loaded

DATABASE = "db"
FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
LISTED = 10  # bad rows


class Source(click.ParamType[Path | str]):
    """A file of comparisons, or `db` for those of the database. (A file of that name is `./db`.)"""

    name = "file"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path | str:
        return DATABASE if value == DATABASE else Path(str(FILE.convert(value, param, ctx)))


def load_sources(
    sources: Sequence[Path | str],
    strong: str | None,
    weak: str | None,
    state_dir: Path | None,
    bars: Bars,
    settings: Settings,
    *,
    ratings: bool = False,
) -> Loaded:
    """The comparisons of all sources, files first; `ratings`: of the database those, not its comparisons. DataError,
    ClickException where one cannot be read."""
    from training.data.readers import Collector, named_pair, read_files

    into = Collector(named_pair(strong, weak))
    read_files([source for source in sources if isinstance(source, Path)], into, bars)
    if DATABASE in sources:
        from training.data.database import read_database, read_ratings

        with transaction(state_dir) as session:
            cap = settings.learning.feedback_weight_per_key
            (read_ratings if ratings else read_database)(session, into, bars, feedback_weight_per_key=cap)
    return into.loaded()


def labelled_by_tier(loaded: Loaded) -> tuple[Loaded, dict[str, Any]]:
    """The same, as labels of the pair that the models' tiers make, and which models those are."""
    from dataclasses import replace

    from training.fit.tiers import by_tier

    tiers = by_tier(loaded.comparisons)
    counted = loaded.counted | {"used": len(tiers.comparisons), "other_models": tiers.rows - len(tiers.comparisons)}
    return replace(loaded, comparisons=tiers.comparisons, counted=counted), tiers.as_dict()


def name_bad_rows(loaded: Loaded) -> None:
    """Say on stderr which rows were left out, and why."""
    for row in loaded.bad[:LISTED]:
        click.echo(f"left out: {row}", err=True)
    if loaded.counted["bad"] > LISTED:
        click.echo(f"left out: {loaded.counted['bad'] - LISTED:,} more bad rows", err=True)
