"""When a revision of a target was made."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "r0005"
down_revision = "r0004"


def upgrade() -> None:
    """Older revisions do not know."""
    op.add_column("versions", sa.Column("created_at", sa.Double))
