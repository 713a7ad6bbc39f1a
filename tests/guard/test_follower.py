"""The pointer to the active policy and those who follow it."""

import json
import multiprocessing
import os
import signal
import time
from dataclasses import astuple

import pytest

from guard.errors import PointerFenced, SnapshotMissing
from guard.follower import Active, ActivePointer, Follower, followers


def wait_for(condition, seconds=5.0):
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
    time.sleep(60)


def test_a_killed_follower_is_not_waited_for(tmp_path):
    """The lock goes with the process, however it ends."""
    process = multiprocessing.get_context("spawn").Process(target=_follow, args=(tmp_path,))
    process.start()
    wait_for(lambda: len(followers(tmp_path)) == 1, 30)
    os.kill(process.pid, signal.SIGKILL)
    process.join()

    assert [] == followers(tmp_path)
    assert not list((tmp_path / "followers").iterdir())
