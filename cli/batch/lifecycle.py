"""`routebatch pause`, `resume` and `cancel`."""

from __future__ import annotations

import click

from cli.batch.follow import follow
from cli.client import connected
from cli.epilog import epilog
from cli.errors import FAILED
from cli.options import batch_argument, connection_options, json_option
from cli.output import print_batch


@click.command()
@batch_argument
@json_option
@connection_options
def pause(batch_id: str, as_json: bool, url: str | None, api_key: str | None) -> None:
    """Pause a batch: nothing more of it is sent until it is resumed.

    Calls in flight come back and are paid. Its completion window runs on.
    """
    with connected(url, api_key) as api:
        print_batch(api.pause(batch_id), as_json=as_json)


@click.command()
@batch_argument
@json_option
@connection_options
def resume(batch_id: str, as_json: bool, url: str | None, api_key: str | None) -> None:
    """Resume a batch that `routebatch pause` has paused."""
    with connected(url, api_key) as api:
        print_batch(api.resume(batch_id), as_json=as_json)


@click.command(
    epilog=epilog(codes="Exit codes: 0 done, 1 failed, or with --wait ended before it was cancelled, 2 wrong usage.")
)
@batch_argument
@click.option("--wait", is_flag=True, help="Wait until the calls in flight have ended.")
@json_option
@connection_options
def cancel(batch_id: str, wait: bool, as_json: bool, url: str | None, api_key: str | None) -> None:
    """Cancel a batch. What is answered already stays, and is paid."""
    with connected(url, api_key) as api:
        batch = api.cancel(batch_id)
        if wait:
            batch = follow(api, batch_id)
    print_batch(batch, as_json=as_json)
    if wait and batch["status"] != "cancelled":
        raise SystemExit(FAILED)
