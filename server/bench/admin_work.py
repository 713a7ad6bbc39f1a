"""Load on the admin API: what operators and their tools do, at a fixed pace."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from typing import Any

import httpx
import numpy as np

from server.bench.admin_job import job_done
from server.bench.errors import BenchError
from server.bench.invented import invented_target
from server.bench.servers import GuardedLaunch

KINDS = ("list", "check", "registration")
_PAIRS = 20


class AdminWork:
    """Lists, checks and registrations; remembers how long each took."""

    def __init__(self, launch: GuardedLaunch, rate: float) -> None:
        self._launch, self._pause = launch, 1 / rate
        self._abandoned = threading.Event()
        self._seconds: dict[str, list[float]] = {kind: [] for kind in KINDS}
        self._number = 0

    async def run(self, enough: threading.Event) -> None:
        """Work until it is enough; a registration that has begun is withdrawn first.

        Raises:
            BenchError: a request was refused, or a job failed.
        """
        async with asyncio.TaskGroup() as group:
            for work in (self._list, self._check):
                group.create_task(asyncio.to_thread(self._repeat, work, enough))
            group.create_task(asyncio.to_thread(self._register, enough))

    def abandon(self) -> None:
        """End as soon as possible."""
        self._abandoned.set()

    def figures(self) -> dict[str, Any]:
        """How much was asked for, and how long it took; flat."""
        found: dict[str, Any] = {}
        for kind, seconds in self._seconds.items():
            found[f"{kind}s"] = len(seconds)
            if seconds:
                found[f"{kind}_ms_p50"] = round(1e3 * float(np.percentile(seconds, 50)), 2)
                found[f"{kind}_ms_p99"] = round(1e3 * float(np.percentile(seconds, 99)), 2)
        return found

    def _repeat(self, work: Any, enough: threading.Event) -> None:
        headers = {"authorization": f"Bearer {self._launch.admin_key}"}
        with httpx.Client(headers=headers, trust_env=False, timeout=60) as http:
            due = time.monotonic()
            while not (enough.is_set() or self._abandoned.is_set()):
                begun = time.perf_counter()
                kind = work(http)
                self._seconds[kind].append(time.perf_counter() - begun)
                due = max(due + self._pause, time.monotonic())
                enough.wait(due - time.monotonic())

    def _list(self, http: httpx.Client) -> str:
        _good(http.get(f"{self._launch.admin_url}/admin/v1/targets", params={"limit": "100"}))
        return "list"

    def _check(self, http: httpx.Client) -> str:
        self._number += 1
        text = f"Does the operator know whether harbour {self._number} has a lighthouse?"
        _good(http.post(f"{self._launch.base_url}/v1/checks", json={"text": text}))
        return "check"

    def _register(self, enough: threading.Event) -> None:
        number = 0
        while not (enough.is_set() or self._abandoned.is_set()):
            number += 1
            document = invented_target(f"admin-load-{number}", _PAIRS, seed=number)
            with self._launch.admin() as admin:
                begun = time.perf_counter()
                job_done(admin, admin.register(document), self._abandoned)
                self._seconds["registration"].append(time.perf_counter() - begun)
                withdrawn = admin.withdraw(json.loads(document)["id"])
                job_done(admin, withdrawn, self._abandoned)


def _good(response: httpx.Response) -> None:
    if response.is_error:
        raise BenchError(f"the admin API answered {response.status_code}")
