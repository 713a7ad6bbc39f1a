"""`/metrics` where several API servers share the work (`--api-server-count`).

vLLM then answers from the files in which every process keeps its metrics. What the logits
processors count is in no such file but in their ledgers, which any API server can read.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from prometheus_client import CollectorRegistry, make_asgi_app
from prometheus_client.multiprocess import MultiProcessCollector
from starlette.types import ASGIApp, Receive, Scope, Send

from server.endpoints import routed_path
from server.metrics.workers import WorkerCollector, WorkerFacts

MULTIPROCESS_ENV = "PROMETHEUS_MULTIPROC_DIR"


def with_worker_facts(app: ASGIApp, facts: Callable[[], WorkerFacts]) -> ASGIApp:
    """The app, answering /metrics itself where metrics are kept by several processes."""
    if MULTIPROCESS_ENV not in os.environ:
        return app
    registry = CollectorRegistry()
    MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    registry.register(WorkerCollector(facts))
    metrics = make_asgi_app(registry)

    async def serve(scope: Scope, receive: Receive, send: Send) -> None:
        is_metrics = scope["type"] == "http" and routed_path(scope) == "/metrics"
        await (metrics if is_metrics else app)(scope, receive, send)

    return serve
