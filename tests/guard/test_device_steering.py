"""Steering by engine slots on the CPU: policies, closed slots and what the gateway learns."""

import numpy as np
import pytest
import torch

from detectors.targets import Phrase
from guard.automaton import build_tables
from guard.device_steering import DeviceSteering
from guard.errors import AssistantError, GuardError, SnapshotError
from guard.follower import Active
from guard.ledger import CloseReason, Counter, LedgerReader, LedgerWriter
from guard.loading import WorkerPart
from guard.params import GuardParams
from guard.patterns import index_phrases
from guard.snapshot import write_snapshot
from guard.units import Units
from guard.vocabulary import Vocabulary
from tracing.successors import compile_successors

PIECES = (None, b"a", b"b", b" ", b"ab", b" a", b"c")
VOCABULARY = Vocabulary(PIECES)
END = 0
ALL_BUT_END = {1, 2, 3, 4, 5, 6}
SLOTS = 4


def write_policy(root, phrases, vocabulary=VOCABULARY, documents=(), rules=None):
    patterns, ids = index_phrases(phrases)
    tables = build_tables(patterns, vocabulary)
    successors = compile_successors(documents, 3, vocabulary.size)
    arrays = WorkerPart(tables, Units.build([ids], []), successors).arrays()
    return write_snapshot(
        root,
        meta={"vocabulary": vocabulary.fingerprint},
        arrays=arrays,
        documents={} if rules is None else {"uld": rules},
    )


class Worker:
    """A steering with the tensors that an engine would give it."""

    def __init__(self, root):
        self.root = root / "snapshots"
        self.reader = LedgerReader(root / "facts")
        ledger = LedgerWriter(root / "facts")
        self.steering = DeviceSteering(
            self.root, VOCABULARY, [END], ledger, num_slots=SLOTS, device=torch.device("cpu")
        )
        self.tokens = torch.zeros(SLOTS, 16, dtype=torch.int32)
        self.total_len = torch.ones(SLOTS, dtype=torch.int32)

    def open(self, slot, digest, nonce, targets=(0,), tokens=()):
        self.tokens[slot, 1 : 1 + len(tokens)] = torch.tensor(tokens, dtype=torch.int32)
        self.total_len[slot] = 1 + len(tokens)
        self.steering.open_slot(slot, GuardParams(digest, nonce, targets))

    def step(self, *slots, logits=None):
        logits = torch.zeros(len(slots), VOCABULARY.size) if logits is None else logits
        self.steering.flush()
        self.steering.apply(
            logits,
            np.array(slots),
            slot_of=torch.tensor(slots),
            local=torch.zeros(len(slots), dtype=torch.int32),
            inputs=torch.zeros(len(slots), dtype=torch.int32),
            tokens=self.tokens,
            prompt_len=torch.ones(SLOTS, dtype=torch.int32),
            total_len=self.total_len,
        )
        return [set(row.isneginf().nonzero().flatten().tolist()) for row in logits]


@pytest.fixture
def worker(tmp_path):
    return Worker(tmp_path)


def test_rows_are_forbidden_by_their_own_text_and_policy(worker):
    """Slots of two policies in one batch, in any order, beside one that is not steered."""
    first = write_policy(worker.root, [Phrase("a b")])
    second = write_policy(worker.root, [Phrase("c")])
    worker.open(0, first, 1, tokens=[5, 3])
    worker.open(3, second, 2)

    assert [{6}, set(), {2}] == worker.step(3, 1, 0)
    assert [{2}] == worker.step(0)
    assert [set()] == worker.step(1)


def test_a_slot_is_what_entered_it_last(worker):
    """Nothing of an earlier request is left, whether the next one is steered or not."""
    digest = write_policy(worker.root, [Phrase("a b")])
    worker.open(0, digest, 1, tokens=[5, 3])
    worker.step(0)
    worker.open(0, digest, 2, tokens=[6])

    assert [set()] == worker.step(0)

    worker.open(0, digest, 3, tokens=[5, 3])
    worker.steering.leave_slot(0)

    assert [set()] == worker.step(0)


def test_an_unknown_policy_closes_the_slot(worker):
    """Without its policy a request can only end, and the gateway learns why."""
    worker.open(1, "0" * 64, 77)

    assert [set(), ALL_BUT_END] == worker.step(0, 1)
    assert CloseReason.SNAPSHOT_UNAVAILABLE is worker.reader.closed(77)
    assert 1 == worker.reader.total(Counter.SNAPSHOT_FAILURES)

    worker.open(1, write_policy(worker.root, [Phrase("c")]), 78)

    assert [{6}] == worker.step(1)


def test_a_damaged_or_foreign_policy_closes_the_slot(worker):
    """Neither a damaged snapshot nor one of another tokenizer is used."""
    damaged = write_policy(worker.root, [Phrase("a")])
    (worker.root / damaged / "automaton.label.npy").write_bytes(b"")
    foreign = write_policy(worker.root, [Phrase("b")], Vocabulary([None, b"b"]))
    for nonce, digest in enumerate((damaged, foreign), start=1):
        worker.open(0, digest, nonce)

        assert CloseReason.SNAPSHOT_UNAVAILABLE is worker.reader.closed(nonce)
        assert [ALL_BUT_END] == worker.step(0)
        with pytest.raises(SnapshotError):
            worker.steering.preload(Active(1, digest))


def test_an_unknown_unit_closes_the_slot(worker):
    """A request that names what the policy does not have is not served unguarded."""
    worker.open(0, write_policy(worker.root, [Phrase("a")]), 5, targets=(3,))

    assert CloseReason.BAD_PARAMETERS is worker.reader.closed(5)
    assert [ALL_BUT_END] == worker.step(0)


def test_a_row_with_nothing_left_is_reported_and_taken_back(worker):
    """The fact is there with the step, and gone if no token came of the row."""
    worker.open(2, write_policy(worker.root, [Phrase("a")]), 4)
    empty = torch.full((1, VOCABULARY.size), float("-inf"))

    assert [ALL_BUT_END] == worker.step(2, logits=empty)
    assert CloseReason.NOTHING_LEFT is worker.reader.closed(4)
    assert 1 == worker.reader.closed_total(CloseReason.NOTHING_LEFT)

    worker.step(2)

    assert worker.reader.closed(4) is None
    assert 0 == worker.reader.closed_total(CloseReason.NOTHING_LEFT)


def test_counters_reach_the_ledger(worker):
    """Only differences are added, step by step."""
    worker.open(0, write_policy(worker.root, [Phrase("a b")]), 1, tokens=[1, 3])
    for steps in (1, 2, 3):
        worker.step(0)

        assert steps == worker.reader.total(Counter.STEERED_STEPS)
        assert steps == worker.reader.total(Counter.FORBIDDEN_TOKENS)
        assert steps == worker.reader.total(Counter.INTERCEPTED_STEPS)


def test_a_step_that_fails_ends_its_rows(worker, monkeypatch):
    """An exception in a step would end everybody's requests; it ends the steered ones'."""
    worker.open(1, write_policy(worker.root, [Phrase("a")]), 8)
    with monkeypatch.context() as patch:
        patch.setattr("guard.device_reference.forbid", None)

        assert [set(), ALL_BUT_END] == worker.step(0, 1)
    assert CloseReason.INTERNAL_ERROR is worker.reader.closed(8)
    assert [set(), ALL_BUT_END] == worker.step(0, 1)


def test_many_policies(worker, monkeypatch):
    """A slot keeps its policy when newer ones have taken its place."""
    monkeypatch.setattr("guard.device_steering.KEPT_POLICIES", 1)
    digests = [write_policy(worker.root, [Phrase(text)]) for text in ("a b", "c", "b")]
    for slot, digest in enumerate(digests):
        worker.open(slot, digest, slot + 1, tokens=[1, 3])

    assert [{2}, {6}, {2}] == worker.step(0, 1, 2)


def test_a_model_must_be_able_to_end(tmp_path):
    """Without an end-of-text token no slot could be closed."""
    ledger = LedgerWriter(tmp_path)
    with pytest.raises(GuardError, match="end-of-text"):
        DeviceSteering(tmp_path, VOCABULARY, [], ledger, num_slots=1, device=torch.device("cpu"))


def test_registered_runs_are_never_completed(worker):
    """From the snapshot, in an answer and from the prompt on, counted; never an end of text."""
    documents = [[5, 3, 2, 6], [5, 3, END], [4, 6]]
    digest = write_policy(worker.root, [Phrase("zz")], documents=documents)
    for slot, tokens in enumerate(([5, 3], [5, END, 3], [2, 3, 2], [4])):
        worker.open(slot, digest, slot + 1, targets=(), tokens=tokens)

    assert [{2}, {2}, {6}, {6}] == worker.step(0, 1, 2, 3)
    assert 4 == worker.reader.total(Counter.VETOED_TOKENS)


def test_what_it_cannot_subtract_it_does_not_serve(worker):
    """A policy with an assistant is rejected, and a request under it is closed."""
    rules = [{"assistant": "0" * 64, "weight": 1.0, "rate": 0.01}]
    digest = write_policy(worker.root, [Phrase("a")], rules=rules)
    with pytest.raises(AssistantError, match="subtracts nothing"):
        worker.steering.preload(Active(1, digest))
    worker.open(0, digest, 55)

    assert [ALL_BUT_END] == worker.step(0)
    assert CloseReason.ASSISTANT_UNAVAILABLE is worker.reader.closed(55)
