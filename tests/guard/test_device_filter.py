"""The token filter on a device: the reference kernels against an oracle that searches text."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detectors.targets import Phrase
from guard.automaton import build_tables
from guard.device_slots import SlotField
from guard.device_vocabulary import folded_code_points
from guard.patterns import index_phrases
from guard.token_filter import Position, TokenFilter
from guard.units import Units
from guard.vocabulary import body_of
from tests.guard.device_engine import (
    INTERPRETED,
    LIKELY,
    PHRASES,
    PIECES,
    RAW,
    SPECIAL,
    VOCABULARY,
    Engine,
    examples,
    likely,
    make_policy,
    oracle,
)


@examples(250)
@given(PHRASES, st.integers(0, 2**32))
def test_forbids_exactly_the_completing_tokens(phrases, seed):
    """At every step of a random walk, split characters included, text search says the same."""
    rng = random.Random(seed)
    policy, engine = make_policy(phrases), Engine()
    engine.add(2, [SPECIAL])
    engine.filter.open_slot(2, policy, policy.sets.acquire((0,), ()).index, 7)
    tokens = []
    for _ in range(12):
        found = engine.step([policy], [(2, ())])[0]

        assert oracle(phrases, tokens) == found

        pending = bool(int(engine.filter.slots[2, SlotField.PENDING]))
        token = likely(rng, [t for t in range(len(RAW)) if t not in found], pending)
        tokens.append(token)
        engine.commit(2, token)


def context(tokens, prompt_len):
    """What counts of a history: the output, and the prompt from its last special token on."""
    special = [i for i, t in enumerate(tokens[:prompt_len]) if t == SPECIAL]
    return tokens[special[-1] + 1 if special else 0 :]


class Traffic:
    """Requests that come, are prefilled in chunks, preempted, resumed and replaced, at random."""

    def __init__(self, rng, policies, engine):
        self.rng, self.policies, self.engine = rng, policies, engine
        self.live = {}

    def enter(self, slot, prompt, output, steered):
        self.engine.add(slot, prompt, output)
        if steered is None:
            self.engine.filter.leave_slot(slot)
        else:
            policy, _ = self.policies[steered]
            active = policy.sets.acquire((0,), ()).index
            self.engine.filter.open_slot(slot, policy, active, slot + 1)
        self.live[slot] = steered

    def history(self, slot):
        return self.engine.tokens[slot, : int(self.engine.total_len[slot])].tolist()

    def change(self):
        slot = self.rng.randrange(4)
        if slot in self.live and self.rng.random() < 0.5:
            prompt_len, steered = int(self.engine.prompt_len[slot]), self.live.pop(slot)
            history, other = self.history(slot), self.rng.randrange(4)
            self.live.pop(other, None)
            self.enter(other, history[:prompt_len], history[prompt_len:], steered)
        else:
            prompt = [self.token() for _ in range(self.rng.randrange(1, 12))]
            self.enter(slot, prompt, [], self.rng.choice([None, 0, 1]))

    def token(self):
        return self.rng.choice([SPECIAL, *LIKELY, *LIKELY, self.rng.randrange(len(RAW))])

    def batch(self):
        chosen = self.rng.sample(sorted(self.live), self.rng.randrange(1, len(self.live) + 1))
        drafts = [self.token() if self.rng.random() < 0.9 else -1 for _ in range(8)]
        return [(slot, drafts[: self.rng.randrange(3)]) for slot in chosen]

    def expected(self, slot, drafts):
        if self.live[slot] is None:
            return set()
        tokens = context(self.history(slot), int(self.engine.prompt_len[slot]))
        known = [t for t in drafts if t >= 0]
        return oracle(self.policies[self.live[slot]][1], [*tokens, *known])

    def sample(self, slot, drafts, forbidden):
        """Commit accepted drafts and one token more, or nothing: a chunk of a prompt."""
        accepted = list(drafts[: self.rng.randrange(len(drafts) + 1)])
        if -1 in accepted or self.rng.random() < 0.2:
            return
        for i, token in enumerate(accepted):
            if token in forbidden[i]:
                accepted = accepted[:i]
                break
        allowed = [t for t in range(len(RAW)) if t not in forbidden[len(accepted)]]
        self.engine.commit(slot, *accepted, likely(self.rng, allowed, True))


@examples(150)
@given(PHRASES, PHRASES, st.integers(0, 2**32))
def test_every_row_of_every_batch(first, second, seed):
    """Rows in any order, drafts, chunks, resumed and replaced requests, two policies: all exact."""
    rng = random.Random(seed)
    policies = [(make_policy(first, 1), first), (make_policy(second, 2), second)]
    traffic = Traffic(rng, policies, Engine(longest=128))
    traffic.enter(0, [SPECIAL], [], 0)
    for _ in range(10):
        if rng.random() < 0.4:
            traffic.change()
        batch = traffic.batch()
        found = traffic.engine.step([p for p, _ in policies], batch)
        expected = [
            traffic.expected(slot, drafts[:i])
            for slot, drafts in batch
            for i in range(len(drafts) + 1)
        ]

        assert expected == found

        row = 0
        for slot, drafts in batch:
            traffic.sample(slot, drafts, found[row : row + len(drafts) + 1])
            row += len(drafts) + 1


@examples(100)
@given(PHRASES, st.integers(0, 2**32))
def test_equals_the_filter_on_the_host(phrases, seed):
    """The host's filter, walked in step, forbids the same tokens."""
    rng = random.Random(seed)
    patterns, ids = index_phrases(phrases)
    host = TokenFilter(build_tables(patterns, VOCABULARY), Units.build([ids], []), VOCABULARY)
    active, position = host.sets.acquire((0,), ()), Position()
    policy, engine = make_policy(phrases), Engine()
    engine.add(1, [SPECIAL])
    engine.filter.open_slot(1, policy, policy.sets.acquire((0,), ()).index, 1)
    for _ in range(8):
        found = engine.step([policy], [(1, ())])[0]

        assert set(host.forbidden([position], [active], [0], len(RAW)).tolist()) == found

        token = likely(rng, [t for t in range(len(RAW)) if t not in found], True)
        engine.commit(1, token)
        host.advance([position], [token])


@pytest.mark.skipif(INTERPRETED, reason="no kernel takes part")
@settings(deadline=None)
@given(st.characters(exclude_categories=["Cs"]))
def test_code_points_fold_as_text_does(char):
    """The table has for every character what a token of just that character adds."""
    found, body, point = folded_code_points(), body_of(char.encode()), ord(char)

    assert body.stream == found.bytes[found.start[point] : found.start[point + 1]].tobytes()
    assert (body.first, body.last) == (found.first[point], found.last[point])


@pytest.mark.skipif(INTERPRETED, reason="no kernel takes part")
def test_sets_come_and_go(monkeypatch):
    """However many sets have been used before, the device forbids what is active now."""
    monkeypatch.setattr("guard.active_sets.IDLE_LIMIT", 4)
    letters = "abe日"
    policy, engine = make_policy([Phrase(letter) for letter in letters]), Engine()
    tokens = {letter: PIECES.index(letter) for letter in letters}
    engine.add(0, [SPECIAL])
    engine.add(1, [SPECIAL])
    engine.filter.open_slot(0, policy, policy.sets.acquire((), (1,)).index, 1)
    for number in range(1, 16):
        items = tuple(i for i in range(4) if number >> i & 1)
        active = policy.sets.acquire((), items)
        engine.filter.open_slot(1, policy, active.index, 2)
        kept, found = engine.step([policy], [(0, ()), (1, ())])

        assert {letters[i] for i in items} == {c for c, t in tokens.items() if t in found}
        assert {"b"} == {c for c, t in tokens.items() if t in kept}

        policy.sets.release(active)
