"""`routebatch results`: a batch's answers and errors, written to files piece by piece."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from cli.client import TERMINAL, Api, Batch, connected
from cli.epilog import epilog
from cli.options import WRITABLE, batch_argument, connection_options, json_option
from cli.output import print_errors, print_json
from cli.output_files import STDOUT, check_paths, writing


@click.command(epilog=epilog("routebatch results batch_... --output results.jsonl --errors errors.jsonl"))
@batch_argument
@click.option("--output", "-o", type=WRITABLE, help="Write the answers to this file. Default: stdout.")
@click.option("--errors", type=WRITABLE, help="Write the errors to this file.")
@click.option(
    "--all",
    "whole",
    is_flag=True,
    help="Write the answers of the batches that it continues or is continued by, too.",
)
@json_option
@connection_options
def results(
    batch_id: str,
    output: Path | None,
    errors: Path | None,
    whole: bool,
    as_json: bool,
    url: str | None,
    api_key: str | None,
) -> None:
    """Write a batch's answers to a file, and its errors to another.

    With --errors alone, only the errors are written. With --all, the errors are what the last batch left unanswered.
    """
    if output is None and errors is None:
        output = STDOUT
    check_paths(output, errors, printing_json=as_json)
    with connected(url, api_key) as api:
        batch = api.batch(batch_id)
        if batch["status"] == "failed":
            print_errors(batch)
            raise click.ClickException(f"batch {batch_id} failed its validation: it has no results")
        *earlier, batch = chain(api, batch) if whole else [batch]
        if batch["status"] not in TERMINAL:
            raise click.ClickException(
                f"batch {batch['id']} is {batch['status']}; wait with `routebatch watch {batch['id']}`"
            )
        save(api, batch, output, errors, earlier)
    if as_json:
        print_json(batch)


def chain(api: Api, batch: Batch) -> list[Batch]:
    """The batches that ask the same file's lines in turn, the first one first: what this one continues, and by whom it
    is continued."""
    batches = [batch]
    while before := (batches[0].get("routing") or {}).get("continues"):
        batches.insert(0, api.batch(before))
    while after := (batches[-1].get("routing") or {}).get("continued_by"):
        batches.append(api.batch(after))
    return batches


def save(api: Api, batch: Batch, output: Path | None, errors: Path | None, earlier: Sequence[Batch] = ()) -> None:
    """Write the files that are wanted; a batch without such lines gives an empty file.

    `earlier`: the batches that it continues; their answers come first.
    """
    answers = [each["output_file_id"] for each in (*earlier, batch) if each.get("output_file_id")]
    failures = [batch["error_file_id"]] if batch.get("error_file_id") else []
    for path, file_ids, missing in (
        (output, answers, "no request was answered"),
        (errors, failures, "no request failed"),
    ):
        if path is None:
            continue
        with writing(path) as stream:
            for file_id in file_ids:
                api.download(file_id, stream)
        if path != STDOUT:
            click.echo(f"wrote {path}" if file_ids else f"wrote {path}, empty: {missing}", err=True)
