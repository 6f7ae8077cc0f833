"""What tests ask of the API by the stock SDK: an upload, a batch, and what routing says of one."""

from __future__ import annotations

from typing import Any

from openai import OpenAI
from openai.types import Batch

ENDPOINT = "/v1/chat/completions"
LINES = b'{"custom_id":"a"}\n{"custom_id":"b"}\n'


def upload(client: OpenAI, content: bytes = LINES, name: str = "a.jsonl", **more: Any) -> str:
    """The id of a batch file with that content."""
    return client.files.create(file=(name, content), purpose="batch", **more).id


def create(client: OpenAI, file_id: str | None = None, **more: Any) -> Batch:
    """A batch of that file, or of LINES."""
    wish: dict[str, Any] = {"endpoint": ENDPOINT, "completion_window": "24h"} | more
    return client.batches.create(input_file_id=file_id or upload(client), **wish)


def routing(batch: Batch) -> dict[str, Any]:
    """What routing adds to the batch object."""
    shown = batch.to_dict()["routing"]
    assert isinstance(shown, dict)
    return shown
