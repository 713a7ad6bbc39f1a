"""The token filter on a device: the reference kernels against an oracle that searches text."""

import codecs
import os
import random
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from detectors.normaliser import at_border, fold
from detectors.targets import Phrase
from guard.active_sets import ActiveSets
from guard.automaton import build_tables
from guard.device_filter import NUM_COUNTERS, DeviceFilter
from guard.device_policy import DevicePolicy, DeviceSets, DeviceTables
from guard.device_slots import SlotField
from guard.device_vocabulary import DeviceVocabulary, folded_code_points
from guard.ledger import CloseReason, Counter
from guard.patterns import index_phrases
from guard.token_filter import Position, TokenFilter
from guard.units import Units
from guard.vocabulary import Vocabulary, body_of

CPU = torch.device("cpu")
# Triton decides when it is imported whether kernels are compiled or interpreted, so the interpreter
# has a process of its own, which `test_the_gpu_kernels_do_the_same` starts.
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
PIECES = (
    *"abAB -'.é日",
    *(bytes([b]) for b in "éа日\u200b🦊".encode()),  # characters split over tokens; Cyrillic a
    b"\xa9 b",
    "日".encode()[1:] + b"a",
    "日".encode()[1:],
    " 日".encode()[:3],
    b"\x81b",
    b"\xff",
    b"\xe0",
    b"\xf4\x90",
    "ab",
    " a",
    " b",
    "  ",
    "\n",
    "a b",
    "bab",
    "b'",
    "\u200b",
    "\u0301",
    "e",
    "日a",
    "аb",
    "Ａ",
    "ﬁ",
    "fi",
    None,
    "e",
)
RAW = [p.encode() if isinstance(p, str) else p for p in PIECES]
LIKELY = [
    RAW.index(p.encode())
    for p in ("a", "b", "é", "日", " ", " a", "  ", "f", "\u0301")
    if p.encode() in RAW
]
SPLIT = [i for i, raw in enumerate(RAW) if raw and (raw[0] & 0xC0 == 0x80 or raw[-1] >= 0xC0)]
SPECIAL = PIECES.index(None)
END = len(PIECES) - 1  # any token will do; this one is in no phrase at its place
VOCABULARY = Vocabulary(RAW)
PHRASES = st.lists(
    st.builds(
        Phrase,
        st.sampled_from(
            ["a b", "ab", "ab a", "b'a", "éb", "日a", "fi a", "b é", "a  -b", "e日", "🦊b"]
        )
        | st.text("abé日 '-fi", min_size=1, max_size=5).filter(lambda t: t.strip()),
        st.booleans(),
    ),
    min_size=1,
    max_size=6,
)


def examples(number):
    if INTERPRETED:
        return settings(max_examples=max(3, number // 50), deadline=None, phases=[Phase.generate])
    return settings(max_examples=number, deadline=None)


@cache
def device_vocabulary():
    return DeviceVocabulary.build(VOCABULARY)


def kernels():
    if not INTERPRETED:
        return None
    import triton.language as tl

    from guard import device_kernels, triton_forbid

    triton_forbid.PARTS = tl.constexpr(2)
    return device_kernels


def make_policy(phrases, id=1, vocabulary=VOCABULARY):
    patterns, ids = index_phrases(phrases)
    tables = build_tables(patterns, vocabulary)
    sets = ActiveSets(tables, Units.build([ids], [[i] for i in ids]), vocabulary)
    return DevicePolicy(
        id, int(tables.longest[0]), DeviceTables.upload(tables, CPU), DeviceSets(sets, CPU)
    )


def decode(tokens):
    """Folded text without the bytes of an unfinished last character."""
    raw = b"".join(RAW[t] or b"" for t in tokens)
    return fold(codecs.getincrementaldecoder("utf-8")("replace").decode(raw))


def spells(phrase, before, after):
    """Whether `after`, which goes on from `before`, has an occurrence ending in the new part."""
    wanted = fold(phrase.text).strip()
    for start in range(len(after)):
        end = start + len(wanted)
        if end <= len(before) or after[start:end] != wanted:
            continue
        borders = at_border(after[start - 1 : start], wanted[0]) and at_border(
            wanted[-1], after[end : end + 1]
        )
        if borders or not phrase.whole_word:
            return True
    return False


def oracle(phrases, tokens):
    """The tokens that finish a phrase behind these, by decoding and searching."""
    before = decode(tokens)
    return {
        t
        for t in range(len(RAW))
        if RAW[t] is not None and any(spells(p, before, decode([*tokens, t])) for p in phrases)
    }


class Engine:
    """Slots, histories and batches as vLLM's V2 runner has them."""

    def __init__(self, slots=4, longest=64):
        self.filter = DeviceFilter(device_vocabulary(), slots, END, kernels())
        self.tokens = torch.zeros(slots, longest, dtype=torch.int32)
        self.prompt_len = torch.zeros(slots, dtype=torch.int32)
        self.total_len = torch.zeros(slots, dtype=torch.int32)

    def add(self, slot, prompt, output=()):
        history = [*prompt, *output]
        self.tokens[slot, : len(history)] = torch.tensor(history, dtype=torch.int32)
        self.prompt_len[slot], self.total_len[slot] = len(prompt), len(history)

    def commit(self, slot, *tokens):
        for token in tokens:
            self.tokens[slot, self.total_len[slot]] = token
            self.total_len[slot] += 1

    def step(self, policies, batch, logits=None):
        """`batch` maps slots, in the order of their rows, to their draft tokens."""
        rows = [(slot, i, t) for slot, drafts in batch for i, t in enumerate([0, *drafts])]
        slot_of, local, inputs = (torch.tensor(column) for column in zip(*rows, strict=True))
        logits = torch.zeros(len(rows), len(RAW)) if logits is None else logits
        self.filter.flush()
        for policy in policies:
            policy.sets.upload()
        self.filter.apply(
            logits,
            policies,
            slot_of=slot_of,
            local=local.int(),
            inputs=inputs.int(),
            tokens=self.tokens,
            prompt_len=self.prompt_len,
            total_len=self.total_len,
        )
        self.logits = logits
        return [set(row.isneginf().nonzero().flatten().tolist()) for row in logits]

    def fact(self, slot):
        return divmod(int(self.filter.report[NUM_COUNTERS + slot]), 8)


def likely(rng, allowed, pending):
    """A token that goes on towards a phrase more often than not."""
    wanted = [t for t in allowed if t in (SPLIT if pending or rng.random() < 0.3 else LIKELY)]
    return rng.choice(wanted if wanted and rng.random() < 0.8 else allowed)


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


def a_slot(engine, phrases=None, slot=1, prompt=(SPECIAL,), nonce=9):
    policy = make_policy(phrases or [Phrase("a b")])
    engine.add(slot, prompt)
    engine.filter.open_slot(slot, policy, policy.sets.acquire((0,), ()).index, nonce)
    return policy


def only(rows, allowed):
    """Logits in which other rules have left nothing but some tokens."""
    logits = torch.full((rows, len(RAW)), float("-inf"))
    logits[:, allowed] = 1.0
    return logits


A, B, SPACE = (PIECES.index(p) for p in "ab ")
ALL_BUT_END = set(range(len(RAW))) - {END}


def test_a_row_with_nothing_left_ends():
    """The row ends, the fact names the request, and from the next token on the slot is closed."""
    engine = Engine()
    policy = a_slot(engine, prompt=[SPECIAL, A, SPACE])

    assert [ALL_BUT_END] == engine.step([policy], [(1, ())], only(1, [B]))
    assert engine.logits[0, END] == 0
    assert (9, CloseReason.NOTHING_LEFT) == engine.fact(1)

    engine.commit(1, END)

    assert [ALL_BUT_END] * 2 == engine.step([policy], [(1, (A,))])


def test_a_chunk_of_a_prompt_closes_nothing():
    """As long as no token comes of the row, the slot stays open and the fact is taken back."""
    engine = Engine()
    policy = a_slot(engine, prompt=[SPECIAL, A, SPACE])
    engine.step([policy], [(1, ())], only(1, [B]))

    assert B in engine.step([policy], [(1, ())])[0]
    assert A not in engine.step([policy], [(1, ())])[0]
    assert (9, 0) == engine.fact(1)


@pytest.mark.parametrize(("committed", "closed"), [((A,), False), ((A, SPACE, END), True)])
def test_an_empty_draft_row_closes_if_its_drafts_are_accepted(committed, closed):
    """What could not go on after rejected drafts is no reason to end."""
    engine = Engine()
    policy = a_slot(engine)
    logits = torch.zeros(3, len(RAW))
    logits[2] = only(1, [B])[0]
    found = engine.step([policy], [(1, (A, SPACE))], logits)
    engine.commit(1, *committed)

    assert [False, False, True] == [row == ALL_BUT_END for row in found]
    assert (9, CloseReason.NOTHING_LEFT) == engine.fact(1)
    assert ([ALL_BUT_END] == engine.step([policy], [(1, ())])) is closed
    assert (9, CloseReason.NOTHING_LEFT if closed else 0) == engine.fact(1)


def test_closed_slots_end_and_left_ones_are_not_touched():
    """Neither has a policy."""
    engine = Engine()
    engine.filter.close_slot(0, CloseReason.BAD_PARAMETERS, 3)
    engine.filter.close_slot(2, CloseReason.BAD_PARAMETERS, 4)
    engine.filter.flush()
    engine.filter.leave_slot(2)

    assert [set(), ALL_BUT_END, set()] == engine.step([], [(3, ()), (0, ()), (2, ())])


def test_counters():
    """Forbidden tokens, rows in which a begun phrase could be finished, and steered rows."""
    engine = Engine()
    policy = a_slot(engine, prompt=[SPECIAL, A, SPACE])
    found = engine.step([policy], [(3, ()), (1, (A, B))])

    assert (
        len(found[1]) + len(found[2]) + len(found[3])
        == engine.filter.report[Counter.FORBIDDEN_TOKENS]
    )
    assert 2 == engine.filter.report[Counter.INTERCEPTED_STEPS]
    assert 3 == engine.filter.report[Counter.STEERED_STEPS]


def test_logits_narrower_than_the_vocabulary():
    """Tokens that the model has no logit for are not written over the row's end."""
    engine = Engine()
    policy = a_slot(engine, [Phrase("fi"), Phrase("a", whole_word=False)])
    wide = torch.zeros(2, len(RAW))
    narrow = wide[:, : PIECES.index("ab")]
    engine.filter._end_id = 0
    engine.step([policy], [(1, ()), (3, ())], narrow)

    assert narrow[0].isneginf().any()
    assert not wide[:, PIECES.index("ab") :].any()
    assert not wide[1].any()


def test_untouched_logits_keep_their_bits():
    """What is not forbidden is bit-identical."""
    engine = Engine()
    policy = a_slot(engine, prompt=[SPECIAL, A, SPACE])
    logits = torch.randn(1, len(RAW))
    before = logits.clone()
    found = engine.step([policy], [(1, ())], logits)[0]

    assert found == set((logits != before)[0].nonzero().flatten().tolist())


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


@pytest.mark.skipif(INTERPRETED, reason="this is the interpreter")
def test_the_gpu_kernels_do_the_same():
    """All tests of this file that run a kernel, and those of others, in Triton's interpreter."""
    pytest.importorskip("triton", reason="Triton is not installed")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    others = ("test_device_kernels.py", "test_device_veto.py")
    command += [__file__, *(str(Path(__file__).with_name(name)) for name in others)]
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stdout
