"""The pointer to the active policy and those who follow it."""

import errno
import json
import multiprocessing
import os
import signal
import threading
import time
from dataclasses import astuple
from itertools import pairwise

import pytest

from guard import follower as module
from guard.errors import PointerFenced, SnapshotMissing
from guard.follower import Active, ActivePointer, Follower, followers


def wait_for(condition, seconds=60.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "timed out"
        time.sleep(0.01)


def test_pointer_round_trip(tmp_path):
    """What is published is read back; before that there is nothing."""
    pointer = ActivePointer(tmp_path)

    assert pointer.read() is None

    pointer.publish(3, "a" * 64)

    assert Active(3, "a" * 64) == pointer.read()


def test_follower_takes_up_and_acknowledges(tmp_path):
    """A follower loads the policy in force at its start and every later one."""
    pointer, loaded = ActivePointer(tmp_path), []
    pointer.publish(1, "a" * 64)
    follower = Follower(tmp_path, "worker", loaded.append)
    follower.start()

    assert [1] == [f.generation for f in followers(tmp_path)]

    pointer.publish(2, "b" * 64)
    wait_for(lambda: followers(tmp_path)[0].generation == 2)

    assert [Active(1, "a" * 64), Active(2, "b" * 64)] == loaded

    follower.stop()

    assert [] == followers(tmp_path)


def test_a_former_leader_moves_nothing(tmp_path):
    """Under a lower epoch the pointer stays as it is, also where the later lead only claimed it."""
    pointer = ActivePointer(tmp_path)
    pointer.publish(1, "a" * 64)
    pointer.publish(2, "b" * 64, 4)
    follower, loaded = Follower(tmp_path, "worker", lambda active: loaded.append(active)), []
    follower.catch_up()
    pointer.claim(5)
    follower.catch_up()

    for stale in (0, 4):
        with pytest.raises(PointerFenced):
            pointer.publish(3, "c" * 64, stale)
        with pytest.raises(PointerFenced):
            pointer.claim(stale)

    assert (2, "b" * 64, 5) == astuple(pointer.read())
    assert [Active(2, "b" * 64)] == loaded  # a claim is no new policy

    # An older version's control process knows no epoch; one that was fenced off does.
    path = tmp_path / "active.json"
    path.write_text(json.dumps({"generation": 9, "digest": "d" * 64, "epoch": 4}))
    follower.catch_up()
    ignored = follower.state.generation
    path.write_text(json.dumps({"generation": 10, "digest": "e" * 64}))
    os.utime(path, ns=(1, 1))
    follower.catch_up()

    assert (2, 10) == (ignored, follower.state.generation)

    follower.stop()


def _claim_often(state_dir):
    for epoch in range(2, 60):
        ActivePointer(state_dir).claim(epoch)


def test_the_fence_holds_between_processes(tmp_path):
    """However the two interleave, nothing is published under an epoch that was passed."""
    pointer = ActivePointer(tmp_path)
    pointer.publish(1, "a" * 64, 1)
    process = multiprocessing.get_context("spawn").Process(target=_claim_often, args=(tmp_path,))
    process.start()
    generation, last = 1, 0
    while process.is_alive():
        epoch = pointer.read().epoch
        assert epoch >= last
        last = epoch
        try:
            pointer.publish(generation + 1, "b" * 64, epoch)
        except PointerFenced:
            continue
        generation += 1
    process.join()

    assert (generation, 59) == (pointer.read().generation, pointer.read().epoch)


def test_a_policy_that_cannot_be_loaded_is_reported(tmp_path):
    """The policy before stays in force, and the failure is told by class, not by text."""
    pointer = ActivePointer(tmp_path)

    def load(active):
        if active.generation == 2:
            raise SnapshotMissing("secret")

    pointer.publish(1, "a" * 64)
    follower = Follower(tmp_path, "gateway", load)
    follower.start()
    pointer.publish(2, "b" * 64)
    wait_for(lambda: followers(tmp_path)[0].failed_generation == 2)
    state = followers(tmp_path)[0]

    assert (1, "a" * 64, "SnapshotMissing") == (state.generation, state.digest, state.error)

    pointer.publish(3, "a" * 64)
    wait_for(lambda: followers(tmp_path)[0].generation == 3)
    follower.stop()


def _follow(state_dir):
    Follower(state_dir, "worker", lambda _active: None).start()
    time.sleep(600)


def test_a_killed_follower_is_not_waited_for(tmp_path):
    """The lock goes with the process, however it ends."""
    process = multiprocessing.get_context("spawn").Process(target=_follow, args=(tmp_path,))
    process.start()
    wait_for(lambda: len(followers(tmp_path)) == 1)
    os.kill(process.pid, signal.SIGKILL)
    process.join()

    assert [] == followers(tmp_path)
    assert not list((tmp_path / "followers").iterdir())


def test_what_could_not_be_loaded_is_tried_again(tmp_path, monkeypatch):
    """A file that could not be read for a moment needs no change of policy to be read."""
    monkeypatch.setattr(module, "RETRY_SECONDS", 0.05)
    pointer, tries = ActivePointer(tmp_path), []

    def load(_active):
        tries.append(time.monotonic())
        if len(tries) < 4:
            raise SnapshotMissing("gone for a moment")

    pointer.publish(1, "a" * 64)
    follower = Follower(tmp_path, "worker", load)
    follower.start()
    wait_for(lambda: followers(tmp_path)[0].generation == 1)
    time.sleep(0.3)
    follower.stop()
    pauses = [later - earlier for earlier, later in pairwise(tries)]

    assert len(tries) == 4
    assert all(pause >= 0.05 * 2**turn for turn, pause in enumerate(pauses))
    assert (follower.state.failed_generation, follower.state.error) == (0, "")


def test_a_full_disk_delays_what_is_told_only(tmp_path, monkeypatch):
    """The policy is taken up all the same, told as soon as there is room, and nothing is left."""
    full, dump = threading.Event(), json.dump

    def write(content, file):
        if full.is_set():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        dump(content, file)

    loaded = []
    follower = Follower(tmp_path, "worker", loaded.append)
    follower.start()
    pointer = ActivePointer(tmp_path)
    pointer.publish(1, "a" * 64)
    wait_for(lambda: followers(tmp_path)[0].generation == 1)
    pointer.publish(2, "b" * 64)
    monkeypatch.setattr(module.json, "dump", write)
    full.set()
    pointer_file = tmp_path / "active.json"
    pointer_file.write_text('{"generation": 3, "digest": "c"}')
    wait_for(lambda: loaded[-1].generation == 3)
    time.sleep(0.2)

    assert followers(tmp_path)[0].generation < 3
    # It tries again and again: a draft may be there for a moment.
    folder = tmp_path / "followers"
    wait_for(lambda: {path.suffix for path in folder.iterdir()} == {".json", ".lock"})

    with pytest.raises(OSError, match="No space"):
        pointer.publish(4, "d" * 64)
    assert pointer.read().generation == 3

    full.clear()
    wait_for(lambda: followers(tmp_path)[0].generation == 3)
    follower.stop()

    assert loaded.count(Active(3, "c")) == 1
