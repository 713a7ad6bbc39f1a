"""What a gateway counts of single targets."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from detectors.detection import Detection, Layer, Strength
from detectors.targets import Phrase
from guard.decision import Decision, Verdict
from guard.nets import Catch
from guard.phrase_matcher import PhraseMatcher
from guard.shield import OutputShield
from server.auth import Role
from server.statistics.counts import TargetCounts
from server.statistics.tally import AnswerCuts, TargetTally


def _found(target, layer=Layer.ALIAS):
    return Detection(target, layer, Strength.STRONG, 1.0, 0.5)


def _counts(tally, target):
    return tally.now().targets[target]


def test_what_followed_is_counted_of_each_target():
    """Of a refused prompt the target that asks for it, of a steered one every enforced target."""
    tally = TargetTally()
    ada, bob, eve = _found("ada"), _found("bob", Layer.SIMILARITY), _found("eve")
    refusing = frozenset({"ada", "eve"})
    tally.decided(
        Decision(Verdict.REFUSE, 1, "d", detections=(ada, bob), observed=(eve,), refusing=refusing),
        0.3,
    )
    tally.decided(Decision(Verdict.STEER, 1, "d", detections=(bob, ada), refusing=refusing), 0.1)
    tally.decided(Decision(Verdict.ALLOW, 1, "d", observed=(bob,)), 0.1)
    tally.decided(Decision(Verdict.ALLOW, 1, "d"), 0.5)
    ada, bob, eve = (_counts(tally, name) for name in ("ada", "bob", "eve"))

    assert (ada.matched, ada.refused, ada.steered) == (2, 1, 1)
    assert (bob.matched, bob.refused, bob.steered, bob.would_steer) == (3, 0, 1, 1)
    assert (eve.matched, eve.would_refuse, eve.refused) == (1, 1, 0)
    assert (bob.similarity, bob.alias) == (3, 0)
    assert ada.screen_seconds == pytest.approx(0.1 + 0.05)
    assert bob.screen_seconds == pytest.approx(0.1 + 0.05 + 0.1)
    assert tally.now().requests.requests == 4
    assert tally.now().requests.screen_seconds == pytest.approx(1.0)
    assert abs(ada.last_matched_at - time.time()) < 5


def test_two_detections_of_a_target_are_one_prompt():
    """It matched once, by both."""
    tally = TargetTally()
    both = (_found("ada"), _found("ada", Layer.SIMILARITY))
    tally.decided(Decision(Verdict.STEER, 1, "d", detections=both), 0.2)
    counts = _counts(tally, "ada")

    assert (counts.matched, counts.steered, counts.alias, counts.similarity) == (1, 1, 1, 1)
    assert counts.screen_seconds == pytest.approx(0.2)


def test_time_and_steps_of_an_answer():
    """They are the matched targets', and all requests'."""
    tally = TargetTally()
    decision = Decision(Verdict.STEER, 1, "d", detections=(_found("ada"), _found("bob")))
    tally.shielded(decision, 0.4, prevented_steps=3)
    tally.shielded(Decision(Verdict.ALLOW, 1, "d"), 0.6)

    assert _counts(tally, "ada").shield_seconds == pytest.approx(0.2)
    assert _counts(tally, "bob").prevented_steps == 3
    assert tally.now().requests.shield_seconds == pytest.approx(1.0)


def test_an_answer_is_ended_once_for_a_target():
    """However many surfaces show it, and whatever it was caught for."""
    tally = TargetTally()
    cuts, would = AnswerCuts(tally, enforced=True), AnswerCuts(tally, enforced=False)
    cuts(Catch.NAME, ["ada", "ada", "bob"])
    cuts(Catch.NAME, ["ada"])
    cuts(Catch.PROVENANCE, ["bob"])
    cuts(Catch.PADDING, [])
    would(Catch.PHRASE, ["eve"])

    assert (_counts(tally, "ada").cut_name, _counts(tally, "ada").cut) == (1, 1)
    assert (_counts(tally, "bob").cut_name, _counts(tally, "bob").cut_provenance) == (1, 1)
    assert (_counts(tally, "eve").would_cut, _counts(tally, "eve").cut) == (1, 0)


def test_a_shield_tells_whose_phrase_it_blocks_for():
    """Of two targets' names in one matcher the one that was said."""
    owners = {"ada byron": ("ada",), "bob": ("bob", "other-bob")}
    names = PhraseMatcher([Phrase("Ada Byron"), Phrase("Bob")], Catch.NAME, owners.__getitem__)
    told = []
    shield = OutputShield([names], witness=lambda catch, targets: told.append((catch, targets)))
    out = shield.feed("It was B").text + shield.feed("ob, not Ada Byron.").text

    assert out == "It was "
    assert told == [(Catch.NAME, ("bob", "other-bob"))]


def test_withdrawn_targets_are_dropped():
    """What takes the id later begins at zero."""
    tally = TargetTally()
    tally.cut(["ada", "bob"], Catch.NAME, enforced=True)
    tally.keep({"bob"})

    assert list(tally.now().targets) == ["bob"]


def test_threads_lose_nothing():
    """Answers are read on many threads."""
    tally = TargetTally()

    def count(_):
        for _ in range(500):
            tally.cut(["ada"], Catch.PHRASE, enforced=True)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(count, range(4)))

    assert _counts(tally, "ada").cut_phrase == 2000


def test_numbers_of_a_newer_server_are_left_out():
    """A file may be read by an older control process."""
    counts = TargetCounts.of({"matched": 2, "of_a_newer_lethegate": 7})

    assert counts.to_numbers() == {"matched": 2}


@pytest.fixture
def detecting(start_stack, monkeypatch):
    """A gateway whose guard says what it detected, and its tally."""
    tally = TargetTally()
    stack = start_stack(tally=tally, keys={"k": Role.AUDITOR, "c": Role.CLIENT})
    screen = stack.guard.screen

    async def with_detections(*arguments, **options):
        decision = await screen(*arguments, **options)
        found = () if decision.verdict is Verdict.ALLOW else (_found("ada"),)
        return replace(decision, detections=found, refusing=frozenset({"ada"}))

    monkeypatch.setattr(stack.guard, "screen", with_detections)
    stack.http.headers["authorization"] = "Bearer k"
    return stack, tally


def test_a_gateway_counts(detecting):
    """What followed, the time it took and what the worker prevented, through the real gateway."""
    stack, tally = detecting
    stack.guard.prevented_steps = 2
    stack.vllm.says = [["It was ", "John", " Smith", " then."]]
    for text in ("about John", "about Mary", "hello"):
        assert stack.chat(text).status_code == 200
    end = time.monotonic() + 60
    # An answer is counted when its last byte is out.
    while not tally.now().requests.shield_seconds and time.monotonic() < end:
        time.sleep(0.01)
    counts, requests = _counts(tally, "ada"), tally.now().requests

    assert (counts.matched, counts.steered, counts.refused) == (2, 1, 1)
    assert counts.prevented_steps == 2
    assert requests.requests == 3
    assert 0 < counts.screen_seconds < requests.screen_seconds
    assert counts.shield_seconds == requests.shield_seconds > 0


def test_a_check_is_no_request(detecting):
    """Who tries what would be decided changes no statistics."""
    stack, tally = detecting
    done = stack.http.post("/v1/checks", json={"text": "about John"})

    assert done.json()["verdict"] == "steer"
    assert tally.now().targets == {}
