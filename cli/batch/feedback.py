"""`routebatch feedback`: how good an answer was."""

from __future__ import annotations

from typing import Any

import click

from cli.client import connected
from cli.epilog import epilog
from cli.options import connection_options, json_option
from cli.output import print_json

THUMBS = {"up": 1, "down": -1}


@click.command(
    epilog=epilog(
        "routebatch feedback batch_req_... --thumbs up",
        "routebatch feedback line-7 --batch batch_... --score 4",
    )
)
@click.argument("request", metavar="REQUEST", help="The id of a line of an output file, or with --batch a custom_id.")
@click.option("--batch", "batch_id", metavar="BATCH", help="Take REQUEST for a custom_id of this batch.")
@click.option("--thumbs", type=click.Choice(list(THUMBS)), help="Say whether the answer is good.")
@click.option("--score", type=click.IntRange(1, 5), help="Score the answer from 1, useless, to 5, perfect.")
@click.option("--preferred", metavar="TEXT", help="Name the model whose answer is better, or give the better text.")
@json_option
@connection_options
def feedback(
    request: str,
    batch_id: str | None,
    thumbs: str | None,
    score: int | None,
    preferred: str | None,
    as_json: bool,
    url: str | None,
    api_key: str | None,
) -> None:
    """Rate the answer to one of your requests.

    Routers learn from it. REQUEST is the id of a line of an output file (batch_req_...), or with --batch its custom_id.
    Give one of --thumbs, --score and --preferred. What you say later replaces what you said before.
    """
    said: dict[str, Any] = {"rating": THUMBS.get(thumbs or ""), "score": score, "preferred": preferred}
    said = {name: value for name, value in said.items() if value is not None}
    if len(said) != 1:
        raise click.UsageError("give one of --thumbs, --score and --preferred")
    named = {"request_id": request} if batch_id is None else {"batch_id": batch_id, "custom_id": request}
    with connected(url, api_key) as api:
        stored = api.feedback(named | said)
    if as_json:
        print_json(stored)
    elif stored["kept_as"] == "rating":
        click.echo(f"stored as a rating of {stored['model']}: {stored['score']} of 5")
    else:
        first, second = stored["models"]
        click.echo(f"stored as a comparison of {first} with {second}: {stored['outcome']:g}")
