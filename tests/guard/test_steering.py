"""Slots in the worker: pinned to a policy, moved along, closed when they cannot be guarded."""

import pytest
import torch

from detectors.targets import Phrase
from guard.automaton import build_tables
from guard.follower import Active
from guard.ledger import CloseReason, Counter, LedgerReader, LedgerWriter
from guard.loaded import KEPT_POLICIES
from guard.loading import WorkerPart
from guard.params import GuardParams
from guard.patterns import index_phrases
from guard.snapshot import write_snapshot
from guard.steering import Steering
from guard.units import Units
from guard.vocabulary import Vocabulary
from tracing.successors import compile_successors

PIECES = (None, b"a", b"b", b" ", b"ab", b" a", b"c")
VOCABULARY = Vocabulary(PIECES)
END = 0


def write_policy(root, phrases, vocabulary=VOCABULARY, documents=()):
    patterns, ids = index_phrases(phrases)
    tables = build_tables(patterns, vocabulary)
    successors = compile_successors(documents, 3, vocabulary.size)
    arrays = WorkerPart(tables, Units.build([ids], []), successors).arrays()
    return write_snapshot(
        root, meta={"vocabulary": vocabulary.fingerprint}, arrays=arrays, documents={}
    )


@pytest.fixture
def ledger(tmp_path):
    return LedgerWriter(tmp_path / "facts")


@pytest.fixture
def reader(tmp_path, ledger):
    return LedgerReader(tmp_path / "facts")


@pytest.fixture
def steering(tmp_path, ledger):
    return Steering(tmp_path / "snapshots", VOCABULARY, [END], ledger)


def forbidden(steering, slots, rows=3):
    logits = torch.zeros(rows, VOCABULARY.size)
    steering.apply(logits, slots.items())
    return {row: set(logits[row].isneginf().nonzero().flatten().tolist()) for row in range(rows)}


def test_rows_are_forbidden_by_their_own_text(tmp_path, steering):
    """Each steered row loses the tokens that finish a phrase there; others are untouched."""
    digest = write_policy(tmp_path / "snapshots", [Phrase("a b")])
    first, second = [5, 3], [2]
    slots = {
        0: steering.open_slot(GuardParams(digest, 1, (0,)), [], first, constrained=False),
        2: steering.open_slot(GuardParams(digest, 2, (0,)), [], second, constrained=False),
    }

    assert {0: {2}, 1: set(), 2: set()} == forbidden(steering, slots)

    first.append(6)
    second.extend([3, 1, 3])

    assert {0: set(), 1: set(), 2: {2}} == forbidden(steering, slots)


def test_prevented_steps_are_told_of_each_request(tmp_path, steering, reader):
    """Of those that had begun a phrase, each step in which it could have been completed."""
    digest = write_policy(tmp_path / "snapshots", [Phrase("a b")])
    begun, idle = [1, 3], [2]
    slots = {
        0: steering.open_slot(GuardParams(digest, 11, (0,)), [], idle, constrained=False),
        1: steering.open_slot(GuardParams(digest, 12, (0,)), [], begun, constrained=False),
    }
    forbidden(steering, slots)
    begun.append(6)
    idle.append(6)
    forbidden(steering, slots)
    begun.extend([3, 1, 3])
    idle.append(6)
    forbidden(steering, slots)

    assert (reader.prevented(11), reader.prevented(12)) == (0, 2)
    assert reader.total(Counter.INTERCEPTED_STEPS) == 2


def test_slots_stay_pinned_to_their_policy(tmp_path, steering):
    """A newer policy changes new requests only."""
    old = write_policy(tmp_path / "snapshots", [Phrase("a")])
    slots = {0: steering.open_slot(GuardParams(old, 1, (0,)), [], [], constrained=False)}
    new = write_policy(tmp_path / "snapshots", [Phrase("c")])
    steering.preload(Active(2, new))
    slots[1] = steering.open_slot(GuardParams(new, 2, (0,)), [], [], constrained=False)

    assert {0: {1, 5}, 1: {6}, 2: set()} == forbidden(steering, slots)


def test_an_unknown_policy_closes_the_slot(steering, reader):
    """Without its policy a request can only end, and the gateway learns why."""
    slots = {1: steering.open_slot(GuardParams("0" * 64, 77, (0,)), [], [], constrained=False)}

    assert {0: set(), 1: {1, 2, 3, 4, 5, 6}, 2: set()} == forbidden(steering, slots)
    assert CloseReason.SNAPSHOT_UNAVAILABLE is reader.closed(77)
    assert 1 == reader.total(Counter.SNAPSHOT_FAILURES)


def test_a_damaged_or_foreign_policy_closes_the_slot(tmp_path, steering, reader):
    """Neither a damaged snapshot nor one of another tokenizer is used."""
    root = tmp_path / "snapshots"
    damaged = write_policy(root, [Phrase("a")])
    (root / damaged / "automaton.label.npy").write_bytes(b"")
    foreign = write_policy(root, [Phrase("b")], Vocabulary([None, b"b"]))
    for nonce, digest in enumerate((damaged, foreign), start=1):
        steering.open_slot(GuardParams(digest, nonce, (0,)), [], [], constrained=False)

        assert CloseReason.SNAPSHOT_UNAVAILABLE is reader.closed(nonce)


def test_an_unknown_unit_closes_the_slot(tmp_path, steering, reader):
    """A request that names what the policy does not have is not served unguarded."""
    digest = write_policy(tmp_path / "snapshots", [Phrase("a")])
    steering.open_slot(GuardParams(digest, 5, (3,)), [], [], constrained=False)

    assert CloseReason.BAD_PARAMETERS is reader.closed(5)


def test_a_slot_that_fails_while_it_is_opened_leaves_nothing(
    tmp_path, steering, reader, monkeypatch
):
    """Its place is free again, so that faults do not add up."""
    digest = write_policy(tmp_path / "snapshots", [Phrase("a")])
    monkeypatch.setattr("guard.veto.Veto.seed", lambda *_: 1 / 0)
    failed = [
        steering.open_slot(GuardParams(digest, n, (0,)), [], [], constrained=False) for n in (1, 2)
    ]
    taken = [slot.number for slot in failed]
    for slot in failed:
        steering.release(slot)
    monkeypatch.undo()
    after = [
        steering.open_slot(GuardParams(digest, n, (0,)), [], [], constrained=False) for n in (3, 4)
    ]

    assert CloseReason.INTERNAL_ERROR is reader.closed(1)
    assert set(taken) == {slot.number for slot in after}


@pytest.mark.parametrize(
    "place",
    [
        "guard.token_filter.TokenFilter.step",
        "guard.steering.penalise",
        "guard.steering.Batch.of",
        "guard.steering.Steering._close_empty",
    ],
)
def test_out_of_memory_ends_the_steered_rows_only(tmp_path, steering, reader, monkeypatch, place):
    """Wherever it happens in a step: no row goes on unguarded, and the batch goes on."""
    digest = write_policy(tmp_path / "snapshots", [Phrase("a b")])
    constrained = place.endswith("_close_empty")
    slots = {
        row: steering.open_slot(GuardParams(digest, row + 1, (0,)), [], [], constrained=constrained)
        for row in (0, 2)
    }

    def out_of_memory(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(place, out_of_memory)

    everything_else = {1, 2, 3, 4, 5, 6}
    assert forbidden(steering, slots) == {0: everything_else, 1: set(), 2: everything_else}

    monkeypatch.undo()

    assert forbidden(steering, slots) == {0: everything_else, 1: set(), 2: everything_else}
    assert reader.closed(1) is reader.closed(3) is CloseReason.INTERNAL_ERROR
    assert reader.closed_total(CloseReason.INTERNAL_ERROR) == 2


def test_a_placeholder_closes_the_slot(tmp_path, steering, reader):
    """If the engine cannot say what it sampled, the row cannot be judged."""
    digest = write_policy(tmp_path / "snapshots", [Phrase("a b")])
    output = [1]
    slots = {0: steering.open_slot(GuardParams(digest, 9, (0,)), [], output, constrained=False)}
    output.append(-1)

    assert {1, 2, 3, 4, 5, 6} == forbidden(steering, slots)[0]
    assert CloseReason.INTERNAL_ERROR is reader.closed(9)


def test_a_row_with_nothing_left_is_closed(tmp_path, steering, reader):
    """Where a grammar allows only what is forbidden, the text ends."""
    digest = write_policy(tmp_path / "snapshots", [Phrase("a")])
    slot = steering.open_slot(GuardParams(digest, 4, (0,)), [], [], constrained=True)
    logits = torch.full((1, VOCABULARY.size), float("-inf"))
    logits[0, 1] = 1.0
    steering.apply(logits, [(0, slot)])

    assert [0.0] == logits[0][~logits[0].isneginf()].tolist()
    assert CloseReason.NOTHING_LEFT is reader.closed(4)
    assert not logits.isnan().any()


def test_untouched_logits_keep_their_bits(tmp_path, steering):
    """What is not forbidden is bit-identical."""
    digest = write_policy(tmp_path / "snapshots", [Phrase("a")])
    slot = steering.open_slot(GuardParams(digest, 4, (0,)), [], [], constrained=False)
    logits = torch.randn(2, VOCABULARY.size)
    before = logits.clone()
    steering.apply(logits, [(1, slot)])
    changed = logits != before

    assert {(1, 1), (1, 5)} == {tuple(i) for i in changed.nonzero().tolist()}
    assert logits[changed].isneginf().all()


def test_resumed_requests_go_on_where_they_were(tmp_path, steering):
    """A request that comes back with its output forbids what it forbade before."""
    digest = write_policy(tmp_path / "snapshots", [Phrase("a b")])
    slots = {0: steering.open_slot(GuardParams(digest, 1, (0,)), [1], [3], constrained=False)}

    assert {2} == forbidden(steering, slots, rows=1)[0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_registered_runs_are_never_completed(tmp_path, steering, reader, dtype):
    """Whatever units are on; in the logits' own memory and where only indices can be sent."""
    documents = [[1, 3, 2, 6], [3, 2, 4]]
    digest = write_policy(tmp_path / "snapshots", [Phrase("c")], documents=documents)
    first, second = [1, 3], [2]
    slots = {
        0: steering.open_slot(GuardParams(digest, 1, (0,)), [], first, constrained=False),
        2: steering.open_slot(GuardParams(digest, 2), [END, 3], second, constrained=False),
    }

    def step():
        logits = torch.zeros(3, VOCABULARY.size, dtype=dtype)
        steering.apply(logits, slots.items())
        return [set(row.isneginf().nonzero().flatten().tolist()) for row in logits]

    assert [{2, 6}, set(), {1, 4, 6}] == step()

    first.append(2)
    second.extend([3, 1, 3])

    assert [{1, 4, 6}, set(), {2}] == step()

    moved = {2: slots[0], 0: slots[2]}
    slots.clear()
    slots.update(moved)

    assert [{2}, set(), {1, 4, 6}] == step()
    assert 4 + 4 + 4 == reader.total(Counter.VETOED_TOKENS)


def test_resumed_requests_are_vetoed_where_they_were(tmp_path, steering):
    """The run is read from the history; one may begin in an answer that was begun for the model."""
    digest = write_policy(tmp_path / "snapshots", [Phrase("zz")], documents=[[1, 2, 6]])
    slots = {
        0: steering.open_slot(GuardParams(digest, 1), [5, 1], [2], constrained=False),
        1: steering.open_slot(GuardParams(digest, 2), [1, END, 2], [], constrained=False),
        2: steering.open_slot(GuardParams(digest, 3), [5, 1, 2], [], constrained=False),
    }

    assert {0: {6}, 1: set(), 2: {6}} == forbidden(steering, slots)


def test_an_end_of_text_is_never_vetoed(tmp_path, ledger):
    """Not even one that documents hold as an ordinary token."""
    digest = write_policy(tmp_path / "snapshots", [Phrase("zz")], documents=[[1, 2, 6], [1, 2, 3]])
    steering = Steering(tmp_path / "snapshots", VOCABULARY, [END, 6], ledger)
    slots = {0: steering.open_slot(GuardParams(digest, 1), [], [1, 2], constrained=False)}

    assert {3} == forbidden(steering, slots, rows=1)[0]


def test_a_row_with_nothing_left_but_vetoed_tokens_is_closed(tmp_path, steering, reader):
    """Where a grammar allows only what would complete a run, the text ends."""
    digest = write_policy(tmp_path / "snapshots", [Phrase("zz")], documents=[[1, 2, 6]])
    slot = steering.open_slot(GuardParams(digest, 4), [], [1, 2], constrained=True)
    logits = torch.full((1, VOCABULARY.size), float("-inf"))
    logits[0, 6] = 1.0
    steering.apply(logits, [(0, slot)])

    assert [0.0] == logits[0][~logits[0].isneginf()].tolist()
    assert CloseReason.NOTHING_LEFT is reader.closed(4)


def test_a_policy_is_checked_outside_the_worker(tmp_path, steering, monkeypatch):
    """What is preloaded takes no hash from the process that steps, and no load from a request."""
    digest = write_policy(tmp_path / "snapshots", [Phrase("a")])
    monkeypatch.setattr("guard.checksums._PATIENCE_SECONDS", 60.0)
    monkeypatch.setattr("guard.snapshot.damaged_file", lambda *_: pytest.fail("hashed here"))
    steering.preload(Active(1, digest))
    monkeypatch.setattr("guard.steering.load_part", lambda *_: pytest.fail("loaded here"))
    slots = {0: steering.open_slot(GuardParams(digest, 1, (0,)), [], [], constrained=False)}

    assert {1, 5} == forbidden(steering, slots)[0]


def test_large_units_are_made_ready_in_pieces(tmp_path, steering, monkeypatch):
    """A request that names one finds it as it would have been worked out for it."""
    monkeypatch.setattr("guard.active_sets.LARGE_SET", 2)
    pauses = []
    monkeypatch.setattr("guard.loaded.Loaded._pause", lambda _: pauses.append(1))
    digest = write_policy(tmp_path / "snapshots", [Phrase(text) for text in ("a", "c", "b b")])
    steering.preload(Active(1, digest))
    before = len(pauses)
    slots = {0: steering.open_slot(GuardParams(digest, 1, (0,)), [], [2, 3], constrained=False)}

    assert {1, 2, 5, 6} == forbidden(steering, slots)[0]
    assert before == len(pauses) > 2


def test_a_policy_in_use_outlasts_newer_ones(tmp_path, steering, monkeypatch):
    """A request that is preempted while others go on finds its policy in memory."""
    root = tmp_path / "snapshots"
    digests = [write_policy(root, [Phrase("a" * n)]) for n in range(1, KEPT_POLICIES + 3)]
    for digest in digests[:2]:
        steering.preload(Active(1, digest))
    kept = steering.open_slot(GuardParams(digests[0], 1, (0,)), [], [], constrained=False)
    for digest in digests[2:]:
        steering.preload(Active(1, digest))
    loads = []
    monkeypatch.setattr("guard.steering.load_part", lambda *_: loads.append(1) or 1 / 0)
    again = steering.open_slot(GuardParams(digests[0], 2, (0,)), [], [], constrained=False)
    gone = steering.open_slot(GuardParams(digests[1], 3, (0,)), [], [], constrained=False)

    assert again.policy is kept.policy
    assert again.closed is None
    assert [1] == loads
    assert CloseReason.INTERNAL_ERROR is gone.closed
