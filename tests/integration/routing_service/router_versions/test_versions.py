"""Router versions on a real database: registered once, promoted, rolled back, one active at most."""

from __future__ import annotations

import threading

import pytest
from sqlalchemy.orm import Session

from routing_service.db import Database
from routing_service.errors import ConflictError, NotFoundError
from routing_service.models import RouterVersion
from routing_service.router_versions.versions import (
    active,
    find,
    history,
    note_failure,
    promote,
    register,
    rollback,
    version_name,
    version_number,
)


def registered(session: Session, number: int) -> int:
    return register(session, method="gain", artifact=f"{number:064x}", details={"seed": number})


def three(database: Database) -> list[int]:
    with database.transaction() as session:
        return [registered(session, n) for n in (1, 2, 3)]


def serving(database: Database) -> int | None:
    with database.transaction() as session:
        version = active(session)
        return version.id if version else None


def states(database: Database) -> list[str]:
    with database.transaction() as session:
        return [str(version.state) for version in session.query(RouterVersion).order_by(RouterVersion.id)]


def test_a_registered_version_is_a_candidate_and_its_artifact_counts_once(database: Database) -> None:
    first, second, _ = three(database)
    with database.transaction() as session:
        assert register(session, method="gain", artifact=f"{1:064x}", details={}) == first
        version = find(session, first)
        assert (version.state, version.details, version.activated_at) == ("candidate", {"seed": 1}, None)
        assert active(session) is None
        assert promote(session, second, "first")
        assert registered(session, 2) == second
        assert find(session, second).state == "active"
        with pytest.raises(NotFoundError, match="version-99"):
            find(session, 99)


def test_promotions_are_rolled_back_one_by_one_down_to_the_built_in_router(database: Database) -> None:
    one, two, three_ = three(database)
    with database.transaction() as session:
        for number in (one, two, three_):
            assert promote(session, number, f"better {number}")
    assert states(database) == ["retired", "retired", "active"]
    seen = []
    for _ in range(3):
        with database.transaction() as session:
            rollback(session)
        seen.append(serving(database))
    assert seen == [two, one, None]
    with database.transaction() as session, pytest.raises(ConflictError, match="built-in one serves"):
        rollback(session)
    with database.transaction() as session:
        rows = [(row.router_version_id, row.rolled_back, row.reason) for row in history(session)]
    back = [(n, True, "rollback") for n in (None, one, two)]
    assert rows == back + [(n, False, f"better {n}") for n in (three_, two, one)]


def test_a_promotion_after_a_rollback_goes_back_to_what_served_in_between(database: Database) -> None:
    one, two, three_ = three(database)
    with database.transaction() as session:
        promote(session, one, "")
        promote(session, two, "")
        rollback(session)
        promote(session, three_, "")
        assert rollback(session) == one
        promote(session, two, "again")  # it was active before
        assert find(session, two).retired_at is None
        assert rollback(session) == one
        assert rollback(session) is None
        promote(session, three_, "")
        assert rollback(session) is None


def test_promoting_what_is_active_changes_nothing(database: Database) -> None:
    one, *_ = three(database)
    with database.transaction() as session:
        assert promote(session, one, "")
        assert not promote(session, one, "")
        assert len(history(session)) == 1
        with pytest.raises(NotFoundError):
            promote(session, 99, "")


def test_a_promotion_forgives_an_earlier_failure_to_load(database: Database) -> None:
    one, *_ = three(database)
    with database.transaction() as session:
        note_failure(session, one, "x" * 1000)
    with database.transaction() as session:
        version = find(session, one)
        assert version.failed_at is not None
        assert version.failure == "x" * 500
    with database.transaction() as session:
        promote(session, one, "mended")
        version = find(session, one)
        assert version.failed_at is None
        assert version.failure is None


def test_two_promotions_at_once_follow_each_other(database: Database) -> None:
    one, two, three_ = three(database)
    with database.transaction() as session:
        promote(session, one, "")
    together, errors = threading.Barrier(2), list[Exception]()

    def run(number: int) -> None:
        together.wait()
        try:
            with database.transaction() as session:
                find(session, one)  # known to this session before it waits
                promote(session, number, "")
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(number,)) for number in (two, three_)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    last = serving(database)
    assert last in (two, three_)
    with database.transaction() as session:
        assert history(session)[0].router_version_id == last
        assert {rollback(session), last} == {two, three_}
        assert rollback(session) == one


@pytest.mark.parametrize("name", ["version-0", "version-01", "version-", "version--1", "Version-1", "version-1\n", "1"])
def test_other_names_are_no_versions(name: str) -> None:
    assert version_number(name) is None


def test_a_version_has_a_name() -> None:
    assert version_number(version_name(12)) == 12
