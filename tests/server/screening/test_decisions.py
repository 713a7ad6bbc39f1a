"""From texts to a decision, and what of it is remembered."""

import asyncio

import pytest

from guard.decision import Verdict
from server.errors import GuardUnavailable
from server.known_texts import Memory, content_key

PROMPT = "Who wrote the Salt Ledger?"


def test_nothing_is_decided_before_there_is_a_policy(screening, screen):
    """Without a policy there is no decision, and readiness says what is missing."""
    assert "policy" in screening.unready()
    with pytest.raises(GuardUnavailable):
        screen(screening, "hello")


def test_registered_prompts_are_steered(screening, put_in_force, target, screen):
    """A policy is taken up while running and decides from then on."""
    put_in_force(1, target())

    assert screen(screening, PROMPT).verdict is Verdict.STEER
    assert screen(screening, "How do I cook rice?").verdict is Verdict.ALLOW
    assert screen(screening).verdict is Verdict.ALLOW


def test_an_empty_policy_encodes_nothing(screening, put_in_force, encoder, screen):
    """With nothing to forget a request costs no encoding."""
    put_in_force(1)
    encoder.batches.clear()

    assert screen(screening, PROMPT).verdict is Verdict.ALLOW
    assert encoder.batches == []


def test_known_windows_are_not_encoded_again(screening, put_in_force, encoder, target, screen):
    """A conversation that grows costs only its new turn, alone and joined to what it follows."""
    put_in_force(1, target())
    encoder.batches.clear()
    screen(screening, "first turn")
    screen(screening, "first turn", "second turn")

    assert encoder.batches == [["first turn"], ["second turn", "first turn second turn"]]


def test_an_identical_conversation_is_judged_once_per_policy(
    screening, put_in_force, encoder, target, screen
):
    """Its decision is remembered, and forgotten with the policy that it was made under."""
    put_in_force(1, target())
    first = screen(screening, PROMPT, "and why?")
    encoder.gate.clear()

    assert screen(screening, PROMPT, "and why?") is first

    encoder.gate.set()
    put_in_force(2)

    assert screen(screening, PROMPT, "and why?").verdict is Verdict.ALLOW


def test_texts_are_told_apart_by_their_borders():
    """The same characters in other messages are another conversation."""
    assert content_key(["ab", "c"]) != content_key(["a", "bc"]) != content_key(["abc"])
    assert content_key(["\ud800"]) != content_key(["\udfff"])


def test_decisions_together_are_those_alone(screening, put_in_force, encoder, target, screen):
    """What gathers while the encoder is busy is compared in one product, each for itself."""
    put_in_force(1, target(), target("other"))
    asked = [[PROMPT], ["How do I cook rice?"], [], ["Hi.", PROMPT], ["\u200b"]]
    alone = [screen(screening, *texts, "Please.").verdict for texts in asked]
    encoder.gate.clear()

    async def together():
        first = asyncio.ensure_future(screening.screen(["something new"]))
        await asyncio.sleep(0.1)
        waiting = [asyncio.ensure_future(screening.screen([*t, "Please!"])) for t in asked]
        await asyncio.sleep(0.1)
        encoder.gate.set()
        await first
        return [decision.verdict for decision in await asyncio.gather(*waiting)]

    assert asyncio.run(together()) == alone == [verdict(steered) for steered in (1, 0, 0, 1, 0)]


def verdict(steered):
    return Verdict.STEER if steered else Verdict.ALLOW


def test_memories_are_bounded():
    """The least recently used value goes first."""
    memory = Memory(2)
    for key in (b"a", b"b"):
        memory.put(key, key)
    memory.get(b"a")
    memory.put(b"c", b"c")

    assert [memory.get(key) for key in (b"a", b"b", b"c")] == [b"a", None, b"c"]
