"""Writing a batch's output and error files to disk, piece by piece."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from cli.client import Api, Batch
from cli.output_files import STDOUT, writing


def save(api: Api, batch: Batch, output: Path | None, errors: Path | None, earlier: Sequence[Batch] = ()) -> None:
    """Write the files that are wanted; a batch without such lines gives an empty file.

    `earlier`: the batches that it continues; their answers come first.
    """
    answers = [found["output_file_id"] for found in (*earlier, batch) if found.get("output_file_id")]
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


def chain(api: Api, batch: Batch) -> list[Batch]:
    """The batches that ask the same file's lines in turn, the first one first: what this one continues, and by whom it
    is continued."""
    batches = [batch]
    while before := (batches[0].get("routing") or {}).get("continues"):
        batches.insert(0, api.batch(before))
    while after := (batches[-1].get("routing") or {}).get("continued_by"):
        batches.append(api.batch(after))
    return batches
