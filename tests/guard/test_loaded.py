"""Policies that are loaded beside the steps: in pieces, once, and kept while they are used."""

import sys
import threading

import pytest

from guard.loaded import KEPT_POLICIES, Loaded


class Loads:
    """Notes what is loaded and with which switch interval; a load can be held up."""

    def __init__(self):
        self.digests, self.intervals, self.used = [], [], set()
        self.pauses = 0
        self.begun = threading.Event()
        self.loaded = Loaded(self.load, lambda policy: policy in self.used)

    def load(self, digest, pause):
        self.digests.append(digest)
        self.intervals.append(sys.getswitchinterval())
        self.begun.set()
        for _ in range(self.pauses if pause else 0):
            pause()
        return f"policy {digest}"


def test_a_policy_is_loaded_once():
    """By whoever asks first."""
    loads = Loads()

    assert "policy a" == loads.loaded.preload("a") == loads.loaded.get("a")
    assert "policy b" == loads.loaded.get("b") == loads.loaded.preload("b")
    assert ["a", "b"] == loads.digests


def test_the_interpreter_is_given_up_often_while_one_is_preloaded():
    """And as seldom as before afterwards, also when a load fails."""
    loads, before = Loads(), sys.getswitchinterval()
    loads.loaded.preload("a")

    assert loads.intervals[0] <= 0.0005
    assert before == sys.getswitchinterval()

    loads.load = None
    with pytest.raises(TypeError):
        Loaded(loads.load, bool).preload("b")
    assert before == sys.getswitchinterval()


def test_the_newest_and_the_used_are_kept():
    """However many come after them; one that is activated again is the newest."""
    loads = Loads()
    loads.used.add("policy used")
    for digest in ("used", "idle", *map(str, range(KEPT_POLICIES - 2)), "idle", "x", "y"):
        loads.loaded.preload(digest)
    loads.digests.clear()
    for digest in ("used", "idle", "x", "0"):
        loads.loaded.get(digest)

    assert ["0"] == loads.digests


def test_a_request_does_not_wait_for_pauses():
    """A load that gives way to steps does so no longer when one waits for it."""
    loads = Loads()
    loads.pauses = 1_000_000
    thread = threading.Thread(target=loads.loaded.preload, args=("a",))
    thread.start()
    loads.begun.wait()

    assert "policy a" == loads.loaded.get("a")
    thread.join()
    assert ["a"] == loads.digests
