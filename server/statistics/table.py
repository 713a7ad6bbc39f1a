"""The tables of the statistics: what each gateway counted, last it was heard of.

The source `""` holds what ended gateways counted, `node:` and a name what a node told of its own.
"""

from __future__ import annotations

from sqlalchemy import JSON, Column, ForeignKey, String, Table

from server.tables import metadata

target_statistics = Table(
    "target_statistics",
    metadata,
    Column("target_id", ForeignKey("targets.id", ondelete="CASCADE"), primary_key=True),
    Column("source", String(64), primary_key=True),
    # Numbers by name (`server.statistics.counts`).
    Column("counts", JSON, nullable=False),
)

request_statistics = Table(
    "request_statistics",
    metadata,
    Column("source", String(64), primary_key=True),
    Column("counts", JSON, nullable=False),
)
