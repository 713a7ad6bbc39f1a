"""How the store's schema came to be what it is: one revision after the other, for Alembic.

`server.migration` runs them at the start of every process that opens the store. A revision is
written by hand, in `versions/`, beside the change in `server.tables` that it leads to; a test
compares the two on SQLite and on PostgreSQL. Revisions are numbered r0001, r0002, ..., in one line
without branches.
"""
