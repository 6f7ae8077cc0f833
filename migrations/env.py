"""What alembic runs: migrations under an advisory lock, so that two hosts starting at once do not migrate together."""

from __future__ import annotations

from alembic import context
from sqlalchemy import create_engine, pool, text

from routing_service.models import Base

LOCK = 7_226_001  # any number, the same everywhere


def run() -> None:
    engine = create_engine(context.config.attributes["url"], poolclass=pool.NullPool)
    with engine.connect() as connection:
        connection.execute(text("set lock_timeout = '60s'"))
        connection.execute(text("select pg_advisory_lock(:key)"), {"key": LOCK})
        connection.commit()
        try:
            context.configure(connection=connection, target_metadata=Base.metadata, compare_server_default=True)
            with context.begin_transaction():
                context.run_migrations()
        finally:
            connection.rollback()
            connection.execute(text("select pg_advisory_unlock(:key)"), {"key": LOCK})
            connection.commit()
    engine.dispose()


run()
