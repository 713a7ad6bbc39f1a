"""The table of nodes."""

from __future__ import annotations

from sqlalchemy import JSON, Boolean, Column, Double, String, Table

from server.tables import metadata

# Times are seconds since the epoch, UTC, by the control process's clock.
nodes = Table(
    "nodes",
    metadata,
    Column("id", String(64), primary_key=True),
    # Which of several processes that call themselves so, and the key it came with first.
    Column("instance", String(32), nullable=False),
    Column("key_id", String(64), nullable=False),
    Column("fenced", Boolean, nullable=False),
    # What it said last (`server.nodes.wire.NodeReport`).
    Column("report", JSON, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("seen_at", Double, nullable=False),
)
