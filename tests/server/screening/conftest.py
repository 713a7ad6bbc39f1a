"""Screening in one API process, off the event loop, with an encoder of hashes."""

import asyncio
import hashlib
import threading
import time

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from detectors.targets import Example, ForgetTarget
from guard.compiler import compile_policy
from guard.follower import ActivePointer
from guard.vocabulary import Vocabulary
from server import screening as module
from server.metrics.gateway import GatewayMetrics
from server.screening import Screening
from server.settings import Settings

VOCABULARY = Vocabulary([None, *(bytes([b]) for b in range(256))])


class HashEncoder:
    """Equal texts have equal vectors; counts its calls and can be made to wait or to fail."""

    id = "hash-encoder"
    dimension = 64
    device, on_gpu = "cpu", False

    def __init__(self):
        self.batches, self.fail = [], False
        self.gate = threading.Event()
        self.gate.set()

    def encode(self, texts):
        self.gate.wait(60)
        if self.fail:
            raise RuntimeError("a secret text")
        self.batches.append(list(texts))
        rows = [
            np.frombuffer(hashlib.sha512(t.encode("utf-8", "replace")).digest(), np.uint8)
            for t in texts
        ]
        vectors = np.array(rows, np.float32).reshape(len(texts), 64) - 127.5
        return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture
def encoder(monkeypatch):
    made = HashEncoder()
    monkeypatch.setattr(module, "load_encoder", lambda *a, **k: made)
    return made


@pytest.fixture
def settings(tmp_path):
    return Settings(state_dir=tmp_path)


@pytest.fixture
def activate(settings, encoder):
    def activate_targets(generation, *targets):
        policy = compile_policy(
            targets,
            encoder=HashEncoder(),
            vocabulary=VOCABULARY,
            snapshots=settings.snapshots,
            alpha=0.01,
            progress=lambda *a: None,
        )
        ActivePointer(settings.state_dir).publish(generation, policy.digest)

    return activate_targets


@pytest.fixture
def screening(settings, encoder):
    made = Screening(settings)
    made.start(GatewayMetrics(CollectorRegistry(), made.worker_facts))
    yield made
    encoder.gate.set()


@pytest.fixture
def target():
    """A target that is about the prompt."""
    example = Example("Who wrote the Salt Ledger?", "Ilse Moreau wrote it.")
    return lambda name="salt": ForgetTarget(name, examples=(example,))


@pytest.fixture
def wait_for():
    def wait(condition, seconds=60.0):
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, "timed out"
            time.sleep(0.01)

    return wait


@pytest.fixture
def wait_for_generation(wait_for):
    def wait(screening, generation):
        wait_for(lambda: (p := screening.current()) is not None and p.generation == generation)

    return wait


@pytest.fixture
def screen():
    """Decide about texts, and wait for it."""
    return lambda screening, *texts: asyncio.run(screening.screen(texts))


@pytest.fixture
def put_in_force(screening, activate, wait_for_generation):
    """Activate targets, and wait until they rule."""

    def put(generation, *targets):
        activate(generation, *targets)
        wait_for_generation(screening, generation)

    return put
