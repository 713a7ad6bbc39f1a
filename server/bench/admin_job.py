"""A job of the admin API, followed to its good end."""

from __future__ import annotations

import threading
from typing import Any

from server.bench.errors import BenchError
from server.client import AdminClient

JOB_SECONDS = 600.0


def job_done(
    client: AdminClient, accepted: dict[str, Any], abandoned: threading.Event | None = None
) -> None:
    """Wait until the job of an accepted change is done, or until `abandoned` is set.

    Raises:
        BenchError: it failed, was not done in time, or is abandoned.
    """

    def look(_job: dict[str, Any]) -> None:
        if abandoned is not None and abandoned.is_set():
            raise BenchError("the bench was interrupted")

    job = client.wait(accepted["job"]["id"], JOB_SECONDS, look)
    if job["state"] != "done":
        code = (job["error"] or {}).get("code", "no code")
        raise BenchError(f"the {job['kind']} job is {job['state']} ({code})")
