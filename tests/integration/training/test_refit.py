"""Re-fits on a real database: a better router is promoted, a worse one refused, and nothing is left half done."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from sqlalchemy import event, select, text, update

from cli.main import main
from routing_service.db import Database
from routing_service.errors import ArtifactError, ScoringError
from routing_service.models import Comparison, Evaluation, Refit, RefitOutcome, RefitTrigger, RouterVersion
from routing_service.router_versions.artifact_store import ArtifactStore
from routing_service.router_versions.versions import active, promote, register
from routing_service.routers import registry
from routing_service.routers.base import Pair, Vector
from routing_service.routers.registry import load_router
from tests.support.paths import ROOT
from tests.support.routers.topics_fake import CLASSES, PLACES, TopicsRouter
from tests.support.routers.trained import compare, kept, learning_settings, run, wait_for_locks
from training.data.labels import DataError
from training.fit import methods
from training.refit.champion import Champion
from training.refit.record import listed, only_one
from training.refit.refit import refit

LEFT = ("versions", "evaluations", "promotions")
HARD, EASY = "Tell me 7 things of ring field ideal ring", "Tell me 7 things of shade paint colour paint"


@pytest.fixture(autouse=True)
def _fits_that_take_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    for known, added in ((registry.METHODS, CLASSES), (methods.METHODS, PLACES)):
        for name, place in added.items():
            monkeypatch.setitem(known, name, place)


def serves(database: Database) -> int | None:
    with database.transaction() as session:
        actual = active(session)
        return actual.id if actual else None


def flip_what_is_fitted_on(database: Database) -> None:
    """Turn the labels around, but for those that will be held out."""
    with database.transaction() as session:
        session.execute(update(Comparison).where(Comparison.id <= 320).values(outcome=1 - Comparison.outcome))


def test_a_better_router_is_promoted_and_one_of_flipped_labels_refused_with_its_reason(
    database: Database, tmp_path: Path
) -> None:
    settings = learning_settings(tmp_path, methods=["gain"])
    compare(database)
    first = run(database, settings)
    assert (first.outcome, first.rows, serves(database)) == (RefitOutcome.PROMOTED, 400, first.version_ids[0])
    assert "better than the active router" in first.reason
    assert first.figures["primary"] == "hold-out"
    assert first.figures["gate"]["active"]["qini"]["value"] == pytest.approx(0)  # a random router has no luck
    with database.transaction() as session:
        version = session.get_one(RouterVersion, first.version_ids[0])
        evaluations = session.scalars(select(Evaluation)).all()
    assert [(e.router_version_id, e.dataset, e.fingerprint) for e in evaluations] == [
        (version.id, "hold-out", first.fingerprint)
    ]
    assert evaluations[0].metrics["apgr"] > 0.6
    router = load_router(ArtifactStore.of(settings).fetch(version.artifact), settings)
    hard, easy = router.win_rates([HARD, EASY], "strong", "weak").tolist()
    assert hard > easy + 0.2

    flip_what_is_fitted_on(database)
    second = run(database, settings)
    assert second.outcome is RefitOutcome.REFUSED
    assert second.reason.startswith("not shown to be better: its Qini coefficient less the active router's is -")
    assert serves(database) == version.id
    with database.transaction() as session:
        refused = session.get_one(RouterVersion, second.version_ids[0])
        assert (refused.state, refused.details["reason"]) == ("candidate", second.reason)
        assert [(r.outcome, r.reason) for r in listed(session, 9)] == [
            ("refused", second.reason),
            ("promoted", first.reason),
        ]


def test_nothing_new_is_not_fitted_again_unless_by_hand_and_the_same_router_is_never_promoted(
    database: Database, tmp_path: Path
) -> None:
    settings = learning_settings(tmp_path)
    compare(database)
    first = run(database, settings)
    again = run(database, settings)
    assert (again.outcome, kept(database)["versions"]) == (RefitOutcome.UNCHANGED, 1)
    by_hand = run(database, settings, RefitTrigger.MANUAL)
    assert (by_hand.outcome, by_hand.fingerprint) == (RefitOutcome.REFUSED, first.fingerprint)
    assert (by_hand.version_ids, kept(database)["versions"]) == (first.version_ids, 1)  # the same bytes
    assert run(database, learning_settings(tmp_path, seed=1)).outcome is RefitOutcome.REFUSED


def test_enough_pairs_of_live_traffic_are_judged_on_alone(database: Database, tmp_path: Path) -> None:
    compare(database, 300)
    compare(database, 100, 300, line=7)
    outcome = run(database, learning_settings(tmp_path, least_pairs=80), dry_run=True)
    assert (outcome.figures["primary"], outcome.figures["gate"]["prompts"]) == ("live pairs", 80)
    assert run(database, learning_settings(tmp_path), dry_run=True).figures["primary"] == "hold-out"
    assert not any(kept(database).values())
    assert not (tmp_path / "store").exists()


def test_a_benchmark_that_falls_refuses_and_its_prompts_are_not_fitted_on(database: Database, tmp_path: Path) -> None:
    compare(database)
    rows = [f'"{HARD} {n}",0,1\n"{EASY} {n}",1,0.9\n"{EASY} {n}?",1,0\n' for n in range(30)]
    with database.transaction() as session:
        asked = session.scalars(select(Comparison.prompt).order_by(Comparison.id).limit(5)).all()
    rows += [f'"{prompt.upper()}",1,0\n' for prompt in asked]
    (tmp_path / "own.csv").write_text("prompt,strong_correct,weak_correct\n" + "".join(rows))
    outcome = run(database, learning_settings(tmp_path, benchmarks={"own": tmp_path / "own.csv"}))
    assert outcome.outcome is RefitOutcome.REFUSED
    assert "own's APGR goes from" in outcome.reason
    assert outcome.figures["decontamination"]["same"] == 5


@pytest.mark.parametrize(
    ("count", "changes", "reason"),
    [
        (0, {}, "the database holds no comparisons"),
        (100, {}, "too little data: 20 prompts"),
        (100, {"methods": ["gian"]}, "learning.methods: 'gian' is none of"),
        (100, {"methods": ["gain", "topics"], "hold_out": 0.99}, "gain: all 1 labels say the same"),
        (100, {"benchmarks": {"own": "nowhere.csv"}}, "nowhere.csv"),
    ],
)
def test_what_cannot_be_done_is_a_reason_and_leaves_no_version_that_serves(
    database: Database, tmp_path: Path, count: int, changes: dict[str, Any], reason: str
) -> None:
    if count:
        compare(database, count)
    outcome = run(database, learning_settings(tmp_path, **changes))
    assert outcome.outcome in (RefitOutcome.FAILED, RefitOutcome.REFUSED)
    assert reason in outcome.reason
    assert serves(database) is None


def test_a_method_that_fails_leaves_the_others_and_a_router_that_cannot_score_is_replaced(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Lost(TopicsRouter):
        def raw_win_rates(self, prompts: Sequence[str], pairs: Sequence[Pair]) -> Vector:
            raise ScoringError("it knows no such model")

    compare(database)
    settings = learning_settings(tmp_path, methods=["gain", "topics"])
    monkeypatch.setattr("training.fit.gain.fit", lambda *_, **__: 1 / 0)
    lost = Champion(None, "lost", Lost(np.zeros(2), {}))
    monkeypatch.setattr("training.refit.refit.champion", lambda *_: lost)
    outcome = run(database, settings)
    assert (outcome.outcome, len(outcome.version_ids)) == (RefitOutcome.PROMOTED, 1)
    assert outcome.figures["failed"] == {"gain": "ZeroDivisionError: division by zero"}
    assert outcome.figures["champion"]["trouble"] == "it knows no such model"


def test_without_a_store_nothing_is_fitted(database: Database, tmp_path: Path) -> None:
    compare(database)
    settings = learning_settings(tmp_path).model_copy(update={"artifact_url": None})
    outcome = run(database, settings, progress=pytest.fail)
    assert (outcome.outcome, kept(database)["versions"]) == (RefitOutcome.FAILED, 0)
    assert "ROUTEBATCH_ARTIFACT_URL" in outcome.reason


def test_a_failure_at_any_step_leaves_nothing_half_registered(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = learning_settings(tmp_path)
    compare(database)
    fail_at = ""

    def fail(_c: Any, _d: Any, statement: str, *_: Any) -> None:
        if fail_at and fail_at in statement:
            raise KeyboardInterrupt(fail_at)

    event.listen(database.engine, "before_cursor_execute", fail)
    steps = (
        "INSERT INTO router_versions",
        "INSERT INTO evaluations",
        "INSERT INTO promotions",
        "UPDATE router_versions",
    )
    for number, step in enumerate(steps, 1):
        fail_at = step
        with pytest.raises(KeyboardInterrupt):
            run(database, settings)
        assert kept(database) == dict.fromkeys(LEFT, 0) | {"refits": number}
    fail_at = ""

    def full(*_: Any) -> str:
        raise ArtifactError("no space is left")

    with monkeypatch.context() as patch:
        patch.setattr(ArtifactStore, "put", full)
        assert run(database, settings).reason == "no space is left"
    with database.transaction() as session:
        assert {one.outcome for one in listed(session, 9)} == {"failed"}
    assert run(database, settings).outcome is RefitOutcome.PROMOTED


def test_one_runs_at_a_time_and_who_lost_its_lock_changes_nothing(database: Database, tmp_path: Path) -> None:
    settings = learning_settings(tmp_path)
    compare(database)
    with only_one(database) as alone:
        assert alone
        assert refit(database, settings, trigger=RefitTrigger.MANUAL) is None
    assert kept(database)["refits"] == 0

    cut: list[str] = []

    def lose(title: str, total: int) -> Any:
        """While it fits, its connection is cut, and another one begins and ends."""
        if title == "measuring" and not cut:
            cut.append(title)
            with database.transaction() as session:
                session.execute(
                    text("select pg_terminate_backend(pid, 5000) from pg_locks where locktype = 'advisory' and granted")
                )
            with database.transaction() as session:
                wait_for_locks(session)
            assert run(database, settings).outcome is RefitOutcome.PROMOTED
        return nullcontext(lambda done: None)

    assert run(database, settings, progress=lose).outcome is RefitOutcome.DIED
    with database.transaction() as session:
        assert [one.outcome for one in listed(session, 9)] == ["promoted", "died"]
    assert kept(database)["promotions"] == 1


def test_who_lost_its_lock_and_then_fails_says_both(database: Database, tmp_path: Path) -> None:
    compare(database)

    def lose(title: str, total: int) -> Any:
        if title == "measuring":
            with database.transaction() as session:
                session.execute(text("update refits set outcome = 'died', reason = 'cut', ended_at = now()"))
            raise DataError("no more")
        return nullcontext(lambda done: None)

    outcome = run(database, learning_settings(tmp_path), progress=lose)
    assert (outcome.outcome, outcome.reason.endswith("; before that: no more")) == (RefitOutcome.DIED, True)


def test_what_was_promoted_meanwhile_is_not_replaced_unseen(database: Database, tmp_path: Path) -> None:
    settings = learning_settings(tmp_path)
    compare(database)
    put = ArtifactStore.put

    def meanwhile(store: ArtifactStore, directory: Path) -> str:
        with database.transaction() as session:
            promote(session, register(session, method="gain", artifact="a" * 64, details={}), "by hand")
        return put(store, directory)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ArtifactStore, "put", meanwhile)
        outcome = run(database, settings)
    assert (outcome.outcome, serves(database)) == (RefitOutcome.REFUSED, 1)
    assert "was changed meanwhile" in outcome.reason


@pytest.fixture
def command(database_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    monkeypatch.setenv("ROUTEBATCH_DATABASE_URL", database_url)
    monkeypatch.setenv("ROUTEBATCH_ARTIFACT_URL", str(tmp_path / "store"))
    monkeypatch.setenv("ROUTEBATCH_ARTIFACT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("ROUTEBATCH_ROUTING__ROUTER", "random")
    monkeypatch.setenv("ROUTEBATCH_LEARNING__METHODS", '["topics"]')
    for name in ("weak", "strong"):
        monkeypatch.setenv(f"ROUTEBATCH_MODELS__{name.upper()}__NAME", f"sandbox-{name}")
        monkeypatch.setenv(f"ROUTEBATCH_MODELS__{name.upper()}__BASE_URL", "http://127.0.0.1:9/v1")

    def invoke(*arguments: str) -> Result:
        return CliRunner().invoke(main, [*arguments])

    return invoke


def test_commands_run_a_refit_and_show_what_became_of_it(command: Any, database: Database) -> None:
    assert command("refits").stdout == "there was no re-fit yet\n"
    failed = command("refit", "--json")
    assert (failed.exit_code, json.loads(failed.stdout)["outcome"]) == (1, "failed")
    compare(database)
    tried = command("refit", "--dry-run")
    assert (tried.exit_code, "would be promoted" in tried.stdout, kept(database)["versions"]) == (0, True, 0)
    done = command("refit", "--json")
    assert (done.exit_code, json.loads(done.stdout)["version_ids"]) == (0, [1])
    with database.transaction() as session:
        session.add(Refit(trigger=RefitTrigger.DRIFT))
    died, promoted, _ = json.loads(command("refits", "--json").stdout)
    assert (died["outcome"], died["trigger"], promoted["outcome"]) == ("died", "drift", "promoted")
    shown = command("refits", "--last", "2").stdout
    assert "its process died; nothing of it was kept" in shown
    assert "better than the active router" in shown
    with only_one(database):
        running = command("refit")
        assert (running.exit_code, "another re-fit runs" in running.stderr) == (1, True)
        assert json.loads(command("refits", "--json", "--last", "1").stdout)[0]["outcome"] == "running"


def test_a_refit_of_a_stack_that_runs_takes_its_store(
    command: Any, database: Database, database_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    compare(database)
    for name in ("DATABASE_URL", "ARTIFACT_URL"):
        monkeypatch.delenv(f"ROUTEBATCH_{name}")
    (state := tmp_path / "state").mkdir()
    stack = {"database_url": database_url, "artifact_url": str(tmp_path / "its own")}
    (state / "stack.json").write_text(json.dumps(stack))
    done = command("refit", "--json", "--state-dir", str(state))
    assert (done.exit_code, json.loads(done.stdout)["outcome"]) == (0, "promoted")
    assert len(list((tmp_path / "its own").iterdir())) == 1


def test_a_killed_refit_leaves_a_row_that_says_so_and_the_next_one_is_free(
    database: Database, database_url: str, tmp_path: Path
) -> None:
    compare(database)
    code = "import tests.support.routers.trained, sys; tests.support.routers.trained.hang(sys.argv[1], sys.argv[2])"
    argv = [sys.executable, "-c", code, database_url, str(tmp_path)]
    with subprocess.Popen(argv, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "put\n"  # all is fitted and stored, nothing is registered
        with database.transaction() as session:
            assert listed(session, 1)[0].outcome == "running"
        process.kill()
    with database.transaction() as session:
        wait_for_locks(session)
        assert [(one.outcome, one.ended_at) for one in listed(session, 1)] == [("died", None)]
    assert kept(database) == dict.fromkeys(LEFT, 0) | {"refits": 1}
    assert run(database, learning_settings(tmp_path)).outcome is RefitOutcome.PROMOTED
    with database.transaction() as session:
        assert [one.outcome for one in listed(session, 2)] == ["promoted", "died"]
