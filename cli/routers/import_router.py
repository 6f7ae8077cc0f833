"""`routebatch import-router`: make a router of the weights that RouteLLM published."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import click

from cli.epilog import epilog
from cli.options import artifact_option, json_option
from cli.output import print_json
from cli.output_files import check_artifact
from cli.progress import spinner
from cli.stack_access import read_settings

# method -> module:function, which is called with the weights' path and the settings
IMPORTERS = {
    "matrix_factorization": "training.importers.matrix_factorization:import_matrix_factorization",
    "bert": "training.importers.bert:import_bert",
    "causal_llm": "training.importers.causal_llm:import_causal_llm",
}


class Kind(click.ParamType[str]):
    """A method whose weights can be imported, or its alias."""

    name = "kind"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        from routing_service.routers.registry import canonical

        if canonical(value) not in IMPORTERS:
            self.fail(f"{value!r} cannot be imported; choose one of: {', '.join(IMPORTERS)}", param, ctx)
        return canonical(str(value))


@click.command("import-router", epilog=epilog("routebatch import-router mf checkpoints/mf_gpt4_augmented --output mf"))
@click.argument("kind", metavar="KIND", type=Kind(), help="matrix_factorization (mf), bert or causal_llm.")
@click.argument(
    "path", metavar="PATH", type=click.Path(exists=True, path_type=Path), help="The directory of the checkpoint."
)
@artifact_option
@json_option
def import_router(kind: str, path: Path, output: Path, as_json: bool) -> None:
    """Import a router that RouteLLM published: its weights become an artifact.

    KIND is matrix_factorization (mf), bert or causal_llm; PATH the directory of the checkpoint as the hub gives it,
    downloaded before: nothing is fetched here, and nothing in it is executed.
    """
    check_artifact(output)  # before gigabytes are read, not after
    settings = read_settings()
    with spinner(f"importing {path}"):
        router = _importer(kind)(path, settings)
        router.save(output)
    if as_json:
        print_json({"method": router.name, "output": str(output), "metadata": getattr(router, "metadata", {})})
    else:
        click.echo(f"imported {path} as {router.name}: wrote {output}", err=True)


def _importer(kind: str) -> Any:
    module, _, name = IMPORTERS[kind].partition(":")
    return getattr(import_module(module), name)
