"""Alembic's entry: runs revisions in the transaction that it is given."""

from __future__ import annotations

from alembic import context

# SQLite can change little of a table in place: Alembic then copies it into a new one.
context.configure(connection=context.config.attributes["connection"], render_as_batch=True)
context.run_migrations()
