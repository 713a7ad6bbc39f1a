"""Trainings of assistants as jobs."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "r0006"
down_revision = "r0005"


def upgrade() -> None:
    """Create the table of `server.tables.training_jobs`."""
    op.create_table(
        "training_jobs",
        sa.Column(
            "job_number",
            sa.Integer,
            sa.ForeignKey("jobs.number", ondelete="CASCADE"),
            primary_key=True,
        ),
        sa.Column("assistant_id", sa.String(64), nullable=False, index=True),
        sa.Column("payload", sa.Text, nullable=False),
    )
