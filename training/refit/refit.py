"""A re-fit: fit routers on all comparisons, judge them on what came last, and let the gate decide which one serves.

    snapshot -> fit every method -> measure beside what serves -> gate -> register, and promote or not

Nothing counts before the last step, which is one transaction: versions, their evaluations, the promotion and the end of
this re-fit's row. Artifacts are in the store by then; one that no version names is nothing. So a re-fit that is killed
leaves a row that says it ran, and no more.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from routing_service.db import Database
from routing_service.errors import LeaseLostError, RoutebatchError
from routing_service.models import Evaluation, Refit, RefitOutcome, RefitTrigger, VersionState
from routing_service.router_versions.artifact_store import ArtifactStore
from routing_service.router_versions.versions import active, find, one_at_a_time, promote, register, version_name
from routing_service.settings import Settings
from training.evaluate.benchmark_sets import Benchmark
from training.progress import Progress, silent
from training.refit.candidates import fingerprint_of, known_methods, load_benchmarks
from training.refit.challenge import Challenge, hold
from training.refit.champion import Champion, champion
from training.refit.drift import traffic_similarity
from training.refit.record import COMPARED, begin, end, levels, note, only_one
from training.refit.snapshot import Snapshot, take_snapshot

UNCHANGED = "nothing is new since the last re-fit: it would end the same"
OVERTAKEN = "what serves was changed meanwhile, and the candidate was not compared with that"

__all__ = ["Refitted", "refit"]


@dataclass(frozen=True, slots=True)
class Refitted:
    """What came of a re-fit. `version_ids`: its candidates', the best first. `id`: of its row; a dry run has none."""

    outcome: RefitOutcome
    reason: str
    id: int | None = None
    rows: int | None = None
    fingerprint: str | None = None
    version_ids: list[int] = field(default_factory=list)
    figures: dict[str, Any] = field(default_factory=dict)


def refit(
    database: Database,
    settings: Settings,
    *,
    trigger: RefitTrigger,
    asked: str | None = None,
    progress: Progress = silent,
    dry_run: bool = False,
) -> Refitted | None:
    """Run one; None where another one runs. `asked`: what asked for it, in words. `dry_run`: nothing is kept.

    Too little data, or a configuration that is wrong, is the outcome `failed`. What is a mistake of ours is recorded as
    that, and raised.
    """
    with only_one(database) as alone:
        if not alone:
            return None
        number = None if dry_run else begin(database, trigger)
        try:
            return _Run(database, settings, number, trigger, asked, progress).result()
        except LeaseLostError as error:
            return Refitted(RefitOutcome.DIED, str(error), number)
        except RoutebatchError as error:
            return _failed(database, number, str(error))
        except BaseException as error:
            _failed(database, number, f"{type(error).__name__}: {error}")
            raise


def _failed(database: Database, number: int | None, reason: str) -> Refitted:
    if number is not None:
        try:
            with database.transaction() as session:
                end(session, number, RefitOutcome.FAILED, reason)
        except LeaseLostError as error:  # it is written down as died already
            return Refitted(RefitOutcome.DIED, f"{error}; before that: {reason}", number)
    return Refitted(RefitOutcome.FAILED, reason, number)


@dataclass(frozen=True, slots=True)
class _Run:
    database: Database
    settings: Settings
    number: int | None  # of its row; None: nothing is kept
    trigger: RefitTrigger
    asked: str | None
    progress: Progress

    def result(self) -> Refitted:
        known_methods(self.settings)
        # Refused before the fit is what would be refused after it.
        store = None if self.number is None else ArtifactStore.of(self.settings)
        snapshot = take_snapshot(self.database, self.settings, self.progress)
        rows, fingerprint = len(snapshot.comparisons), snapshot.fingerprint()
        if self.number is not None:
            note(self.database, self.number, rows=rows, fingerprint=fingerprint, last_comparison_id=snapshot.ids[1])
        benchmarks = load_benchmarks(self.settings, snapshot.pair)
        now = champion(self.database, self.settings)
        basis = self._basis(snapshot, benchmarks)
        if self.number is not None and self.trigger is not RefitTrigger.MANUAL and self._is_known(basis, now):
            self._end_unchanged(basis, now, snapshot)
            return Refitted(RefitOutcome.UNCHANGED, UNCHANGED, self.number, rows, fingerprint)
        with tempfile.TemporaryDirectory(prefix="refit-") as temporary:
            challenge = hold(snapshot, now, benchmarks, self.settings, Path(temporary), self.progress)
            figures = challenge.figures | {"asked": self.asked, "similarity": self._similarity(snapshot)}
            if store is None:
                return Refitted(*_of(challenge), None, rows, fingerprint, figures=figures)
            artifacts = [store.put(candidate.directory) for candidate in challenge.candidates]
        outcome, reason, ids = self._keep(challenge, artifacts, now, basis, figures)
        return Refitted(outcome, reason, self.number, rows, fingerprint, ids, figures)

    def _keep(
        self, challenge: Challenge, artifacts: list[str], now: Champion, basis: str, figures: dict[str, Any]
    ) -> tuple[RefitOutcome, str, list[int]]:
        """All that a re-fit leaves, in one transaction."""
        assert self.number is not None
        outcome, reason = _of(challenge)
        with self.database.transaction() as session:
            one_at_a_time(session)
            ids = [
                self._register(session, challenge, place, artifact, reason) for place, artifact in enumerate(artifacts)
            ]
            against = _objection(session, ids[0], now) if outcome is RefitOutcome.PROMOTED else None
            if against is not None:
                outcome, reason = RefitOutcome.REFUSED, against
            promoted = outcome is RefitOutcome.PROMOTED
            if promoted:
                promote(session, ids[0], f"re-fit {self.number}: {reason}")
            figures["calibration"] = challenge.excess[0 if promoted else 1]
            serves = version_name(ids[0]) if promoted else now.name
            end(session, self.number, outcome, reason, version_ids=ids, figures=figures, basis=f"{basis} {serves}")
        return outcome, reason, ids

    def _register(self, session: Session, challenge: Challenge, place: int, artifact: str, reason: str) -> int:
        candidate = challenge.candidates[place]
        said = reason if place == 0 else f"{challenge.candidates[0].method} was the better candidate"
        details = {"refit": self.number, "reason": said, "metadata": candidate.metadata}
        number = register(session, method=candidate.method, artifact=artifact, details=details)
        session.add_all(
            Evaluation(router_version_id=number, dataset=name, fingerprint=fingerprint, metrics=metrics)
            for name, (fingerprint, metrics) in challenge.measured[place].evaluations.items()
        )
        return number

    def _basis(self, snapshot: Snapshot, benchmarks: Sequence[Benchmark]) -> str:
        """What decides, with the router that serves, how a re-fit ends."""
        learning = self.settings.learning
        told = [
            snapshot.fingerprint(),
            known_methods(self.settings),
            [learning.seed, learning.hold_out, learning.least_pairs, learning.benchmark_margin],
            learning.benchmark_similarity,
            [(benchmark.name, fingerprint_of(benchmark)) for benchmark in benchmarks],
        ]
        return sha256(json.dumps(told).encode()).hexdigest()

    def _is_known(self, basis: str, now: Champion) -> bool:
        with self.database.transaction() as session:
            compared = select(Refit.basis).where(Refit.outcome.in_(COMPARED)).order_by(Refit.id.desc()).limit(1)
            return session.scalar(compared) == f"{basis} {now.name}"

    def _end_unchanged(self, basis: str, now: Champion, snapshot: Snapshot) -> None:
        """What asked for it is usual from now on: asking again would change nothing."""
        assert self.number is not None
        is_usual = {"similarity": self._similarity(snapshot)} if self.trigger is RefitTrigger.DRIFT else {}
        with self.database.transaction() as session:
            figures = {**levels(session), **is_usual, "asked": self.asked}
            end(
                session,
                self.number,
                RefitOutcome.UNCHANGED,
                UNCHANGED,
                figures=figures,
                basis=f"{basis} {now.name}",
            )

    def _similarity(self, snapshot: Snapshot) -> float | None:
        with self.database.transaction() as session:
            return traffic_similarity(session, snapshot.ids[1])


def _of(challenge: Challenge) -> tuple[RefitOutcome, str]:
    outcome = RefitOutcome.PROMOTED if challenge.verdict.promote else RefitOutcome.REFUSED
    return outcome, "; ".join(challenge.verdict.reasons)


def _objection(session: Session, number: int, now: Champion) -> str | None:
    """Why a candidate that the gate lets through is not promoted after all."""
    serves = active(session)
    if (serves.id if serves else None) != now.active_id:
        return OVERTAKEN
    if find(session, number).state is VersionState.RETIRED:
        return f"{version_name(number)} is the same router, and it was retired: promote it by hand"
    return None
