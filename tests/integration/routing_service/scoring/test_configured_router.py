"""A fitted router of the operator's own: named in the configuration, given by a batch, and what scores it."""

from __future__ import annotations

from pathlib import Path

import pytest
from openai import BadRequestError
from sqlalchemy import select

from routing_service.db import Database
from routing_service.ingest.ingest import ingest
from routing_service.models import BatchState, Request
from routing_service.money.pricing import price_book
from routing_service.routers.registry import Routers
from routing_service.scoring.score import score
from tests.support.api_server import running_api
from tests.support.factories import chat_file, chat_line, make_settings
from tests.support.routers.labelled import sums
from training.fit.gain import fit_labels

PROMPTS = ["Tell me 3 things of ring field ideal ring", "Tell me 4 things of colour shade paint shade"]


def test_a_batch_is_scored_by_the_artifact_that_it_names(database: Database, tmp_path: Path) -> None:
    mine = fit_labels(sums(300), seed=1)
    mine.save(tmp_path / "mine")
    settings = make_settings(routing={"candidates": ["weak", "strong"], "artifacts": {"mine": tmp_path / "mine"}})
    content = chat_file([chat_line(str(n), prompt) for n, prompt in enumerate(PROMPTS)])
    with running_api(settings, database) as api, api.client() as client:
        file = client.files.create(file=("a.jsonl", content), purpose="batch")
        wish = {"input_file_id": file.id, "endpoint": "/v1/chat/completions", "completion_window": "24h"}
        batch_id = client.batches.create(**wish, extra_body={"routing": {"router": "mine"}}).id  # type: ignore[arg-type]
        assert ingest(database, settings, price_book(settings), batch_id) is BatchState.IN_PROGRESS
        assert score(database, settings, price_book(settings), Routers(settings), batch_id, 1)
        shown = client.batches.retrieve(batch_id).model_dump()["routing"]
        with pytest.raises(BadRequestError, match="Routers: auto, gain, mine, random"):
            client.batches.create(**wish, extra_body={"routing": {"router": "yours"}})  # type: ignore[arg-type]
    assert (shown["router"], shown["unscored"], shown["unscored_reason"]) == ("mine", False, None)
    with database.transaction() as session:
        scored = session.scalars(select(Request.win_rate).where(Request.batch_id == batch_id).order_by(Request.line))
        rates = list(scored)
    assert rates == pytest.approx(mine.score(PROMPTS, ["weak", "strong"])[0][:, 1].tolist())
    assert rates[0] > rates[1] + 0.1  # type: ignore[operator]


def test_an_artifact_that_is_gone_leaves_the_batch_unscored_and_names_no_path(
    database: Database, tmp_path: Path
) -> None:
    artifacts = {"mine": tmp_path / "none"}
    settings = make_settings(
        routing={"candidates": ["weak", "strong"], "artifacts": artifacts}, score={"max_attempts": 1}
    )
    content = chat_file([chat_line("a", PROMPTS[0])])
    with running_api(settings, database) as api, api.client() as client:
        file = client.files.create(file=("a.jsonl", content), purpose="batch")
        batch = client.batches.create(
            input_file_id=file.id,
            endpoint="/v1/chat/completions",
            completion_window="24h",
            extra_body={"routing": {"router": "mine"}},
        )
        ingest(database, settings, price_book(settings), batch.id)
        assert score(database, settings, price_book(settings), Routers(settings), batch.id, 1)
        shown = client.batches.retrieve(batch.id).model_dump()["routing"]
    assert shown["unscored"]
    assert shown["unscored_reason"] == "The router 'mine' failed (ArtifactError); the score worker's log says more."
