"""`train --decontaminate`: leave out of the training data what evaluation sets hold."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from cli.progress import progress_bars
from cli.routers.prompts import prompts_of

if TYPE_CHECKING:
    from routing_service.embedding.registry import Encoder
    from routing_service.settings import Settings
    from training.data.comparisons import Comparisons
    from training.data.decontamination import Decontamination

NONE = "none"  # instead of an encoder: only the same prompts are looked for
DIRECTORY = click.Path(exists=True, file_okay=False, path_type=Path)

Command = TypeVar("Command", bound=Callable[..., Any])

data_option = click.option("--data", type=DIRECTORY, help="Read the tables of evaluation sets from this directory.")


def decontaminate_options(command: Command) -> Command:
    """--decontaminate, and how similar prompts are found."""
    for option in (
        click.option(
            "--encoder",
            metavar="NAME|none",
            help="Find similar prompts by this encoder, or none. Default: the configured one, where there is one.",
        ),
        click.option(
            "--similarity",
            type=click.FloatRange(0, 1),
            help="Leave out prompts that are similar from this cosine on. Default: 0.95.",
        ),
        data_option,
        click.option(
            "--decontaminate",
            "evaluation_sets",
            multiple=True,
            metavar="FILE|SET",
            help="Leave out what this file of prompts or evaluation set holds. May be repeated.",
        ),
    ):
        command = option(command)
    return command


def decontaminate(
    comparisons: Comparisons,
    evaluation_sets: tuple[str, ...],
    data: Path | None,
    similarity: float | None,
    encoder: str | None,
    settings: Settings,
) -> tuple[Comparisons, Decontamination | None]:
    """The comparisons without what the evaluation sets hold, and what that left out; None where none is named."""
    from training.data.decontamination import SIMILARITY, decontaminated

    if not evaluation_sets:
        if similarity is not None or encoder is not None:
            raise click.UsageError("--similarity and --encoder belong to --decontaminate")
        return comparisons, None
    against = [prompt for named in evaluation_sets for prompt in prompts_of(named, data)]
    limit = SIMILARITY if similarity is None else similarity
    with progress_bars() as bars:
        return decontaminated(
            comparisons, against, encoder=_encoder(encoder, settings), similarity=limit, progress=bars
        )


def _encoder(named: str | None, settings: Settings) -> Encoder | None:
    """The encoder of that name; for None the configured one, unless it cannot be used here."""
    from routing_service.embedding.registry import make_encoder
    from routing_service.errors import ConfigurationError

    if named == NONE:
        return None
    try:
        return make_encoder(settings, named)
    except (ConfigurationError, ModuleNotFoundError) as error:
        if named is not None:
            raise
        click.echo(f"no encoder, so only the same prompts are left out, not similar ones: {error}", err=True)
        return None
