"""Changing the key that the store is sealed with, while it is in use.

Every process must know both keys by then: a new one first in the key file, a restart, then this.
"""

from __future__ import annotations

from sqlalchemy import Connection

from server.database import Database
from server.migration import require_head
from server.seal import check_key, reseal, seal_of
from server.sealing import Vault


def rotate(url: str, vault: Vault) -> int:
    """Seal everything with the vault's first key; gives how many rows.

    Raises:
        StartFault: none of the keys is the store's, or it cannot be opened.
        StoreVersionError: another version of Lethegate wrote it.
    """
    count = 0

    def prepare(connection: Connection) -> None:
        nonlocal count
        require_head(connection)
        check_key(seal_of(connection), vault)
        count = reseal(connection, vault)

    database = Database(url, vault, prepare=prepare)
    database.scrub()
    database.close()
    return count
