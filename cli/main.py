"""The `routebatch` command: a click group whose commands are imported only when they are used.

`routebatch --help` must answer in a blink, so nothing heavier than click is imported here: the table below names each
command with its one-line help and the module that holds it.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

import click

from cli.errors import in_one_line

# name -> (module, attribute, help shown by `routebatch --help`)
COMMANDS: dict[str, tuple[str, str, str]] = {
    # client commands: HTTP with a key
    "submit": ("cli.batch.submit", "submit", "Submit a file of prompts under a budget."),
    "plan": ("cli.batch.plan", "plan", "Show what a file would cost and gain at a ladder of budgets."),
    "status": ("cli.batch.manage", "status", "Show one batch."),
    "watch": ("cli.batch.manage", "watch", "Follow a batch until it ends."),
    "results": ("cli.batch.manage", "results", "Write a batch's results to a file."),
    "list": ("cli.batch.manage", "list_batches", "List your batches."),
    "pause": ("cli.batch.manage", "pause", "Let a batch stand still."),
    "resume": ("cli.batch.manage", "resume", "Let a paused batch go on."),
    "cancel": ("cli.batch.manage", "cancel", "Cancel a batch."),
    "retry": ("cli.batch.extend", "retry", "Ask again what a batch left unanswered."),
    "top-up": ("cli.batch.extend", "top_up", "Add dollars to a batch's budget."),
    "feedback": ("cli.batch.feedback", "feedback", "Say how good an answer was."),
    # operator commands: the database
    "up": ("cli.operate.stack", "up", "Run the whole stack on this machine."),
    "down": ("cli.operate.stack", "down", "Stop the stack of a state directory."),
    "doctor": ("cli.operate.stack", "doctor", "Say what is installed, configured and running."),
    "keys": ("cli.operate.keys", "keys", "Create, list and revoke API keys."),
    "budgets": ("cli.operate.budgets", "budgets", "Limit what a key's batches may spend."),
    "models": ("cli.operate.models", "models", "Models that cannot be used now."),
    "ledger": ("cli.operate.ledger", "ledger", "Check the money ledger."),
    "grade": ("cli.learn.grade", "grade", "Hold a batch's answers against gold answers."),
    "judge": ("cli.learn.judge", "judge", "Let a model judge a batch's answers."),
    "comparisons": ("cli.learn.comparisons", "comparisons", "Collect preferences: import, export, count."),
    "routers": (
        "cli.routers.versions",
        "routers",
        "Router versions: list, show, register, promote, roll back, compare.",
    ),
    "prune": ("cli.operate.prune", "prune", "Remove old uploads."),
    "report": ("cli.operate.report", "report", "Cost reports."),
    # routers: files on this machine
    "train": ("cli.routers.train", "train", "Fit a router on labelled prompts."),
    "refit": ("cli.learn.refit", "refit", "Fit routers on the database's comparisons, and promote a better one."),
    "refits": ("cli.learn.refit", "refits", "List the last re-fits and what came of them."),
    "score": ("cli.routers.score", "score", "Score a file of prompts with a router."),
    "evaluate": ("cli.evaluate.evaluate", "evaluate", "Measure routers on evaluation sets, side by side."),
    "similarity": ("cli.evaluate.similarity", "similarity", "Say how alike two sets of prompts are."),
    "calibrate": ("cli.routers.calibrate", "calibrate", "Find the threshold for a wanted share of strong answers."),
    "explain": ("cli.routers.explain", "explain", "Say why a router estimates what it does of a prompt."),
    "import-router": (
        "cli.routers.import_router",
        "import_router",
        "Make a router of weights that RouteLLM published.",
    ),
    # processes and tools
    "api": ("cli.operate.serve", "api", "Run the HTTP API."),
    "migrate": ("cli.operate.serve", "migrate", "Bring the database's schema up to date."),
    "sandbox": ("cli.operate.sandbox", "sandbox", "Run a simulated OpenAI-compatible upstream."),
}

# what only routers with an encoder or a language model need
MODELS = {"accelerate", "gguf", "onnx", "onnxruntime", "peft", "tokenizers", "torch", "transformers"}
EXTRAS = {"matplotlib": "plot"}
OURS = {"routing_service", "workers", "training", "cli", "migrations", "sandbox", "deploy"}


class LazyGroup(click.Group):
    """A group that imports a command's module when the command is looked up, not when help is printed."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, attribute, _ = COMMANDS[cmd_name]
        command = getattr(import_module(module), attribute)
        assert isinstance(command, click.Command)
        return command

    @in_one_line
    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except ModuleNotFoundError as error:
            missing = (error.name or "").partition(".")[0]
            if missing in OURS:
                raise
            extras = "server,embedded,models" if missing in MODELS else EXTRAS.get(missing, "server,embedded")
            raise click.ClickException(
                f"this command needs {missing}, which a plain installation leaves out: "
                f"in the checkout, `pip install '.[{extras}]'`"
            ) from error

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, _, text) in COMMANDS.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="routebatch")
def main() -> None:
    """Route bulk prompts between a strong and a weak model, under a hard dollar budget."""
