"""An encoder that fails, hangs or cannot be loaded."""

import asyncio
import time

import pytest
from prometheus_client import CollectorRegistry

from detectors.errors import EncoderUnavailable
from guard.decision import Verdict
from guard.follower import Follower
from server import screening as module
from server.errors import GuardTimeout, GuardUnavailable
from server.metrics.gateway import GatewayMetrics
from server.screening import Screening
from server.settings import Settings

PROMPT = "Who wrote the Salt Ledger?"


def test_a_failing_encoder_fails_closed(screening, put_in_force, encoder, target, screen):
    """No decision is made up, and the thread lives on."""
    put_in_force(1, target())
    encoder.fail = True
    with pytest.raises(GuardUnavailable):
        screen(screening, "something new")
    encoder.fail = False

    assert screen(screening, PROMPT).verdict is Verdict.STEER


def test_an_encoder_that_fails_at_every_text_is_not_ready(
    screening, put_in_force, encoder, settings, target, wait_for
):
    """Readiness says so, tries again by itself, and a single failure does not count."""
    worker = Follower(settings.state_dir, "worker", lambda _active: None)
    worker.start()
    put_in_force(1, target())
    wait_for(lambda: screening.unready() == [])

    async def ask(number):
        encoder.fail = True
        for i in range(number):
            with pytest.raises(GuardUnavailable):
                await screening.screen([f"something new {number} {i}"])

    async def settled(wanted):
        for _ in range(3000):
            if (found := screening.unready()) == wanted:
                break
            await asyncio.sleep(0.02)
        return found

    async def whole():
        await ask(1)
        single = screening.unready()
        await ask(module.FAILURES_IN_A_ROW)
        failing = [screening.unready()]
        await asyncio.sleep(0.2)
        failing.append(screening.unready())
        encoder.fail = False
        return single, failing, await settled([])

    single, failing, healed = asyncio.run(whole())

    assert single == []
    assert failing == [["classifier"]] * 2
    assert healed == []
    worker.stop()


def test_an_encoder_that_hangs_is_told_at_once(
    tmp_path, encoder, activate, target, wait_for, wait_for_generation
):
    """Whoever comes then is not kept waiting, readiness says so, and it may come back."""
    screening = Screening(Settings(state_dir=tmp_path, screen_timeout_seconds=1.0))
    screening.start(GatewayMetrics(CollectorRegistry(), screening.worker_facts))
    activate(1, target())
    wait_for_generation(screening, 1)
    encoder.gate.clear()

    async def hang():
        begun = time.monotonic()
        stuck = asyncio.ensure_future(screening.screen(["something new"]))
        await asyncio.sleep(0.1)
        early = screening.unready()
        if time.monotonic() - begun > 1.0:  # the machine stood still
            early = []
        await asyncio.to_thread(wait_for, lambda: "classifier" in screening.unready())
        begun = time.monotonic()
        with pytest.raises(GuardTimeout):
            await screening.screen(["something else"])
        waited = time.monotonic() - begun
        encoder.gate.set()
        await stuck
        await asyncio.to_thread(wait_for, lambda: "classifier" not in screening.unready())
        later = await screening.screen(["something else"])
        return early, waited, later.verdict

    early, waited, verdict = asyncio.run(hang())

    assert "classifier" not in early
    assert waited < 10
    assert verdict is Verdict.ALLOW
    assert "classifier" not in screening.unready()


def test_an_encoder_that_cannot_be_loaded_is_tried_again(
    tmp_path, encoder, activate, monkeypatch, target, wait_for_generation, screen
):
    """Files may come back and a device may get free; nothing is served before."""
    monkeypatch.setattr(module, "RETRY_SECONDS", 0.05)
    tries = []

    def load(*_, **__):
        tries.append(None)
        if len(tries) < 3:
            raise EncoderUnavailable("not now")
        return encoder

    monkeypatch.setattr(module, "load_encoder", load)
    screening = Screening(Settings(state_dir=tmp_path))
    screening.start(GatewayMetrics(CollectorRegistry(), screening.worker_facts))
    activate(1, target())
    with pytest.raises(GuardUnavailable):
        screen(screening, PROMPT)
    wait_for_generation(screening, 1)

    assert len(tries) == 3
    assert screen(screening, PROMPT).verdict is Verdict.STEER
