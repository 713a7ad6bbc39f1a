"""Penalties in a step: only listed tokens of steered rows change, the same on both runners."""

import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from detectors.targets import Phrase
from guard.active_sets import IDLE_LIMIT, ActiveSets
from guard.automaton import build_tables
from guard.device_filter import DeviceFilter
from guard.device_policy import DevicePolicy, DeviceSets, DeviceTables
from guard.device_vocabulary import DeviceVocabulary
from guard.ledger import LedgerWriter
from guard.loading import WorkerPart
from guard.params import GuardParams
from guard.patterns import index_phrases
from guard.positions import Positions
from guard.semantic_penalties import MAX_TOKENS, Penalties
from guard.semantic_step import penalise
from guard.snapshot import write_snapshot
from guard.steering import Steering
from guard.token_filter import NO_LOGITS, TokenFilter
from guard.units import Units
from guard.vocabulary import Vocabulary
from tracing.successors import compile_successors

PIECES = (
    None,
    b"a",
    b" a",
    b"ab",
    b" ab",
    b" ",
    b"-",
    b"b",
    "é".encode()[:1],
    "é".encode()[1:],
    b"1",
)
VOCABULARY = Vocabulary(PIECES)
SIZE = VOCABULARY.size
CPU = torch.device("cpu")
LISTS = st.dictionaries(st.integers(1, SIZE - 1), st.floats(0.125, 4, width=16), max_size=6)
TEXTS = st.lists(st.lists(st.integers(1, SIZE - 1), max_size=6), min_size=3, max_size=3)


def make_units(ids, penalties):
    return Units.build([ids, []], [[]], Penalties.build(penalties))


def make_tables():
    patterns, ids = index_phrases([Phrase("ab a")])
    return build_tables(patterns, VOCABULARY), ids


def expected_loss(penalties, text):
    """Per token what it loses behind a text: the definition, by decoding it."""
    raw = b"".join(PIECES[t] or b"" for t in text)
    tail = raw.decode(errors="replace")[-1:]
    inside = tail.isalnum() or raw[-1:] == "é".encode()[:1]
    loss = np.zeros(SIZE, np.float32)
    for token, amount in penalties.items():
        piece = PIECES[token].decode(errors="replace")
        if not (inside and piece[0].isalnum()):
            loss[token] = amount
    return loss


class Host:
    """One slot per text in the V1 runner's core; row 3 has none."""

    def __init__(self, penalties):
        tables, ids = make_tables()
        self.filter = TokenFilter(tables, make_units(ids, penalties), VOCABULARY)
        self.positions = Positions()

    def losses(self, texts, units, plain):
        slots = [
            self.positions.take(
                self.filter.seed([], text), self.filter.sets.acquire((unit,), ()).index
            )
            for text, unit in zip(texts, units, strict=True)
        ]
        logits = torch.zeros(4, SIZE)
        memory = logits.numpy() if plain else NO_LOGITS
        rows = np.arange(len(slots))
        penalise(self.filter.sets, self.positions, np.array(slots), rows, logits, memory)
        return -logits.numpy()


def device_losses(penalties, texts, units):
    """The same through the V2 runner's filter, on CPU tensors."""
    tables, ids = make_tables()
    sets = DeviceSets(ActiveSets(tables, make_units(ids, penalties), VOCABULARY), CPU)
    policy = DevicePolicy(1, int(tables.longest[0]), DeviceTables.upload(tables, CPU), sets)
    device = DeviceFilter(DeviceVocabulary.build(VOCABULARY), 4, 0)
    tokens = torch.zeros(4, 16, dtype=torch.int32)
    lengths = torch.zeros(4, dtype=torch.int32)
    for slot, (text, unit) in enumerate(zip(texts, units, strict=True)):
        tokens[slot, : len(text)] = torch.tensor(text, dtype=torch.int32)
        lengths[slot] = len(text)
        device.open_slot(slot, policy, sets.acquire((unit,), ()).index, slot + 1)
    sets.upload()
    device.flush()
    logits = torch.zeros(4, SIZE)
    none = torch.zeros(4, dtype=torch.int32)
    device.apply(
        logits,
        [policy],
        slot_of=torch.arange(4),
        local=none,
        inputs=none,
        tokens=tokens,
        prompt_len=none,
        total_len=lengths,
    )
    return -logits.numpy()


@settings(max_examples=150, deadline=None)
@given(LISTS, LISTS, TEXTS, st.lists(st.integers(0, 1), min_size=3, max_size=3))
def test_only_listed_tokens_of_steered_rows_change(first, second, texts, units):
    """Both runners subtract what the definition says; every other logit stays as it was."""
    penalties = [first, second, {}]
    host = Host(penalties)
    expected = np.stack(
        [expected_loss(penalties[u], t) for t, u in zip(texts, units, strict=True)]
        + [np.zeros(SIZE, np.float32)]
    )

    assert np.array_equal(expected, host.losses(texts, units, plain=True))
    assert np.array_equal(expected, host.losses(texts, units, plain=False))

    found = device_losses(penalties, texts, units)
    vetoed = np.isinf(found)

    assert np.array_equal(expected[~vetoed], found[~vetoed])


@settings(max_examples=100, deadline=None)
@given(st.lists(LISTS, min_size=1, max_size=5))
def test_lists_merge_to_the_greatest(units):
    """Units on together give every token once, with the greatest of its amounts."""
    tokens, amounts = Penalties.build(units).of(range(len(units)))
    expected = {}
    for unit in units:
        for token, amount in unit.items():
            expected[token] = max(amount, expected.get(token, 0))

    assert dict(zip(tokens.tolist(), amounts.tolist(), strict=True)) == expected
    assert sorted(expected) == tokens.tolist()


def test_a_long_list_is_cut_to_what_loses_most():
    """The cost of a step is bounded, whatever is switched on."""
    units = [{token: float(1 + token % 997) for token in range(4 * MAX_TOKENS)}]
    tokens, amounts = Penalties.build(units).of([0])

    assert len(tokens) == MAX_TOKENS
    assert amounts.min() >= sorted(units[0].values())[-MAX_TOKENS]
    assert (np.diff(tokens) > 0).all()


def test_idle_sets_make_room_with_their_amounts():
    """Sets in use keep their lists when idle ones are dropped."""
    tables, ids = make_tables()
    count = IDLE_LIMIT + 8
    penalties = Penalties.build([{1: float(i + 1), 2: 0.5} for i in range(count)])
    sets = ActiveSets(tables, Units.build([ids] * count, [], penalties), VOCABULARY)
    kept = {i: sets.acquire((i,), ()) for i in (3, count - 1)}
    for i in range(count):
        sets.release(sets.acquire((i,), ()))
    for i, active in kept.items():
        _, _, low, _, high = sets.bounds[active.index].tolist()
        found = dict(
            zip(sets.pool[low:high].tolist(), sets.amounts[low:high].tolist(), strict=True)
        )

        assert found == {1: float(i + 1), 2: 0.5}


def write_policy(root, penalties, left_out=()):
    tables, ids = make_tables()
    successors = compile_successors([], 2, SIZE)
    arrays = WorkerPart(tables, make_units(ids, penalties), successors).arrays()
    arrays = {name: array for name, array in arrays.items() if name not in left_out}
    meta = {"vocabulary": VOCABULARY.fingerprint}
    return write_snapshot(root, meta=meta, arrays=arrays, documents={})


def test_a_snapshot_brings_its_penalties(tmp_path):
    """From the snapshot's files into a worker's step; a forbidden token stays forbidden."""
    digest = write_policy(tmp_path / "snapshots", [{2: 1.5, 4: 2.0}, {}, {}])
    steering = Steering(tmp_path / "snapshots", VOCABULARY, [0], LedgerWriter(tmp_path / "facts"))
    slots = {1: steering.open_slot(GuardParams(digest, 1, (0,)), [], [4], constrained=False)}
    before = torch.from_numpy(np.random.default_rng(0).normal(size=(3, SIZE)).astype(np.float32))
    logits = before.clone()
    steering.apply(logits, slots.items())

    assert torch.equal(before[[0, 2]], logits[[0, 2]])
    assert logits[1, 2] == -torch.inf
    assert logits[1, 4] == before[1, 4] - 2.0
    assert torch.equal(before[1, 5:], logits[1, 5:])


def test_a_snapshot_without_them_is_of_another_version(tmp_path):
    """It is not used: the slot is closed."""
    left_out = ("units.penalty_token",)
    digest = write_policy(tmp_path / "snapshots", [{}, {}, {}], left_out)
    steering = Steering(tmp_path / "snapshots", VOCABULARY, [0], LedgerWriter(tmp_path / "facts"))
    slot = steering.open_slot(GuardParams(digest, 1, (0,)), [], [], constrained=False)

    assert slot.closed is not None


@pytest.mark.parametrize("seed", range(3))
def test_without_penalties_nothing_is_touched(seed):
    """No list, no work: the logits are not even read."""
    rng = random.Random(seed)
    host = Host([{}, {}, {}])
    text = [rng.randrange(1, SIZE) for _ in range(4)]

    assert not host.losses([text], [0], plain=True).any()
    assert not host.filter.sets.has_penalties
