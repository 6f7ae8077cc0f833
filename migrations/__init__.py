"""The schema of the database, by alembic."""
