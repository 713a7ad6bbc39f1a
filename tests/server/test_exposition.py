"""What /metrics shows where several API servers share the work."""

from __future__ import annotations

import asyncio

import httpx
import pytest
from starlette.responses import PlainTextResponse

from server.exposition import MULTIPROCESS_ENV, with_worker_facts
from server.metrics.workers import WorkerFacts


async def get(path):
    inner = PlainTextResponse("vLLM's own")
    app = with_worker_facts(inner, lambda: WorkerFacts(blocked_tokens=3))
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://server") as client:
        return (await client.get(path)).text


@pytest.mark.parametrize(
    ("path", "shared", "expected"),
    [
        ("/metrics", True, "lethegate_blocked_tokens_total 3.0"),
        ("/metrics", False, "vLLM's own"),
        ("/health", True, "vLLM's own"),
    ],
)
def test_worker_counters_are_shown_by_any_api_server(monkeypatch, tmp_path, path, shared, expected):
    """Only /metrics, and only where vLLM answers from the files of several processes."""
    monkeypatch.delenv(MULTIPROCESS_ENV, raising=False)
    if shared:
        monkeypatch.setenv(MULTIPROCESS_ENV, str(tmp_path))

    assert expected in asyncio.run(get(path))
