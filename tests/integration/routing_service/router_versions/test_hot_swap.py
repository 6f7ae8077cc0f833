"""Promotion reaches batches that name no router, each as a whole; what cannot be loaded leaves an older one serving."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from openai import BadRequestError, OpenAI
from sqlalchemy import select, text

from routing_service.db import Database
from routing_service.dispatch import lease
from routing_service.dispatch.claim import claim
from routing_service.ingest.ingest import ingest
from routing_service.models import Decision, Request, RouterVersion
from routing_service.money.pricing import price_book
from routing_service.plans.plan import plan
from routing_service.plans.preview_basis import changes
from routing_service.plans.replan import replan
from routing_service.router_versions.artifact_store import TENSORS, ArtifactStore
from routing_service.router_versions.versions import promote, register, rollback
from routing_service.routers import registry as routers_module
from routing_service.routers.registry import Routers
from routing_service.scoring.score import score
from routing_service.settings import Settings
from tests.support.api_server import Api, running_api
from tests.support.client import create, routing, upload
from tests.support.extend import ask
from tests.support.factories import chat_file, ingested_batch, make_settings, previewed_batch, score_all
from tests.support.reading import batch_of
from tests.support.routers.fitted_fake import FakeRouter

RANGE = 4


@pytest.fixture(autouse=True)
def _fake_method(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(routers_module.METHODS, "fake", "tests.support.routers.fitted_fake:FakeRouter")


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return make_settings(
        score={"range_lines": RANGE, "max_attempts": 2},
        artifact_url=str(tmp_path / "store"),
        artifact_cache=tmp_path / "cache",
    )


def registered(database: Database, settings: Settings, directory: Path, strong: float) -> int:
    """A version whose win rate is `(1 + strong) / 2` for every prompt."""
    FakeRouter({"weak": 0.0, "strong": strong}, {}).save(directory / str(strong))
    artifact = ArtifactStore.of(settings).put(directory / str(strong))
    with database.transaction() as session:
        return register(session, method="fake", artifact=artifact, details={})


@pytest.fixture
def versions(database: Database, settings: Settings, tmp_path: Path) -> tuple[int, int]:
    low, high = (registered(database, settings, tmp_path, strong) for strong in (0.2, 0.6))
    return low, high


def rates(database: Database, batch_id: str) -> list[float]:
    with database.transaction() as session:
        query = select(Request.win_rate).where(Request.batch_id == batch_id, Request.win_rate.is_not(None))
        return [round(float(rate or 0), 3) for rate in session.scalars(query.order_by(Request.line))]


def activate(database: Database, number: int) -> None:
    with database.transaction() as session:
        promote(session, number, "test")


def break_artifact(database: Database, number: int, tmp_path: Path) -> None:
    with database.transaction() as session:
        artifact = session.get_one(RouterVersion, number).artifact
    (tmp_path / "store" / artifact / TENSORS).write_bytes(b"")


def auto(database: Database, settings: Settings, lines: int = RANGE, **columns: Any) -> str:
    return ingested_batch(database, lines, settings, router="auto", **columns)


def test_promotion_reaches_a_running_worker_and_a_batch_keeps_its_version(
    database: Database, settings: Settings, versions: tuple[int, int]
) -> None:
    low, high = versions
    worker, other = Routers(settings, database), Routers(settings, database)
    activate(database, low)
    first, straddling = auto(database, settings), auto(database, settings, 2 * RANGE)
    assert score(database, settings, price_book(settings), worker, first, 1)
    assert not score(database, settings, price_book(settings), worker, straddling, 1)
    activate(database, high)
    after = auto(database, settings)
    assert score(database, settings, price_book(settings), worker, after, 1)
    # By a worker that never saw the first version serve.
    assert score(database, settings, price_book(settings), other, straddling, RANGE + 1)
    assert [rates(database, batch_id) for batch_id in (first, straddling, after)] == [[0.6] * 4, [0.6] * 8, [0.8] * 4]
    actual = [batch_of(database, batch_id) for batch_id in (first, straddling, after)]
    assert [(batch.router, batch.router_version_id) for batch in actual] == [
        (f"version-{low}", low),
        (f"version-{low}", low),
        (f"version-{high}", high),
    ]
    with database.transaction() as session:
        assert rollback(session) == low
    back = auto(database, settings)
    score(database, settings, price_book(settings), worker, back, 1)
    assert batch_of(database, back).router_version_id == low


def test_without_an_active_version_the_built_in_router_serves(database: Database, settings: Settings) -> None:
    batch_id = auto(database, settings)
    score(database, settings, price_book(settings), Routers(settings, database), batch_id, 1)
    batch = batch_of(database, batch_id)
    assert (batch.router, batch.router_version_id, batch.unscored) == ("gain", None, False)


def test_a_router_that_a_batch_names_stays_what_it_is(
    database: Database, settings: Settings, versions: tuple[int, int]
) -> None:
    activate(database, versions[1])
    batch_id = ingested_batch(database, RANGE, settings, router="random")
    score(database, settings, price_book(settings), Routers(settings, database), batch_id, 1)
    assert (batch_of(database, batch_id).router, batch_of(database, batch_id).router_version_id) == ("random", None)


def test_a_version_that_cannot_be_loaded_leaves_the_old_one_serving(
    database: Database, settings: Settings, versions: tuple[int, int], tmp_path: Path
) -> None:
    low, high = versions
    worker = Routers(settings, database)
    activate(database, low)
    activate(database, high)
    break_artifact(database, high, tmp_path)
    for _ in range(2):
        batch_id = auto(database, settings)
        assert score(database, settings, price_book(settings), worker, batch_id, 1)
        batch = batch_of(database, batch_id)
        assert (batch.router_version_id, batch.unscored) == (low, False)
        assert rates(database, batch_id) == [0.6] * 4
    with database.transaction() as session:
        broken = session.get_one(RouterVersion, high)
        assert broken.state == "active"
        assert (broken.failure or "").startswith("ArtifactError: the artifact store")


def test_with_none_that_can_be_loaded_the_built_in_router_serves(
    database: Database, settings: Settings, versions: tuple[int, int], tmp_path: Path
) -> None:
    for number in versions:
        activate(database, number)
        break_artifact(database, number, tmp_path)
    batch_id = auto(database, settings)
    assert score(database, settings, price_book(settings), Routers(settings, database), batch_id, 1)
    assert (batch_of(database, batch_id).router, batch_of(database, batch_id).unscored) == ("gain", False)


def test_what_failedis_tried_again_after_a_while_and_after_a_promotion(
    database: Database, settings: Settings, versions: tuple[int, int], tmp_path: Path
) -> None:
    _, high = versions
    worker = Routers(settings, database)
    activate(database, high)
    break_artifact(database, high, tmp_path)
    assert worker.serving() == "gain"
    ArtifactStore.of(settings).put(tmp_path / "0.6")  # mended
    assert worker.serving() == "gain"
    with database.transaction() as session:
        session.execute(
            text("update router_versions set failed_at = now() - interval '301 seconds' where failed_at is not null")
        )
    assert worker.serving() == f"version-{high}"


def test_a_version_that_ends_its_process_is_left_for_the_built_in_router(
    database: Database, settings: Settings, versions: tuple[int, int]
) -> None:
    activate(database, versions[1])
    batch_id = auto(database, settings)
    with database.transaction() as session:  # a process that died in loading left nothing but its attempt
        session.execute(text("update score_ranges set attempts = 2"))
    worker = Routers(settings, database)
    assert score(database, settings, price_book(settings), worker, batch_id, 1)
    batch = batch_of(database, batch_id)
    assert (batch.router, batch.router_version_id, batch.unscored) == ("gain", None, False)
    with database.transaction() as session:
        assert session.get_one(RouterVersion, versions[1]).failure == "It ended the process that loaded it."
    assert worker.serving() == "gain"


def test_a_batch_of_a_version_that_another_worker_cannot_load_goes_on_unscored(
    database: Database, settings: Settings, versions: tuple[int, int], tmp_path: Path
) -> None:
    activate(database, versions[1])
    batch_id = auto(database, settings, 2 * RANGE)
    score(database, settings, price_book(settings), Routers(settings, database), batch_id, 1)
    elsewhere = settings.model_copy(
        update={"artifact_url": str(tmp_path / "none"), "artifact_cache": tmp_path / "none"}
    )
    other = Routers(elsewhere, database)
    with pytest.raises(Exception, match="has no artifact"):
        score(database, elsewhere, price_book(elsewhere), other, batch_id, RANGE + 1)
    assert score(database, elsewhere, price_book(elsewhere), other, batch_id, RANGE + 1)
    batch = batch_of(database, batch_id)
    assert (batch.unscored, batch.router_version_id) == (True, versions[1])
    name = f"version-{versions[1]}"
    assert batch.unscored_reason == f"The router '{name}' failed (ArtifactError); the score worker's log says more."


def test_a_batch_of_one_model_needs_no_router(
    database: Database, settings: Settings, versions: tuple[int, int], tmp_path: Path
) -> None:
    activate(database, versions[0])
    break_artifact(database, versions[0], tmp_path)
    batch_id = auto(database, settings, candidates=["weak"])
    score(database, settings, price_book(settings), Routers(settings, database), batch_id, 1)
    assert (batch_of(database, batch_id).router, batch_of(database, batch_id).router_version_id) == ("auto", None)


def test_a_process_keeps_few_versions(database: Database, settings: Settings, tmp_path: Path) -> None:
    numbers = [registered(database, settings, tmp_path, strong) for strong in (0.0, 0.2, 0.4)]
    worker = Routers(settings, database)
    first, second, _ = [worker.get(f"version-{number}") for number in numbers]
    assert worker.get(f"version-{numbers[1]}") is second
    assert worker.get(f"version-{numbers[0]}") is not first
    assert np.allclose(worker.get(f"version-{numbers[0]}").win_rates(["p"], "strong", "weak"), 0.5)


def test_every_decision_and_the_plan_name_the_version(
    database: Database, settings: Settings, versions: tuple[int, int]
) -> None:
    activate(database, versions[0])
    batch_id = auto(database, settings)
    score_all(database, settings, batch_id)
    activate(database, versions[1])
    assert plan(database, settings, price_book(settings), batch_id)
    assert replan(database, settings, price_book(settings), batch_id)
    assert batch_of(database, batch_id).router_version_id == versions[0]
    held = lease.open_lease(database, 30)
    with database.transaction() as session:
        got = claim(session, settings, price_book(settings), held.pump_id, batch_id, {"weak": 9, "strong": 9})
        named = session.scalars(select(Decision.router_version_id).where(Decision.batch_id == batch_id)).all()
    assert list(named) == [versions[0]] * RANGE == [versions[0]] * len(got.tickets)


def by(router: str) -> dict[str, Any]:
    return {"routing": {"router": router}}


def test_clients_name_a_version_and_see_which_one_routed_their_batch(
    database: Database, settings: Settings, versions: tuple[int, int]
) -> None:
    low, high = versions
    activate(database, low)
    worker = Routers(settings, database)
    with running_api(settings, database) as api, api.client() as client:
        file_id = upload(client, chat_file(RANGE))
        named, unnamed = (create(client, file_id, extra_body=by(name)).id for name in (f"version-{high}", "auto"))
        for batch_id in (named, unnamed):
            ingest(database, settings, price_book(settings), batch_id)
            score(database, settings, price_book(settings), worker, batch_id, 1)
        shown = [routing(client.batches.retrieve(batch_id)) for batch_id in (named, unnamed)]
        with pytest.raises(BadRequestError, match="no router 'version-99'") as refused:
            create(client, extra_body=by("version-99"))
    actual = [(seen["router"], seen["router_version"]) for seen in shown]
    assert actual == [(f"version-{high}", high), (f"version-{low}", low)]
    assert (refused.value.code, refused.value.param) == ("router_not_found", "routing.router")


def test_a_preview_still_holds_when_another_version_is_promoted(
    database: Database, settings: Settings, versions: tuple[int, int]
) -> None:
    activate(database, versions[0])
    batch_id = previewed_batch(database, RANGE, settings, router="auto")
    activate(database, versions[1])
    batch = batch_of(database, batch_id)
    assert batch.preview
    assert batch.preview["basis"]["router"] == f"version-{versions[0]}"
    assert changes(batch, batch.preview["basis"], settings, price_book(settings)) == []


def test_a_continuation_of_a_batch_that_named_no_router_takes_the_version_of_now(
    api: Api, client: OpenAI, settings: Settings, versions: tuple[int, int]
) -> None:
    activate(api.database, versions[0])
    actual = []
    for router in ("auto", f"version-{versions[0]}"):
        first = create(client, upload(client, chat_file(RANGE)), extra_body=by(router)).id
        ingest(api.database, settings, price_book(settings), first)
        score(api.database, settings, price_book(settings), Routers(settings, api.database), first, 1)
        with api.database.transaction() as session:
            session.execute(
                text("update batches set state = 'completed', completed_at = now(), failed = total where id = :id"),
                {"id": first},
            )
        batch = batch_of(api.database, ask(client, first, "retry", "1").id)
        actual.append((batch.router, batch.router_version_id))
    assert actual == [("auto", None), (f"version-{versions[0]}", versions[0])]
