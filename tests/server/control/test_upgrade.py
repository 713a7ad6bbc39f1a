"""An upgrade: what the present version makes of the state directory of an earlier one.

`state-of-2026-11-21.tar.gz` is that of commit da7a8b1, written by its own control process: one
target in force, snapshots of format 1, a store without migrations and without corpora.
"""

from __future__ import annotations

import logging
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from guard.errors import SnapshotOutdated
from guard.follower import Active, ActivePointer, Follower
from guard.key_scope import ALL_TARGETS
from guard.loading import load_part
from guard.policy import Policy
from guard.snapshot import load_snapshot
from guard.vocabulary import Vocabulary

REAL = Path(__file__).with_name("real_control.py")
OLD = Path(__file__).with_name("state-of-2026-11-21.tar.gz")
VOCABULARY = Vocabulary([bytes([byte]) for byte in range(256)])
NAME = "Ilse Moreau"


@pytest.fixture
def upgraded(control: Any) -> Any:
    """A control process of this version, not started yet, on the old state directory."""
    with tarfile.open(OLD) as archive:
        archive.extractall(control.state_dir, filter="data")
    control.script = REAL
    return control


@pytest.fixture
def gateway_and_worker(upgraded: Any) -> Iterator[tuple[list[Policy], list[Any]]]:
    """What a gateway and a worker of this version apply, as they follow the pointer."""
    snapshots = upgraded.state_dir / "snapshots"
    policies: list[Policy] = []
    parts: list[Any] = []

    def as_gateway(active: Active) -> None:
        policies.append(Policy(active, load_snapshot(snapshots, active.digest), "hash"))

    def as_worker(active: Active) -> None:
        parts.append(load_part(snapshots, active.digest, VOCABULARY, []))

    kinds: list[tuple[str, Callable[[Active], None]]]
    kinds = [("gateway", as_gateway), ("worker", as_worker)]
    started = [Follower(upgraded.state_dir, kind, load) for kind, load in kinds]
    for follower in started:
        follower.start()
    yield policies, parts
    for follower in started:
        follower.stop()


def test_an_old_policy_is_never_applied_and_is_compiled_anew(
    upgraded: Any,
    gateway_and_worker: tuple[list[Policy], list[Any]],
) -> None:
    """Not even in part; nothing is in force until the targets are compiled, and then all are."""
    policies, parts = gateway_and_worker
    old = ActivePointer(upgraded.state_dir).read()
    assert old is not None
    with pytest.raises(SnapshotOutdated, match="another version"):
        load_snapshot(upgraded.state_dir / "snapshots", old.digest)
    before = (list(policies), list(parts))
    upgraded.start()
    upgraded.until(lambda: upgraded.ready() and policies and parts)
    targets = upgraded.http.get("/targets").json()["targets"]
    told = upgraded.http.get("/generation").json()
    jobs = upgraded.http.get("/jobs").json()["jobs"]

    assert old.generation == 2
    assert before == ([], [])
    assert [(t["id"], t["status"], t["revision"]) for t in targets] == [("moreau", "active", 1)]
    assert (told["generation"], told["in_force"], told["num_targets"]) == (3, True, 1)
    assert told["digest"] != old.digest
    assert {f["generation"] for f in told["followers"]} == {3}
    assert (jobs[0]["kind"], jobs[0]["state"]) == ("recompile", "done")
    assert policies[-1].watches(ALL_TARGETS).enforced.find(f"She is {NAME}, a baker.")
    assert len(parts[-1].units.phrases((0,), ()))


def test_whoever_meets_an_old_policy_says_so(
    upgraded: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """In the log and to the control process, by versions and a digest."""
    snapshots = upgraded.state_dir / "snapshots"
    follower = Follower(
        upgraded.state_dir, "worker", lambda active: load_snapshot(snapshots, active.digest)
    )
    with caplog.at_level(logging.ERROR):
        follower.catch_up()
    state = follower.state
    follower.stop()

    assert (state.generation, state.failed_generation, state.error) == (0, 2, "SnapshotOutdated")
    assert "was compiled by another version of Lethegate (format 1, " in caplog.text
    assert NAME not in caplog.text
