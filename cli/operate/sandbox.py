"""`routebatch sandbox`: an OpenAI-compatible upstream for trying things without a key."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from sandbox.config import SandboxConfig

RATE = click.FloatRange(0.0, 1.0)
LIMIT = click.IntRange(min=1)


@click.command(short_help="Run a simulated OpenAI-compatible upstream.")
@click.option(
    "--replay",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Answer from this CSV (.gz too) with the columns prompt, strong_response, weak_response.",
)
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", type=click.IntRange(0, 65535), default=9000, show_default=True, help="0 picks a free one.")
@click.option("--latency-ms", type=click.FloatRange(min=0), default=50.0, show_default=True, help="Median latency.")
@click.option("--p429", type=RATE, default=0.0, help="Share of calls answered 429 (not billed).")
@click.option("--p500", type=RATE, default=0.0, help="Share of calls answered 500 (not billed).")
@click.option("--reset", type=RATE, default=0.0, help="Share of connections reset before any work (not billed).")
@click.option("--reset-after", type=RATE, default=0.0, help="Share of connections reset after the work (billed).")
@click.option("--hang", type=RATE, default=0.0, help="Share of calls never answered (billed).")
@click.option("--garbage", type=RATE, default=0.0, help="Share of calls answered with broken JSON (billed).")
@click.option("--no-usage", type=RATE, default=0.0, help="Share of answers that say no usage (billed).")
@click.option("--judge-error", type=RATE, default=0.05, show_default=True, help="Share of a judge's random verdicts.")
@click.option("--judge-bias", type=RATE, default=0.0, help="Share of a judge's verdicts for what is shown first.")
@click.option("--requests-per-minute", type=LIMIT, help="Of each model; beyond it calls are answered 429.")
@click.option("--tokens-per-minute", type=LIMIT, help="Of each model; beyond it calls are answered 429.")
@click.option(
    "--billed",
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    help="Write every billed call to this CSV file, as `ledger reconcile` reads it.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of answers, faults and latencies.")
@click.option("--strong-model", default="sandbox-strong", show_default=True)
@click.option("--weak-model", default="sandbox-weak", show_default=True)
def sandbox(**options: object) -> None:
    """Run a SIMULATED OpenAI-compatible upstream, for trials and tests.

    No language model is behind it. It solves the arithmetic word problems of examples/ by computing; its weak model
    errs more the more steps a problem has, its strong model seldom. Other prompts get filler. A model whose name
    contains "strong" is strong, any other weak. With --replay it answers with recorded answers instead, and unknown
    prompts with 404. It also plays the judge of `routebatch judge`, for the word problems and by reference answers.

    GET /stats tells the tokens billed by model. A client that disconnects while it waits is billed.
    """
    from sandbox.config import SandboxConfig

    try:
        config = SandboxConfig(**options)  # type: ignore[arg-type]
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    try:
        _run(config)
    except (OSError, ValueError) as error:
        raise click.ClickException(str(error)) from error


def _run(config: SandboxConfig) -> None:
    import asyncio
    import signal

    from sandbox.app import serve

    async def run() -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        await serve(config, ready=lambda url: click.echo(f"sandbox listening on {url}"), stop=stop)

    asyncio.run(run())
