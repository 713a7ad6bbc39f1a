"""What gateways counted of each target."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "r0009"
down_revision = "r0008"


def upgrade() -> None:
    """Create the tables of the statistics."""
    op.create_table(
        "target_statistics",
        sa.Column(
            "target_id",
            sa.String(64),
            sa.ForeignKey("targets.id", ondelete="CASCADE"),
            primary_key=True,
        ),
        sa.Column("source", sa.String(64), primary_key=True),
        sa.Column("counts", sa.JSON, nullable=False),
    )
    op.create_table(
        "request_statistics",
        sa.Column("source", sa.String(64), primary_key=True),
        sa.Column("counts", sa.JSON, nullable=False),
    )
