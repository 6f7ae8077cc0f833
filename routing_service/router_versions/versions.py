"""Router versions: fitted routers by number, which of them is active, and which was before it.

A version is a candidate until it is promoted, active until another one is, retired from then on. Every change is a row
of `promotions`, which is only added to: each knows the row beneath it, so that `rollback` goes one back however often
it is called. With none active the built-in router serves. Changes wait for each other.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import func, select, text, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from routing_service.db import lock
from routing_service.errors import ConflictError, NotFoundError
from routing_service.models import Promotion, RouterVersion, VersionState

REST_S = 300  # what could not be loaded is left alone for so long
LONGEST_FAILURE = 500  # characters of it that are kept
_NAME = re.compile(r"version-([1-9][0-9]{0,17})")

_TO_SERVE = text(
    "select version.id, coalesce(version.failed_at > now() - make_interval(secs => :rest), false) as rests"
    " from (select router_version_id, beneath_id from promotions order by id desc limit 1) promotion"
    " left join promotions beneath on beneath.id = promotion.beneath_id"
    " join router_versions version on version.id in (promotion.router_version_id, beneath.router_version_id)"
    " where promotion.router_version_id is not null order by version.id = promotion.router_version_id desc"
)


def version_name(number: int) -> str:
    """How batches and commands name a version."""
    return f"version-{number}"


def version_number(name: str) -> int | None:
    """The number in a version's name; None for any other name."""
    match = _NAME.fullmatch(name)
    return int(match[1]) if match else None


def register(session: Session, *, method: str, artifact: str, details: Mapping[str, Any]) -> int:
    """Add a candidate and return its number; an artifact that is there already keeps its number and its state.

    `artifact`: the hash that `ArtifactStore.put` gave. `details`: what it was fitted on, as JSON.
    """
    values = {"method": method, "artifact": artifact, "details": dict(details)}
    adding = insert(RouterVersion).values(values).on_conflict_do_nothing(index_elements=["artifact"])
    number = session.scalar(adding.returning(RouterVersion.id))
    if number is None:
        number = session.scalars(select(RouterVersion.id).where(RouterVersion.artifact == artifact)).one()
    return number


def find(session: Session, number: int) -> RouterVersion:
    """The version of that number. NotFoundError (`router_not_found`) where there is none."""
    version = session.get(RouterVersion, number, populate_existing=True)
    if version is None:
        raise NotFoundError(f"There is no router {version_name(number)!r}.", code="router_not_found", param="router")
    return version


def active(session: Session) -> RouterVersion | None:
    """The version that serves; None: the built-in router does."""
    query = select(RouterVersion).where(RouterVersion.state == VersionState.ACTIVE)
    return session.scalar(query.execution_options(populate_existing=True))


def to_serve(session: Session) -> list[tuple[int, bool]]:
    """The versions that may serve, the active one and then the one before it; of each whether it rests, as it could
    lately not be loaded. Empty while the built-in router serves."""
    return [(row.id, row.rests) for row in session.execute(_TO_SERVE, {"rest": REST_S})]


def history(session: Session) -> Sequence[Promotion]:
    """Every change of what is active, the newest first."""
    return session.scalars(select(Promotion).order_by(Promotion.id.desc())).all()


def one_at_a_time(session: Session) -> None:
    """Keep what is active until the transaction ends: for who decides by it, then promotes."""
    lock(session, "promotions")


def promote(session: Session, number: int, reason: str) -> bool:
    """Make a version the active one, whichever was. False where it is already. NotFoundError where there is none."""
    one_at_a_time(session)
    version = find(session, number)
    if version.state is VersionState.ACTIVE:
        return False
    top = _top(session)
    _activate(session, version)
    version.failed_at = version.failure = None  # it gets a new chance on every host
    session.add(Promotion(router_version_id=number, beneath_id=top.id if top else None, reason=reason))
    session.flush()
    return True


def rollback(session: Session, reason: str = "rollback") -> int | None:
    """Go back to the version that was active before; its number, or None: to the built-in router.

    ConflictError (`nothing_to_roll_back`) where the built-in router serves.
    """
    one_at_a_time(session)
    top = _top(session)
    if top is None or top.router_version_id is None:
        raise ConflictError("No router version is active: the built-in one serves.", code="nothing_to_roll_back")
    beneath = session.get(Promotion, top.beneath_id) if top.beneath_id else None
    number = beneath.router_version_id if beneath else None
    _activate(session, None if number is None else find(session, number))
    further = beneath.beneath_id if beneath else None
    session.add(Promotion(router_version_id=number, beneath_id=further, rolled_back=True, reason=reason))
    session.flush()
    return number


def note_failure(session: Session, number: int, failure: str) -> None:
    """Keep that a version could not be loaded somewhere, and why."""
    values = {"failed_at": func.clock_timestamp(), "failure": failure[:LONGEST_FAILURE]}
    session.execute(update(RouterVersion).where(RouterVersion.id == number).values(values))


def _now(session: Session) -> datetime:
    """The time it is: the transaction may have waited for another's change."""
    now: datetime = session.scalars(select(func.clock_timestamp())).one()
    return now


def _top(session: Session) -> Promotion | None:
    return session.scalar(select(Promotion).order_by(Promotion.id.desc()).limit(1))


def _activate(session: Session, version: RouterVersion | None) -> None:
    """The old one first: the database allows but one."""
    old = active(session)
    if old is not None:
        old.state, old.retired_at = VersionState.RETIRED, _now(session)
        session.flush()
    if version is not None:
        version.state, version.activated_at, version.retired_at = VersionState.ACTIVE, _now(session), None
        session.flush()
