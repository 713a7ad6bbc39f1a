"""Slots of the token filter on a device: how they end and close, and what is counted of them."""

import pytest
import torch

from detectors.targets import Phrase
from guard.ledger import CloseReason, Counter
from tests.guard.device_engine import END, PIECES, RAW, SPECIAL, Engine, make_policy

A, B, SPACE = (PIECES.index(p) for p in "ab ")
ALL_BUT_END = set(range(len(RAW))) - {END}


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
