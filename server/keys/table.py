"""The tables of the API keys.

api_keys ──< api_key_secrets    one, and two while a rotation is under way
"""

from __future__ import annotations

from sqlalchemy import JSON, Boolean, Column, Double, ForeignKey, Integer, String, Table

from server.tables import metadata

# Names in `meta`: the number of changes so far, and that clients have needed a key ever since.
REVISION, REQUIRED = "api_keys_revision", "api_keys_required"

# Times are seconds since the epoch, UTC.
api_keys = Table(
    "api_keys",
    metadata,
    Column("id", String(32), primary_key=True),
    # Insertion order, for pages.
    Column("number", Integer, nullable=False, unique=True),
    Column("revision", Integer, nullable=False),
    Column("name", String(128), nullable=False),
    Column("role", String(16), nullable=False),
    Column("disabled", Boolean, nullable=False),
    Column("expires_at", Double),
    # Which targets apply, and how much may be asked for (`server.keys.schemas`).
    Column("scope", JSON, nullable=False),
    Column("limits", JSON, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("updated_at", Double, nullable=False),
)

api_key_secrets = Table(
    "api_key_secrets",
    metadata,
    # SHA-256 of the key, in hex.
    Column("digest", String(64), primary_key=True),
    Column("key_id", ForeignKey("api_keys.id", ondelete="CASCADE"), nullable=False, index=True),
    # The key's first characters, to recognise it by.
    Column("prefix", String(16), nullable=False),
    Column("created_at", Double, nullable=False),
    Column("expires_at", Double),
)
