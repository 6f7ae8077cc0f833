"""The `routebatch` command: a click group whose commands are imported only when they are used.

`routebatch --help` must answer in a blink, so nothing heavier than click is imported here: the table below names each
command with the module that holds it and its one-line help. A test holds that help against the command's own.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

import click

from cli.epilog import epilog
from cli.errors import in_one_line

# by group: name -> (module, attribute, help shown by `routebatch --help`)
GROUPS: dict[str, dict[str, tuple[str, str, str]]] = {
    "Batches, over HTTP with an API key": {
        "submit": ("cli.batch.submit", "submit", "Submit a file of prompts under a budget."),
        "plan": ("cli.batch.plan", "plan", "Show what a file of prompts would cost and gain."),
        "status": ("cli.batch.status", "status", "Show a batch: its state, counts and cost."),
        "watch": ("cli.batch.status", "watch", "Follow a batch to its end, and show it."),
        "results": ("cli.batch.results", "results", "Write a batch's answers to a file, and its errors to another."),
        "list": ("cli.batch.status", "list_batches", "List your batches, the newest first."),
        "pause": ("cli.batch.lifecycle", "pause", "Pause a batch."),
        "resume": ("cli.batch.lifecycle", "resume", "Resume a batch."),
        "cancel": ("cli.batch.lifecycle", "cancel", "Cancel a batch."),
        "retry": ("cli.batch.extend", "retry", "Ask again the requests that a completed batch left unanswered."),
        "top-up": ("cli.batch.extend", "top_up", "Add dollars to a batch's budget."),
        "feedback": ("cli.batch.feedback", "feedback", "Rate the answer to one of your requests."),
    },
    "The stack and its processes": {
        "up": ("cli.operate.stack", "up", "Start the whole stack on this machine."),
        "down": ("cli.operate.stack", "down", "Stop the stack of a state directory."),
        "doctor": ("cli.operate.stack", "doctor", "Check what is installed, configured and running."),
        "api": ("cli.operate.api", "api", "Run the HTTP API."),
        "migrate": ("cli.operate.migrate", "migrate", "Bring the database's schema up to date."),
        "sandbox": ("cli.operate.sandbox", "sandbox", "Run a simulated OpenAI-compatible upstream."),
    },
    "Keys, money and upkeep, on the database": {
        "keys": ("cli.operate.keys", "keys", "Create, list and revoke API keys."),
        "budgets": ("cli.operate.budgets", "budgets", "Limit what a key's batches may spend."),
        "report": ("cli.operate.report", "report", "Report costs, and how well output lengths are predicted."),
        "ledger": ("cli.operate.ledger", "ledger", "Check the money ledger."),
        "models": ("cli.operate.models", "models", "Show models that cannot be used now, and try one again."),
        "prune": ("cli.operate.prune", "prune", "Remove old uploaded files."),
    },
    "Labels and router versions, on the database": {
        "comparisons": ("cli.learn.comparisons", "comparisons", "Import, export and count comparisons."),
        "grade": ("cli.learn.grade", "grade", "Grade the answers of a batch by gold answers."),
        "judge": ("cli.learn.judge", "judge", "Have a model judge a batch's answers."),
        "refit": (
            "cli.learn.refit",
            "refit",
            "Fit routers on the database's comparisons, and promote a better one.",
        ),
        "refits": ("cli.learn.refit", "refits", "List the last re-fits."),
        "routers": ("cli.routers.versions", "routers", "Manage router versions."),
    },
    "Routers, from files on this machine": {
        "train": ("cli.routers.train", "train", "Fit a router on labelled prompts."),
        "evaluate": ("cli.evaluate.evaluate", "evaluate", "Measure routers on evaluation sets, side by side."),
        "score": ("cli.routers.score", "score", "Score a file of prompts with a router."),
        "calibrate": (
            "cli.routers.calibrate",
            "calibrate",
            "Find the threshold for a wanted share of strong answers.",
        ),
        "explain": ("cli.routers.explain", "explain", "Explain a router's estimate for a prompt."),
        "similarity": ("cli.evaluate.similarity", "similarity", "Measure how similar two sets of prompts are."),
        "import-router": (
            "cli.routers.import_router",
            "import_router",
            "Import a router that RouteLLM published.",
        ),
    },
}
COMMANDS = {name: command for section in GROUPS.values() for name, command in section.items()}

# what only routers with an encoder or a language model need
MODELS = {"accelerate", "gguf", "onnx", "onnxruntime", "peft", "tokenizers", "torch", "transformers"}
EXTRAS = {"matplotlib": "plot", "jinja2": "plot"}
OURS = {"routing_service", "workers", "training", "cli", "migrations", "sandbox", "deploy"}
WIDEST = max(map(len, COMMANDS))  # the columns of all sections stand below each other


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
        for title, commands in GROUPS.items():
            with formatter.section(title):
                formatter.write_dl([(name.ljust(WIDEST), text) for name, (_, _, text) in commands.items()])


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "show_default": True},
    epilog=epilog(
        codes="`routebatch COMMAND --help` has every option of a command. "
        "Exit codes: 0 done, 1 failed, 2 wrong usage, 3 stopped by the budget."
    ),
)
@click.version_option(package_name="routebatch")
def main() -> None:
    """Route bulk prompts between a strong and a weak model, under a hard dollar budget."""
