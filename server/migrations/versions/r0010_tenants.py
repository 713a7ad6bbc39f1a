"""Whose targets and jobs they are."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "r0010"
down_revision = "r0009"


def upgrade() -> None:
    """Add the tenant to both; what there is stays everybody's."""
    op.add_column("targets", sa.Column("tenant", sa.String(64)))
    op.create_index("ix_targets_tenant", "targets", ["tenant"])
    op.add_column("jobs", sa.Column("tenant", sa.String(64)))
