"""Many requests, long ones and odd ones."""

import asyncio
import threading
import time

import pytest

from guard.decision import Verdict
from guard.key_scope import ALL_TARGETS
from server import screening as module
from server.errors import InvalidRequest, Overloaded
from server.lanes import Waiting

PROMPT = "Who wrote the Salt Ledger?"


def test_a_full_queue_is_overload(screening, put_in_force, encoder, monkeypatch, target):
    """Waiting requests are bounded; the event loop is never blocked meanwhile."""
    put_in_force(1, target())
    encoder.gate.clear()

    async def flood():
        waiting = [asyncio.ensure_future(screening.screen([f"text {i}"])) for i in range(1200)]
        begun = time.process_time()  # the machine may stand still
        await asyncio.sleep(0.05)
        late = time.process_time() - begun
        encoder.gate.set()
        return late, await asyncio.gather(*waiting, return_exceptions=True)

    late, outcomes = asyncio.run(flood())
    refused = [o for o in outcomes if isinstance(o, Overloaded)]

    assert late < 5
    assert 0 < len(refused) < 1200
    assert all(isinstance(o, Overloaded) or o.verdict is Verdict.ALLOW for o in outcomes)


def test_a_long_conversation_delays_nobody_and_can_be_given_up(
    screening, put_in_force, encoder, target
):
    """It is encoded in parts, after the short ones, and no further once nobody waits for it."""
    put_in_force(1, target())
    long = " ".join(f"word{i}" for i in range(40_000))

    async def give_up():
        encoder.gate.clear()
        slow = asyncio.ensure_future(screening.screen([long]))
        await asyncio.sleep(0.2)
        quick = asyncio.ensure_future(screening.screen([PROMPT]))
        slow.cancel()
        encoder.gate.set()
        return (await quick).verdict

    encoder.batches.clear()

    assert asyncio.run(give_up()) is Verdict.STEER
    assert all(len(texts) <= module.CPU_BATCH for texts in encoder.batches)
    assert len(encoder.batches) <= 3


def test_nobody_waits_for_a_long_conversation(
    screening, put_in_force, encoder, monkeypatch, target
):
    """While one is being encoded, short ones are decided; too many long ones are overload."""
    put_in_force(1, target())
    encode, held = encoder.encode, threading.Event()

    def slow_for_long(texts):
        if any(text.startswith("word") for text in texts):
            held.wait(60)
        return encode(texts)

    monkeypatch.setattr(encoder, "encode", slow_for_long)

    async def flood():
        long = " ".join(f"word{i}" for i in range(6_000))
        count = module.LONG_QUEUE_LENGTH + 5
        slow = [asyncio.ensure_future(screening.screen([long, str(i)])) for i in range(count)]
        await asyncio.sleep(0.2)
        quick = (await asyncio.wait_for(screening.screen([PROMPT]), 60)).verdict
        unfinished = sum(not future.done() for future in slow)
        for future in slow[1:]:
            future.cancel()
        held.set()
        return quick, unfinished, await asyncio.gather(*slow, return_exceptions=True)

    quick, unfinished, outcomes = asyncio.run(flood())

    assert quick is Verdict.STEER
    assert module.LONG_QUEUE_LENGTH <= unfinished <= module.LONG_QUEUE_LENGTH + 1
    assert outcomes[0].verdict is Verdict.ALLOW
    assert any(isinstance(outcome, Overloaded) for outcome in outcomes)


def test_who_left_with_its_loop_does_not_end_the_lane():
    """As the question that readiness asks by itself, where the server has stopped meanwhile."""
    loop = asyncio.new_event_loop()
    waiting = Waiting(("Is anybody there?",), ALL_TARGETS, loop, loop.create_future())
    loop.close()
    waiting.answer(Overloaded())

    assert not waiting.given_up


def test_a_conversation_of_too_many_windows_is_refused(screening, put_in_force, target, screen):
    """What cannot be screened in bounded time is the client's error, not a hole."""
    put_in_force(1, target())
    with pytest.raises(InvalidRequest):
        screen(screening, " ".join(f"word{i}" for i in range(600_000)))


def hostile(kind):
    if kind == "characters":
        return ["It was a fine day and all the trains were on time. " * 20_000 + PROMPT]
    if kind == "messages":
        return [*(f"This is message {i}." for i in range(5_000)), PROMPT, *["Go on."] * 5_000]
    return ["\ud800\u202e\u200f" * 100_000, PROMPT, "\udfff" * 10_000]


@pytest.mark.parametrize("kind", ["characters", "messages", "surrogates"])
def test_size_and_odd_characters_hide_nothing(screening, put_in_force, kind, target):
    """A question is found in a million characters, ten thousand messages and lone surrogates."""
    put_in_force(1, target())

    async def screen_and_look_around():
        slow = asyncio.ensure_future(screening.screen(hostile(kind)))
        late = 0.0  # in the process's own seconds: the machine may stand still
        while not slow.done():
            begun = time.process_time()
            await asyncio.sleep(0.01)
            late = max(late, time.process_time() - begun)
        return await slow, late

    begun = time.process_time()
    decision, late = asyncio.run(screen_and_look_around())

    assert decision.verdict is Verdict.STEER
    assert late < 5
    assert time.process_time() - begun < 60
