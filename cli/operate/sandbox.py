"""`routebatch sandbox`: an OpenAI-compatible upstream for trying things without a key."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from cli.epilog import epilog
from cli.options import PORT, seed_option

if TYPE_CHECKING:
    from sandbox.config import SandboxConfig

RATE = click.FloatRange(0.0, 1.0)
LIMIT = click.IntRange(min=1)


@click.command(
    epilog=epilog(
        "routebatch sandbox --port 9000 --latency-ms 200 --p429 0.05",
        "routebatch sandbox --replay answers.csv.gz",
    )
)
@click.option(
    "--replay",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Answer from this CSV (.gz too) with the columns prompt, strong_response, weak_response.",
)
@click.option("--host", default="127.0.0.1", help="Listen on this address.")
@click.option("--port", type=PORT, default=9000, help="Listen on this port; 0 picks a free one.")
@click.option("--latency-ms", type=click.FloatRange(min=0), default=50.0, help="Answer after this time at the median.")
@click.option("--p429", type=RATE, default=0.0, help="Answer this share of calls with 429 (not billed).")
@click.option("--p500", type=RATE, default=0.0, help="Answer this share of calls with 500 (not billed).")
@click.option("--reset", type=RATE, default=0.0, help="Reset this share of connections before any work (not billed).")
@click.option("--reset-after", type=RATE, default=0.0, help="Reset this share of connections after the work (billed).")
@click.option("--hang", type=RATE, default=0.0, help="Never answer this share of calls (billed).")
@click.option("--garbage", type=RATE, default=0.0, help="Answer this share of calls with broken JSON (billed).")
@click.option("--no-usage", type=RATE, default=0.0, help="Leave the usage out of this share of answers (billed).")
@click.option("--judge-error", type=RATE, default=0.05, help="As a judge, give this share of verdicts at random.")
@click.option(
    "--judge-bias", type=RATE, default=0.0, help="As a judge, give this share of verdicts for what is shown first."
)
@click.option("--requests-per-minute", type=LIMIT, help="Answer with 429 beyond this many requests of a model.")
@click.option("--tokens-per-minute", type=LIMIT, help="Answer with 429 beyond this many tokens of a model.")
@click.option(
    "--billed",
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    help="Write every billed call to this CSV file, as `ledger reconcile` reads it.",
)
@seed_option("Draw answers, faults and latencies with this seed.")
@click.option("--strong-model", default="sandbox-strong", help="Name the strong model.")
@click.option("--weak-model", default="sandbox-weak", help="Name the weak model.")
def sandbox(**options: object) -> None:
    """Run a simulated OpenAI-compatible upstream, for trials and tests.

    SIMULATED: no language model is behind it. It solves the arithmetic word problems of examples/ by computing; its
    weak model errs more the more steps a problem has, its strong model seldom. Other prompts get filler. A model whose
    name contains "strong" is strong, any other weak. With --replay it answers with recorded answers instead, and
    unknown prompts with 404. It also plays the judge of `routebatch judge`, for the word problems and by reference
    answers.

    GET /stats says how many tokens were billed, by model. A client that disconnects while it waits is billed.
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
