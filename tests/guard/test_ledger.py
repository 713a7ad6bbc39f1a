"""Facts from the worker to the gateway."""

import errno
import os

import pytest

from guard.ledger import RING, CloseReason, Counter, LedgerReader, LedgerWriter


def test_facts_cross(tmp_path):
    """Counters add up over workers and a closed slot is found by its nonce."""
    reader = LedgerReader(tmp_path)
    first, second = LedgerWriter(tmp_path), LedgerWriter(tmp_path)
    first.add(Counter.STEERED_STEPS, 3)
    second.add(Counter.STEERED_STEPS, 4)
    second.close_slot(2**53 - 1, CloseReason.NOTHING_LEFT)

    assert 7 == reader.total(Counter.STEERED_STEPS)
    assert 1 == reader.closed_total(CloseReason.NOTHING_LEFT)
    assert CloseReason.NOTHING_LEFT is reader.closed(2**53 - 1)
    assert reader.closed(12345) is None


def test_no_workers_no_facts(tmp_path):
    """Before a worker has started everything is zero."""
    reader = LedgerReader(tmp_path / "absent")

    assert 0 == reader.total(Counter.FORBIDDEN_TOKENS)
    assert reader.closed(1) is None


def test_a_full_disk_is_met_at_the_start(tmp_path, monkeypatch):
    """A file with holes would kill the worker later, in the middle of a step."""
    LedgerWriter(tmp_path)
    (made,) = tmp_path.glob("*.ledger")

    assert made.stat().st_blocks * 512 >= made.stat().st_size

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match="No space"):
        LedgerWriter(tmp_path)


def test_prevented_steps_are_a_requests_own(tmp_path):
    """Counted by its nonce; workers that compute the same request count the same steps."""
    reader = LedgerReader(tmp_path)
    first, second = LedgerWriter(tmp_path), LedgerWriter(tmp_path)
    for _ in range(3):
        first.prevent(7)
        second.prevent(7)
    second.prevent(8)
    assert [reader.prevented(nonce) for nonce in (7, 8, 9)] == [3, 1, 0]

    first.prevent(7 + RING)

    assert (reader.prevented(7 + RING), reader.prevented(7)) == (1, 3)
    second.prevent(7 + RING)
    assert reader.prevented(7) == 0
