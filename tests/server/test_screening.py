"""Screening in one API process: from texts to a decision, off the event loop."""

import asyncio
import hashlib
import threading
import time
from dataclasses import replace

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from detectors.errors import EncoderUnavailable
from detectors.targets import Enforcement, Example, ForgetTarget, Scope
from guard.background import word_view
from guard.compiler import compile_policy
from guard.decision import Verdict
from guard.follower import ActivePointer, Follower, followers
from guard.ledger import CloseReason, LedgerWriter
from guard.trace_shield import TraceShield
from guard.vocabulary import Vocabulary
from server import screening as module
from server.errors import GuardTimeout, GuardUnavailable, InvalidRequest, Overloaded
from server.known_texts import Memory, content_key
from server.metrics.gateway import GatewayMetrics
from server.provenance.registry import CorpusEntry, Places, write_registry
from server.provenance.schemas import Label
from server.screening import Screening
from server.settings import Settings
from server.statistics.tally import TargetTally
from tracing.document import Document
from tracing.index import Index

VOCABULARY = Vocabulary([None, *(bytes([b]) for b in range(256))])
PROMPT = "Who wrote the Salt Ledger?"


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
        self.gate.wait(10)
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


def target(name="salt"):
    return ForgetTarget(name, examples=(Example(PROMPT, "Ilse Moreau wrote it."),))


def wait_for(condition, seconds=10.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "timed out"
        time.sleep(0.01)


def wait_for_generation(screening, generation):
    wait_for(lambda: (p := screening.current()) is not None and p.generation == generation)


def screen(screening, *texts):
    return asyncio.run(screening.screen(texts))


def test_nothing_is_decided_before_there_is_a_policy(screening):
    """Without a policy there is no decision, and readiness says what is missing."""
    assert "policy" in screening.unready()
    with pytest.raises(GuardUnavailable):
        screen(screening, "hello")


def test_registered_prompts_are_steered(screening, activate):
    """A policy is taken up while running and decides from then on."""
    activate(1, target())
    wait_for_generation(screening, 1)

    assert screen(screening, PROMPT).verdict is Verdict.STEER
    assert screen(screening, "How do I cook rice?").verdict is Verdict.ALLOW
    assert screen(screening).verdict is Verdict.ALLOW


def test_an_empty_policy_encodes_nothing(screening, activate, encoder):
    """With nothing to forget a request costs no encoding."""
    activate(1)
    wait_for_generation(screening, 1)
    encoder.batches.clear()

    assert screen(screening, PROMPT).verdict is Verdict.ALLOW
    assert encoder.batches == []


def test_known_windows_are_not_encoded_again(screening, activate, encoder):
    """A conversation that grows costs only its new turn, alone and joined to what it follows."""
    activate(1, target())
    wait_for_generation(screening, 1)
    encoder.batches.clear()
    screen(screening, "first turn")
    screen(screening, "first turn", "second turn")

    assert encoder.batches == [["first turn"], ["second turn", "first turn second turn"]]


def test_an_identical_conversation_is_judged_once_per_policy(screening, activate, encoder):
    """Its decision is remembered, and forgotten with the policy that it was made under."""
    activate(1, target())
    wait_for_generation(screening, 1)
    first = screen(screening, PROMPT, "and why?")
    encoder.gate.clear()

    assert screen(screening, PROMPT, "and why?") is first

    encoder.gate.set()
    activate(2)
    wait_for_generation(screening, 2)

    assert screen(screening, PROMPT, "and why?").verdict is Verdict.ALLOW


def test_texts_are_told_apart_by_their_borders():
    """The same characters in other messages are another conversation."""
    assert content_key(["ab", "c"]) != content_key(["a", "bc"]) != content_key(["abc"])
    assert content_key(["\ud800"]) != content_key(["\udfff"])


def test_decisions_together_are_those_alone(screening, activate, encoder):
    """What gathers while the encoder is busy is compared in one product, each for itself."""
    activate(1, target(), target("other"))
    wait_for_generation(screening, 1)
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


def test_a_decision_keeps_its_policy(screening, activate):
    """A request decided just before a change still finds its phrases."""
    activate(1, target())
    wait_for_generation(screening, 1)
    decision = screen(screening, PROMPT)
    activate(2)
    wait_for_generation(screening, 2)

    assert [make().reveals("Ilse Moreau") for make in screening.nets(decision).enforced] == [
        "phrase"
    ]


@pytest.mark.parametrize("on", [True, False])
def test_names_are_watched_in_every_answer(tmp_path, encoder, activate, on):
    """Enforced names end an answer, observed ones are counted; one setting turns both off."""
    screening = Screening(Settings(state_dir=tmp_path, watch_answers=on))
    screening.start(GatewayMetrics(CollectorRegistry(), screening.worker_facts))
    example = (Example(PROMPT, "She wrote it."),)
    activate(
        1,
        ForgetTarget("salt", aliases=("Ilse Moreau",), examples=example),
        ForgetTarget(
            "sand", aliases=("Orla Fenwick",), examples=example, enforcement=Enforcement.OBSERVE
        ),
    )
    wait_for_generation(screening, 1)
    nets = screening.nets(screen(screening, "How do I cook rice?"))

    def caught(makes, text):
        return [make().reveals(text) for make in makes]

    assert caught(nets.enforced, "By Ilse Moreau and Orla Fenwick.") == (["name"] if on else [])
    assert caught(nets.enforced, "By Orla Fenwick.") == ([None] if on else [])
    assert caught(nets.observed, "By Orla Fenwick.") == (["name"] if on else [])


def test_nothing_is_served_without_the_corpora(tmp_path, encoder, activate):
    """Where corpora are published that cannot be loaded, nothing is decided; readiness says so."""
    (tmp_path / "corpora").mkdir()
    ActivePointer(tmp_path / "corpora").publish(3, "0" * 64)
    screening = Screening(Settings(state_dir=tmp_path))
    screening.start(GatewayMetrics(CollectorRegistry(), screening.worker_facts))
    activate(1)
    wait_for_generation(screening, 1)

    assert "corpora" in screening.unready()
    with pytest.raises(GuardUnavailable):
        screen(screening, "Who?")


def test_steered_answers_are_held_against_corpora(tmp_path, encoder, activate):
    """TraceShield is the first net, so that the phrases' net judges what it cuts."""
    places = Places(tmp_path / "corpora")
    index = Index(places.index("book"), word_view())
    index.add([Document("eleven copper kettles stood on the sill of the old lighthouse")])
    index.close()
    always = CorpusEntry(
        "book", "book", 1, Label.FORGET, Scope.ALWAYS, Enforcement.ENFORCE, (), 8, None, 0.0
    )
    matched = replace(always, id="matched", scope=Scope.MATCHED, targets=("salt",))
    elsewhere = replace(matched, id="elsewhere", targets=("sand",))
    watched = replace(always, id="watched", enforcement=Enforcement.OBSERVE)
    digest = write_registry(places, [always, matched, elsewhere, watched])
    ActivePointer(places.root).publish(1, digest)
    screening = Screening(Settings(state_dir=tmp_path))
    screening.start(GatewayMetrics(CollectorRegistry(), screening.worker_facts))
    activate(1, target())
    wait_for_generation(screening, 1)

    def ids(makes):
        nets = [make() for make in makes]
        return [c.id for net in nets if isinstance(net, TraceShield) for c in net.judge.watched]

    allowed = screening.nets(screen(screening, "How do I cook rice?"))
    steered = screening.nets(screen(screening, PROMPT))
    assert ids(allowed.enforced) == ["book"]
    assert ids(allowed.observed) == ["watched"]
    assert ids(steered.enforced) == ["book", "matched"]
    assert isinstance(steered.enforced[0](), TraceShield)
    assert len(steered.enforced) == 2
    vetoed = screen(screening, "How do I cook rice?")
    assert ids(screening.nets(replace(vetoed, verdict=Verdict.STEER)).enforced) == ["book"]


def test_the_gateway_waits_for_the_workers(screening, activate, settings):
    """No request is decided under a policy that a worker does not have yet."""
    held = threading.Event()
    worker = Follower(settings.state_dir, "worker", lambda _active: held.wait(10))
    threading.Thread(target=worker.start, daemon=True).start()
    activate(1, target())
    time.sleep(0.3)

    assert screening.current() is None

    held.set()
    wait_for_generation(screening, 1)
    wait_for(lambda: all(f.generation == 1 for f in followers(settings.state_dir)))

    assert screening.unready() == []

    worker.stop()


def test_a_policy_that_is_taken_back_is_not_waited_for(screening, activate, settings):
    """A worker that never answers does not keep the gateway from what is in force instead."""
    held = threading.Event()

    def hang(active):
        if active.generation == 2:
            held.wait(30)

    worker = Follower(settings.state_dir, "worker", hang)
    activate(1)
    worker.start()
    wait_for_generation(screening, 1)
    activate(2, target())
    time.sleep(0.3)

    assert screening.current().generation == 1

    activate(3)
    wait_for(lambda: any(f.failed_generation == 2 for f in followers(settings.state_dir)))
    held.set()
    wait_for_generation(screening, 3)

    worker.stop()


def test_a_worker_that_cannot_load_keeps_the_old_policy(screening, activate, settings):
    """If a worker refuses a policy the gateway does not take it up either."""
    activate(1)
    wait_for_generation(screening, 1)

    def refuse(active):
        if active.generation == 2:
            raise RuntimeError

    worker = Follower(settings.state_dir, "worker", refuse)
    worker.start()
    activate(2, target())
    wait_for(lambda: all(f.failed_generation == 2 for f in followers(settings.state_dir)))

    assert screening.current().generation == 1

    worker.stop()


def test_a_failing_encoder_fails_closed(screening, activate, encoder):
    """No decision is made up, and the thread lives on."""
    activate(1, target())
    wait_for_generation(screening, 1)
    encoder.fail = True
    with pytest.raises(GuardUnavailable):
        screen(screening, "something new")
    encoder.fail = False

    assert screen(screening, PROMPT).verdict is Verdict.STEER


def test_an_encoder_that_fails_at_every_text_is_not_ready(screening, activate, encoder, settings):
    """Readiness says so, tries again by itself, and a single failure does not count."""
    worker = Follower(settings.state_dir, "worker", lambda _active: None)
    worker.start()
    activate(1, target())
    wait_for_generation(screening, 1)
    wait_for(lambda: screening.unready() == [])

    async def ask(number):
        encoder.fail = True
        for i in range(number):
            with pytest.raises(GuardUnavailable):
                await screening.screen([f"something new {number} {i}"])

    async def settled(wanted):
        for _ in range(500):
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


def test_an_encoder_that_hangs_is_told_at_once(tmp_path, encoder, activate):
    """Whoever comes then is not kept waiting, readiness says so, and it may come back."""
    screening = Screening(Settings(state_dir=tmp_path, screen_timeout_seconds=0.2))
    screening.start(GatewayMetrics(CollectorRegistry(), screening.worker_facts))
    activate(1, target())
    wait_for_generation(screening, 1)
    encoder.gate.clear()

    async def hang():
        stuck = asyncio.ensure_future(screening.screen(["something new"]))
        await asyncio.sleep(0.1)
        early = screening.unready()
        await asyncio.sleep(0.5)
        begun = time.monotonic()
        with pytest.raises(GuardTimeout):
            await screening.screen(["something else"])
        waited = time.monotonic() - begun
        hanging = screening.unready()
        encoder.gate.set()
        await stuck
        await asyncio.to_thread(wait_for, lambda: "classifier" not in screening.unready())
        later = await screening.screen(["something else"])
        return early, waited, hanging, later.verdict

    early, waited, hanging, verdict = asyncio.run(hang())

    assert "classifier" not in early
    assert waited < 0.1
    assert "classifier" in hanging
    assert verdict is Verdict.ALLOW
    assert "classifier" not in screening.unready()


def test_an_encoder_that_cannot_be_loaded_is_tried_again(tmp_path, encoder, activate, monkeypatch):
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


def test_a_full_queue_is_overload(screening, activate, encoder, monkeypatch):
    """Waiting requests are bounded; the event loop is never blocked meanwhile."""
    activate(1, target())
    wait_for_generation(screening, 1)
    encoder.gate.clear()

    async def flood():
        waiting = [asyncio.ensure_future(screening.screen([f"text {i}"])) for i in range(1200)]
        begun = time.monotonic()
        await asyncio.sleep(0.05)
        late = time.monotonic() - begun
        encoder.gate.set()
        return late, await asyncio.gather(*waiting, return_exceptions=True)

    late, outcomes = asyncio.run(flood())
    refused = [o for o in outcomes if isinstance(o, Overloaded)]

    assert late < 1.0
    assert 0 < len(refused) < 1200
    assert all(isinstance(o, Overloaded) or o.verdict is Verdict.ALLOW for o in outcomes)


def test_a_long_conversation_delays_nobody_and_can_be_given_up(screening, activate, encoder):
    """It is encoded in parts, after the short ones, and no further once nobody waits for it."""
    activate(1, target())
    wait_for_generation(screening, 1)
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


def test_nobody_waits_for_a_long_conversation(screening, activate, encoder, monkeypatch):
    """While one is being encoded, short ones are decided; too many long ones are overload."""
    activate(1, target())
    wait_for_generation(screening, 1)
    encode, held = encoder.encode, threading.Event()

    def slow_for_long(texts):
        if any(text.startswith("word") for text in texts):
            held.wait(10)
        return encode(texts)

    monkeypatch.setattr(encoder, "encode", slow_for_long)

    async def flood():
        long = " ".join(f"word{i}" for i in range(6_000))
        count = module.LONG_QUEUE_LENGTH + 5
        slow = [asyncio.ensure_future(screening.screen([long, str(i)])) for i in range(count)]
        await asyncio.sleep(0.2)
        quick = (await asyncio.wait_for(screening.screen([PROMPT]), 5)).verdict
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


def test_a_conversation_of_too_many_windows_is_refused(screening, activate):
    """What cannot be screened in bounded time is the client's error, not a hole."""
    activate(1, target())
    wait_for_generation(screening, 1)
    with pytest.raises(InvalidRequest):
        screen(screening, " ".join(f"word{i}" for i in range(600_000)))


def hostile(kind):
    if kind == "characters":
        return ["It was a fine day and all the trains were on time. " * 20_000 + PROMPT]
    if kind == "messages":
        return [*(f"This is message {i}." for i in range(5_000)), PROMPT, *["Go on."] * 5_000]
    return ["\ud800\u202e\u200f" * 100_000, PROMPT, "\udfff" * 10_000]


@pytest.mark.parametrize("kind", ["characters", "messages", "surrogates"])
def test_size_and_odd_characters_hide_nothing(screening, activate, kind):
    """A question is found in a million characters, ten thousand messages and lone surrogates."""
    activate(1, target())
    wait_for_generation(screening, 1)

    async def screen_and_look_around():
        slow = asyncio.ensure_future(screening.screen(hostile(kind)))
        late = 0.0
        while not slow.done():
            begun = time.monotonic()
            await asyncio.sleep(0.01)
            late = max(late, time.monotonic() - begun)
        return await slow, late

    begun = time.process_time()
    decision, late = asyncio.run(screen_and_look_around())

    assert decision.verdict is Verdict.STEER
    assert late < 5
    assert time.process_time() - begun < 60


def test_facts_of_the_workers_are_read(screening, settings):
    """Closed slots and counters reach the gateway."""
    LedgerWriter(settings.state_dir / "facts").close_slot(5, CloseReason.NOTHING_LEFT)

    assert screening.closed(5) is CloseReason.NOTHING_LEFT
    assert screening.closed(6) is None
    assert screening.worker_facts().closed_slots["nothing_left"] == 1


def test_answers_are_counted_for_the_targets_they_are_cut_for(tmp_path, encoder, activate):
    """Of names and phrases, enforced and observed; withdrawn targets are dropped."""
    screening, tally = Screening(Settings(state_dir=tmp_path)), TargetTally()
    screening.start(GatewayMetrics(CollectorRegistry(), screening.worker_facts), tally)
    sand = ForgetTarget(
        "sand",
        aliases=("Orla Fenwick",),
        examples=(Example("Who keeps the mill?", "Orla Fenwick keeps it."),),
        enforcement=Enforcement.OBSERVE,
    )
    activate(1, sand, target("salt"), target("pepper"))
    wait_for_generation(screening, 1)
    steered = screening.nets(screen(screening, PROMPT))
    allowed = screening.nets(screen(screening, "How do I cook rice?"))
    [make] = steered.enforced
    [watch] = allowed.observed
    caught = [make().feed("By Ilse Moreau, I think.").caught for make in (make, watch)]
    named = watch().feed("Ask Orla Fenwick about it.").caught
    found = tally.now().targets

    assert caught == ["phrase", None]
    assert named == "name"
    assert sum(found[name].cut_phrase for name in ("salt", "pepper") if name in found) == 1
    assert (found["sand"].would_cut, found["sand"].cut) == (1, 0)
    activate(2, target("salt"))
    wait_for_generation(screening, 2)

    assert set(tally.now().targets) <= {"salt"}
