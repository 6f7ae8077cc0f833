"""`routebatch up`, `down` and `doctor`: run, stop and examine the whole stack on this machine."""

from __future__ import annotations

import json
import signal
import subprocess
import threading
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import click

from cli.epilog import epilog
from cli.errors import FAILED
from cli.options import PORT, json_option, state_dir_option

if TYPE_CHECKING:
    from deploy.stack import Stack

PUBLIC_KEYS = ("api_url", "api_key", "flower_url")

stack_option = state_dir_option(
    "Use the stack of this directory, which holds its data, logs and addresses. Default: $ROUTEBATCH_STATE_DIR, "
    "else $XDG_STATE_HOME/routebatch, else ~/.local/state/routebatch."
)
config_option = click.option(
    "--config",
    type=click.Path(dir_okay=False, path_type=Path),
    envvar="ROUTEBATCH_CONFIG",
    help="Read this configuration. "
    "Default: $ROUTEBATCH_CONFIG, else ./routebatch.toml, else routebatch.toml in the state directory.",
)


@click.command(epilog=epilog("routebatch up --detach", "routebatch up --config routebatch.toml --port 8000"))
@stack_option
@config_option
@click.option("--port", type=PORT, default=8080, help="Serve the API on this port; 0 picks a free one.")
@click.option("--flower-port", type=PORT, default=5555, help="Serve Flower on this port; 0 picks a free one.")
@click.option("--detach", is_flag=True, help="Return once everything is ready; stop it with `routebatch down`.")
@json_option
def up(state_dir: Path | None, config: Path | None, port: int, flower_port: int, detach: bool, as_json: bool) -> None:
    """Start the whole stack on this machine: servers, API, workers and Flower.

    Without --detach it stays until Ctrl-C or SIGTERM and then stops everything in order. With --json the last line
    printed before that is {"api_url": ..., "api_key": ..., "flower_url": ...}.
    """
    from deploy.stack import up as start
    from deploy.stack_spec import Options

    # a SIGTERM during the start must stop what has been started, as Ctrl-C does
    signal.signal(signal.SIGTERM, _interrupt)
    options = Options(state_dir, config, port, flower_port, detach)
    stack, addresses = start(options, say=lambda text: click.echo(f"{text} ...", err=True))
    _show(stack, addresses, as_json)
    if not detach:
        _stay(stack)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _show(stack: Stack, addresses: dict[str, Any], as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps({key: addresses[key] for key in PUBLIC_KEYS}))
        return
    click.echo(f"API      {addresses['api_url']}")
    click.echo(f"key      {addresses['api_key']}")
    click.echo(f"Flower   {addresses['flower_url']}  (user {addresses['flower_user']}, its password is in stack.json)")
    click.echo(f"state    {stack.state.root}  (logs in logs/, addresses in stack.json)")


def _stay(stack: Stack) -> None:
    """Until a signal: then stop in order. If supervisord ends first, what it left is ended, too."""
    asked = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: asked.set())
    process = stack.supervisor.process
    assert process is not None
    while not asked.is_set() and _lives(process):
        asked.wait(0.5)
    ended_by_itself = not asked.is_set()
    click.echo("stopping ...", err=True)
    stack.stop()
    if ended_by_itself and process.returncode != 0:
        raise click.ClickException(f"supervisord ended unexpectedly; see {stack.state.log('supervisord')}")


def _lives(process: subprocess.Popen[bytes]) -> bool:
    return process.poll() is None


@click.command()
@stack_option
@json_option
def down(state_dir: Path | None, as_json: bool) -> None:
    """Stop the stack of a state directory, process by process. Its data stays."""
    from deploy.layout import StateDir
    from deploy.stack import down as stop

    stopped = stop(state_dir)
    root = StateDir.at(state_dir).root
    if as_json:
        click.echo(json.dumps({"stopped": stopped, "state_dir": str(root)}))
    else:
        click.echo(f"stopped the stack in {root}" if stopped else f"no stack runs in {root}")


@click.command(epilog=epilog(codes="Exit codes: 0 all is well, 1 something needed is broken, 2 wrong usage."))
@stack_option
@config_option
@json_option
def doctor(state_dir: Path | None, config: Path | None, as_json: bool) -> None:
    """Check what is installed, configured and running."""
    from deploy.doctor import examine
    from deploy.layout import StateDir

    checks = examine(StateDir.at(state_dir), config)
    if as_json:
        click.echo(json.dumps([vars(check) for check in checks]))
    else:
        _table(checks)
    if any(check.ok is False for check in checks):
        raise SystemExit(FAILED)


def _table(checks: list[Any]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    marks = {True: Text("ok", style="green"), False: Text("broken", style="bold red"), None: Text("-")}
    table = Table("check", "", "finding")
    for check in checks:
        table.add_row(check.name, marks[check.ok], Text(check.detail))
    Console().print(table)
