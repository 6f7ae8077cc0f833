"""The schema: up, down, up again; and it equals the models."""

from __future__ import annotations

import pytest
from alembic import command
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from migrations.runner import configuration, downgrade, revisions, upgrade
from routing_service.db import Database


def test_schema_goes_down_and_up_again(database_url: str) -> None:
    downgrade(database_url)
    assert revisions(database_url)[0] is None
    upgrade(database_url)
    current, head = revisions(database_url)
    assert current == head


def test_downgrade_leaves_nothing_behind(database_url: str, database: Database) -> None:
    downgrade(database_url)
    with database.transaction() as session:
        left = session.execute(
            text(
                "select relname from pg_class c join pg_namespace n on n.oid = c.relnamespace where nspname = 'public'"
                " and relkind in ('r', 'v', 'S') union all select typname from pg_type t join pg_namespace n"
                " on n.oid = t.typnamespace where nspname = 'public' and typtype = 'e'"
                " union all select proname from pg_proc p join pg_namespace n on n.oid = p.pronamespace"
                " where nspname = 'public'"
            )
        ).scalars()
        assert set(left) == {"alembic_version"}


def test_schema_equals_the_models(database_url: str) -> None:
    command.check(configuration(database_url))


def test_views_carry_comments(database: Database) -> None:
    with database.transaction() as session:
        for view in ("cost_by_batch", "cost_by_model_day", "savings_by_batch", "cost_by_key_period"):
            assert session.scalar(text("select obj_description(cast(:v as regclass))"), {"v": view})


def test_ledger_refuses_to_be_changed(database: Database) -> None:
    with pytest.raises(IntegrityError, match="append-only"), database.transaction() as session:
        session.execute(text("truncate ledger_entries"))
