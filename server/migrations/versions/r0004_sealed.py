"""Columns that may hold forget text become text, which can be sealed."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "r0004"
down_revision = "r0003"

_JSON = {
    "targets": (("summary", False), ("report", True)),
    "versions": (("document", False),),
    "corpora": (("settings", False),),
    "corpus_jobs": (("payload", False),),
}


def upgrade() -> None:
    """JSON stays as it is spelled; a document's source becomes a JSON string."""
    for table, columns in _JSON.items():
        with op.batch_alter_table(table) as batch:
            for name, nullable in columns:
                batch.alter_column(
                    name,
                    existing_type=sa.JSON,
                    existing_nullable=nullable,
                    type_=sa.Text,
                    postgresql_using=f"{name}::text",
                )
    quote = "json_quote(source)" if op.get_bind().dialect.name == "sqlite" else "to_json(source)"
    op.execute(sa.text(f"UPDATE corpus_documents SET source = {quote}"))  # noqa: S608
