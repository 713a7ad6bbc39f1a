"""The bench of distribution, small."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from rich.progress import Progress

from server.bench import nodes as module
from server.bench.nodes import NodesPlan, bench_nodes


def test_a_policy_reaches_every_node(monkeypatch: pytest.MonkeyPatch) -> None:
    """Real processes, real HTTP; the figures are there and make sense."""
    bytes_only = SimpleNamespace(tokens=[bytes([byte]) for byte in range(256)])
    monkeypatch.setattr(module, "tekken", lambda: bytes_only)
    with Progress(disable=True) as progress:
        figures = bench_nodes(NodesPlan(phrases=20, nodes=1, repetitions=3), progress)

    assert figures["nodes"] == 1
    assert figures["snapshot_mb"] > 0
    assert 0 < figures["local_s_min"] <= figures["local_s"]
    assert 0 < figures["distribution_s_min"] <= figures["distribution_s_max"] < 60
