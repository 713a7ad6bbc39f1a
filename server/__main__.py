"""`python -m server`: the same as the `lethegate` command."""

from __future__ import annotations

from server.cli import main

main()
