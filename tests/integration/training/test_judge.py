"""The judge: asked by the pump as any request, under a budget that binds; what its replies become, and its health."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import select, text

from routing_service.db import Database
from routing_service.dispatch.finish import finish
from routing_service.errors import AuthenticationError, ConfigurationError
from routing_service.models import ApiKey, Batch, Comparison, Judgement, Period, Rating
from routing_service.models.base import ComparisonSource
from routing_service.money import ledger
from routing_service.money.budgets import set_limit
from routing_service.money.pricing import price_book
from routing_service.openai_format.keys import authenticate
from routing_service.settings import Settings
from sandbox.problems import generate
from tests.support.answered_batch import comparisons_of, paired_batch, reply
from tests.support.factories import STRONG, WEAK, make_settings
from tests.support.pumping import budget_of, run_pump, states_of
from tests.support.upstreams.sandbox_server import run_sandbox
from training.data.labels import DataError
from training.label.judge.ask import Asked, ask_judge
from training.label.judge.collect import Collected, collect_judgements, collected_of
from training.label.judge.health import judge_health
from training.label.store import PairOutcome, keep_comparisons

PROBLEMS = generate(12, seed=3)
# The strong answer is right throughout, the weak one of every other problem.
PAIRS = [(p.prompt, f"It is {p.answer}", f"It is {p.answer + n % 2}") for n, p in enumerate(PROBLEMS)]
DEAR = 1_000_000_000


def judging(base_url: str = "http://127.0.0.1:9/v1", **judge: Any) -> Settings:
    """Settings with a judge at that upstream, whose prices are the strong model's."""
    models = {"strong": STRONG, "weak": WEAK, "referee": STRONG | {"base_url": base_url}}
    quick = {"idle_s": 0.2, "backoff_base_s": 0.01, "settle_interval_ms": 20}
    return make_settings(models=models, dispatch=quick, learning={"judge": {"model": "referee"} | judge})


def ask(database: Database, settings: Settings, batch_id: str, budget_nano: int = DEAR, **wish: Any) -> Asked:
    with database.transaction() as session:
        return ask_judge(session, settings, price_book(settings), batch_id, budget_nano=budget_nano, **wish)


def test_a_judge_under_a_budget_that_binds_is_paid_no_more_and_asked_the_rest_later(database: Database) -> None:
    batch_id = paired_batch(database, judging(), PAIRS)
    with run_sandbox(latency_ms=0, judge_error=0.0) as sandbox:
        settings = judging(sandbox.base_url)
        asked = ask(database, settings, batch_id, budget_nano=60_000_000)
        assert (asked.subjects, asked.calls) == (12, 24)
        assert collect_judgements(database) == Collected()  # it has not ended
        run_pump(database, settings)
        assert finish(database, asked.batch_id)
        states = states_of(database, asked.batch_id)
        assert states["succeeded"] > 2
        assert states["unaffordable"] > 2
        budget = budget_of(database, asked.batch_id)
        assert 0 < sandbox.billed_nano() <= budget.settled_nano <= budget.limit_nano == 60_000_000
        assert budget.reserved_nano == 0
        first = collect_judgements(database)
        assert (first.batches, first.verdicts, first.unanswered) == (1, states["succeeded"], states["unaffordable"])
        assert 0 < first.comparisons == states["succeeded"] // 2
        made = comparisons_of(database)
        assert collect_judgements(database) == Collected()
        again = ask(database, settings, batch_id)
        assert (again.subjects, again.asked_before) == (12 - first.comparisons, first.comparisons)
        run_pump(database, settings)
        assert finish(database, again.batch_id)
    assert collect_judgements(database).comparisons == again.subjects
    after = comparisons_of(database)
    assert {*made} <= {*after}
    assert [row[1:] for row in after] == [
        (n, prompt, "strong", "weak", 1.0 if strong != weak else 0.5)
        for n, (prompt, strong, weak) in enumerate(PAIRS, 1)
    ]
    with database.transaction() as session:
        assert ledger.verify(session) == []
        with pytest.raises(DataError, match="12 asked before"):
            ask_judge(session, settings, price_book(settings), batch_id, budget_nano=DEAR)


def test_a_key_that_nobody_has_pays_and_its_budget_holds(database: Database) -> None:
    settings = judging()
    batch_id = paired_batch(database, settings, PAIRS[:2])
    first = ask(database, settings, batch_id, limit=1)
    with database.transaction() as session:
        key = session.scalars(select(ApiKey).where(ApiKey.name == "judge")).one()
        for secret in ("", "none", key.id, key.hint):
            with pytest.raises(AuthenticationError):
                authenticate(session, secret)
        set_limit(session, key.id, Period.ALL, 0)
    second = ask(database, settings, batch_id, limit=1)
    run_pump(database, settings)  # sends nothing: there is no upstream
    with database.transaction() as session:
        companions = session.scalars(select(Batch).where(Batch.id.in_([first.batch_id, second.batch_id]))).all()
    assert [(each.api_key_id, each.paused) for each in companions] == [(key.id, "key_budget")] * 2


def test_only_verdicts_on_both_orders_make_a_comparison(database: Database) -> None:
    settings = judging()
    batch_id = paired_batch(database, settings, PAIRS[:6])
    asked = ask(database, settings, batch_id)
    with database.transaction() as session:
        order = session.scalars(select(Judgement.parent_line).order_by(Judgement.line)).all()
    assert order[::2] == order[1::2]
    assert sorted(order[::2]) == [1, 2, 3, 4, 5, 6]
    assert order[::2] != sorted(order[::2])  # by lot
    said = ["[[A]]", "[[B]]", "[[B]]", "[[A]]", "[[A]]", "[[A]]", "[[C]]", "[[C]]", "[[A]]", "no idea", "[[A]]", None]
    reply(database, asked.batch_id, said)
    collected = collect_judgements(database)
    assert collected == Collected(1, verdicts=10, unparsed=1, unanswered=1, comparisons=4)
    with database.transaction() as session:
        assert collected_of(session, asked.batch_id) == collected
    outcomes = dict(zip(order[::2], (1.0, 0.0, 0.5, 0.5), strict=False))
    assert {row[1]: row[5] for row in comparisons_of(database)} == outcomes


def test_scores_become_ratings_by_the_strong_answer_or_a_reference(database: Database) -> None:
    settings = judging()
    batch_id = paired_batch(database, settings, PAIRS[:4])
    asked = ask(database, settings, batch_id, mode="score")
    assert (asked.subjects, asked.calls, asked.template) == (4, 4, "score-v1")
    reply(database, asked.batch_id, ["[[1]]", "[[5]]", "[[6]]", None])
    assert collect_judgements(database) == Collected(1, verdicts=2, unparsed=1, unanswered=1, ratings=2)
    references = {"c-1": "one", "c-2": "two", "c-9": "x"}
    with database.transaction() as session:
        session.execute(text("update judgements set verdict = 'unanswered'"))
    by_reference = ask(database, settings, batch_id, mode="score", references=references)
    assert by_reference.subjects == 2
    reply(database, by_reference.batch_id, ["[[3]]", "[[3]]"])
    collect_judgements(database)
    with database.transaction() as session:
        ratings = session.scalars(select(Rating)).all()
        bodies = session.scalars(text("select body from requests where batch_id = :id"), {"id": by_reference.batch_id})
        assert any("two" in body for body in bodies)
    assert {rating.line: rating.score for rating in ratings}.items() >= {1: 3, 2: 3}.items()
    assert {(rating.model, rating.source) for rating in ratings} == {("weak", ComparisonSource.JUDGE)}
    assert comparisons_of(database) == []


def test_health_tells_a_judge_that_leans_from_one_that_agrees_with_gold(database: Database) -> None:
    settings = judging()
    batch_id = paired_batch(database, settings, PAIRS[:6])
    asked = ask(database, settings, batch_id)
    # Of six pairs: two for strong, one for weak, two for what stands first, one that is half read.
    said = ["[[A]]", "[[B]]", "[[A]]", "[[B]]", "[[B]]", "[[A]]", "[[A]]", "[[A]]", "[[A]]", "[[A]]", "[[A]]", "?"]
    reply(database, asked.batch_id, said)
    collect_judgements(database)
    with database.transaction() as session:
        lines = session.scalars(select(Judgement.parent_line).order_by(Judgement.line)).all()[::2]
        prompts = {row.line: row.prompt for row in session.scalars(select(Comparison))}
        gold = dict(zip(lines, (1.0, 0.0, 0.0, 0.5), strict=False))
        outcomes = [PairOutcome(batch_id, n, prompts[n], "strong", "weak", outcome) for n, outcome in gold.items()]
        keep_comparisons(session, ComparisonSource.GOLDEN, outcomes)
        session.execute(
            text(
                "update comparisons set model_a = 'weak', model_b = 'strong', outcome = 1 - outcome"
                " where source = 'golden' and outcome = 0"
            )
        )  # as an import may say it
        (health,) = judge_health(session)
    assert (health.judge, health.template, health.calls) == ("referee", "pairwise-v1", 12)
    assert health.verdicts == {"a": 8, "b": 3, "unparsed": 1}
    shares = {
        "unparsed": (health.unparsed, 12, 1 / 12),
        "swap": (health.swap_agreement, 5, 3 / 5),
        "first": (health.first_preferred, 10, 7 / 10),
        "golden": (health.golden_agreement, 4, 3 / 4),
        "decided": (health.golden_decided, 3, 2 / 3),
    }
    for name, (actual, n, share) in shares.items():
        assert actual.n == n, name
        assert actual.mean == pytest.approx(share), name
    low, high = health.golden_agreement.interval
    assert low < 3 / 4 < high


def test_what_cannot_be_asked_is_refused(database: Database) -> None:
    settings = judging()
    batch_id = paired_batch(database, settings, PAIRS[:1])
    tight = settings.model_copy(update={"limits": settings.limits.model_copy(update={"max_line_bytes": 100})})
    for wish, told, reason in (
        ({"batch_id": "batch_x"}, settings, "no batch"),
        ({}, tight, "1 too long"),
        ({"mode": "score", "references": {"c-7": "x"}}, settings, "reference answer"),
    ):
        with pytest.raises(DataError, match=reason):
            ask(database, told, **({"batch_id": batch_id} | wish))
    with pytest.raises(ConfigurationError, match=r"learning\.judge"):
        ask(database, make_settings(), batch_id)
    with pytest.raises(ConfigurationError, match="pairwise-v1"):
        ask(database, judging(template="score-v1"), batch_id)
