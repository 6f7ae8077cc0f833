"""The `routebatch` command: a click group whose commands are imported only when they are used.

`routebatch --help` must answer in a blink, so nothing heavier than click is imported here: the table below names each
command with its one-line help and the module that holds it.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

import click

from cli.errors import in_one_line

# by group: name -> (module, attribute, help shown by `routebatch --help`)
GROUPS: dict[str, dict[str, tuple[str, str, str]]] = {
    "Batches, over HTTP with an API key": {
        "submit": ("cli.batch.submit", "submit", "Submit a file of prompts under a budget."),
        "plan": ("cli.batch.plan", "plan", "Show what a file would cost and gain at several budgets."),
        "status": ("cli.batch.manage", "status", "Show one batch."),
        "watch": ("cli.batch.manage", "watch", "Follow a batch until it ends."),
        "results": ("cli.batch.manage", "results", "Write a batch's results to a file."),
        "list": ("cli.batch.manage", "list_batches", "List your batches."),
        "pause": ("cli.batch.manage", "pause", "Pause a batch."),
        "resume": ("cli.batch.manage", "resume", "Resume a paused batch."),
        "cancel": ("cli.batch.manage", "cancel", "Cancel a batch."),
        "retry": ("cli.batch.extend", "retry", "Ask again the requests that a batch left unanswered."),
        "top-up": ("cli.batch.extend", "top_up", "Add dollars to a batch's budget."),
        "feedback": ("cli.batch.feedback", "feedback", "Rate an answer."),
    },
    "Operation, on the database of a stack": {
        "up": ("cli.operate.stack", "up", "Start the whole stack on this machine."),
        "down": ("cli.operate.stack", "down", "Stop the stack on this machine."),
        "doctor": ("cli.operate.stack", "doctor", "Check what is installed, configured and running."),
        "keys": ("cli.operate.keys", "keys", "Create, list and revoke API keys."),
        "budgets": ("cli.operate.budgets", "budgets", "Limit what the batches of an API key may spend."),
        "models": ("cli.operate.models", "models", "Show models that cannot be used now, and reset them."),
        "ledger": ("cli.operate.ledger", "ledger", "Check the ledger, alone or against a provider's bill."),
        "grade": ("cli.learn.grade", "grade", "Grade a batch's answers by gold answers."),
        "judge": ("cli.learn.judge", "judge", "Have a model judge a batch's answers."),
        "comparisons": ("cli.learn.comparisons", "comparisons", "Import, export and count comparisons of answers."),
        "routers": (
            "cli.routers.versions",
            "routers",
            "List, show, register, promote, roll back and compare router versions.",
        ),
        "prune": ("cli.operate.prune", "prune", "Remove old uploaded files."),
        "report": ("cli.operate.report", "report", "Report what was spent and saved."),
    },
    "Routers, from files or the database": {
        "train": ("cli.routers.train", "train", "Fit a router on comparisons of answers."),
        "refit": ("cli.learn.refit", "refit", "Fit routers on the database's comparisons; promote a better one."),
        "refits": ("cli.learn.refit", "refits", "List the last re-fits and their outcomes."),
        "score": ("cli.routers.score", "score", "Score a file of prompts with a router."),
        "evaluate": ("cli.evaluate.evaluate", "evaluate", "Compare routers on evaluation sets."),
        "similarity": ("cli.evaluate.similarity", "similarity", "Measure how similar two sets of prompts are."),
        "calibrate": (
            "cli.routers.calibrate",
            "calibrate",
            "Find the threshold that sends a wanted share to the strong model.",
        ),
        "explain": ("cli.routers.explain", "explain", "Explain a router's estimate for a prompt."),
        "import-router": (
            "cli.routers.import_router",
            "import_router",
            "Import a router that RouteLLM published.",
        ),
    },
    "Single processes": {
        "api": ("cli.operate.serve", "api", "Run the HTTP API server."),
        "migrate": ("cli.operate.serve", "migrate", "Migrate the database's schema."),
        "sandbox": ("cli.operate.sandbox", "sandbox", "Run a simulated OpenAI-compatible upstream."),
    },
}
COMMANDS = {name: entry for group in GROUPS.values() for name, entry in group.items()}

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
        for title, group in GROUPS.items():
            with formatter.section(title):
                formatter.write_dl([(name, text) for name, (_, _, text) in group.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="routebatch")
def main() -> None:
    """Route bulk prompts between a strong and a weak model, under a hard dollar budget."""
