"""Screening in one API process, off the event loop, with an encoder of hashes."""

import asyncio
import threading
import time

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
from tests.hash_encoder import HashEncoder

VOCABULARY = Vocabulary([None, *(bytes([b]) for b in range(256))])


class WatchedEncoder(HashEncoder):
    """Counts its calls, and can be made to wait or to fail."""

    def __init__(self):
        self.batches, self.fail = [], False
        self.gate = threading.Event()
        self.gate.set()

    def encode(self, texts):
        self.gate.wait(60)
        if self.fail:
            raise RuntimeError("a secret text")
        self.batches.append(list(texts))
        return super().encode(texts)


@pytest.fixture
def encoder(monkeypatch):
    made = WatchedEncoder()
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
