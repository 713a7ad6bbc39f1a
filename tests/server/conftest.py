"""Gateways on loopback, each between a fake engine and a guard with fixed rules; a tiny model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client import CollectorRegistry
from starlette.types import ASGIApp

from server.audit.opening import open_audit
from server.audit.writer import AuditWriter
from server.auth import KeyRing, Role
from server.gateway import Gateway
from server.guarding import Engine
from server.keys.counters import Counters
from server.keys.limits import Limiter
from server.metrics.gateway import GatewayMetrics
from server.nodes.standing import NodeGate
from server.settings import Settings
from server.statistics.tally import TargetTally
from server.telemetry import Telemetry
from tests.server.fake_vllm import FakeVllm
from tests.server.loopback import serve
from tests.server.rule_guard import RuleGuard


@dataclass
class Stack:
    """A running gateway with everything around it."""

    vllm: FakeVllm
    guard: RuleGuard
    registry: CollectorRegistry
    url: str
    http: httpx.Client
    counters: Counters
    audit: AuditWriter

    def chat(self, text: str = "hi", **fields: Any) -> httpx.Response:
        """POST a chat."""
        body = {"model": "demo", "messages": [{"role": "user", "content": text}], **fields}
        return self.http.post("/v1/chat/completions", json=body)

    def complete(self, prompt: Any = "hi", **fields: Any) -> httpx.Response:
        """POST a completion."""
        return self.http.post("/v1/completions", json={"model": "demo", "prompt": prompt, **fields})

    def count(self, metric: str, **labels: str) -> float:
        """A metric's value."""
        return self.registry.get_sample_value(metric, labels) or 0.0


StartStack = Callable[..., Stack]


@pytest.fixture
def start_stack(tmp_path: Any) -> Iterator[StartStack]:
    """Starts gateways on loopback ports, each before its own fake engine."""
    stopping: list[Callable[[], None]] = []

    def start(
        keys: dict[str, Role] | None = None,
        keyring: KeyRing | None = None,
        guard: Any = None,
        node: NodeGate | None = None,
        tally: TargetTally | None = None,
        telemetry: Telemetry | None = None,
        around: Callable[[FakeVllm, GatewayMetrics], ASGIApp] | None = None,
        **settings: Any,
    ) -> Stack:
        vllm, registry = FakeVllm(), CollectorRegistry()
        guard = guard or RuleGuard()
        counters = Counters(tmp_path / "keys")
        used = Settings(state_dir=tmp_path, **settings)
        audit = open_audit(used, (metrics := GatewayMetrics(registry)).audit)
        gateway = Gateway(
            around(vllm, metrics) if around else vllm.app(),
            settings=used,
            guard=guard,
            metrics=metrics,
            keys=keyring or KeyRing(keys or {}),
            engine=Engine("demo", vllm.vocabulary.decode),
            limiter=Limiter(counters),
            audit=audit,
            node=node,
            tally=tally,
            telemetry=telemetry,
        )
        url, stop = serve(gateway, log_level="error", ws="none")
        http = httpx.Client(base_url=url, timeout=60)
        stopping.extend((counters.close, audit.stop, stop, http.close))
        return Stack(vllm, guard, registry, url, http, counters, audit)

    yield start
    for stop in reversed(stopping):
        stop()


@pytest.fixture
def stack(start_stack: StartStack) -> Stack:
    """One gateway with default settings."""
    return start_stack()


@pytest.fixture(scope="session")
def byte_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a model of two layers of random weights over bytes."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("byte-model")
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: number for number, token in enumerate(["<end>", *alphabet])}
    bytewise = Tokenizer(models.BPE(vocabulary, []))
    bytewise.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bytewise.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=bytewise, eos_token="<end>").save_pretrained(folder)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 8}
    config = LlamaConfig(vocab_size=len(vocabulary), eos_token_id=0, **sizes, **heads)
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder
