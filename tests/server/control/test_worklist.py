"""The worker's side of the store, step by step, on SQLite and on PostgreSQL."""

from __future__ import annotations

import time
from typing import Any

import pytest

from server.errors import PolicyNotCompiled
from server.records import JobRecord
from server.schemas import TargetIn
from server.store import Store
from server.tables import JobState, TargetStatus
from server.worklist import Worklist

pytestmark = pytest.mark.parametrize("database", ["sqlite", "postgresql"], indirect=True)


def _target(target_id: str = "ada", **fields: Any) -> TargetIn:
    return TargetIn.model_validate({"id": target_id, "phrases": ["Port Sorrel"], **fields})


def _activate(worklist: Worklist, batch: list[JobRecord], **reports: Any) -> int:
    plan = worklist.plan(batch)
    generation = worklist.record_generation("d" * 64, "f", "register", len(plan.targets), above=0)
    worklist.confirm(generation.number, batch, plan, reports)
    return generation.number


def test_a_batch_becomes_active(store: Store, worklist: Worklist) -> None:
    """Taken jobs run, and confirmed ones are done with their targets active and reported."""
    store.register(_target("a"))
    store.register(_target("b"))
    batch = worklist.take()
    assert store.target("a")[0].status is TargetStatus.COMPILING

    number = _activate(worklist, batch, a={"phrases": 1})

    record = store.target("a")[0]
    assert (record.status, record.active_revision, record.generation) == ("active", 1, number)
    assert record.report == {"phrases": 1}
    assert {store.jobs().find(job.id).state for job in batch} == {JobState.DONE}
    assert worklist.take() == []


def test_only_the_batch_changes_the_policy(store: Store, worklist: Worklist) -> None:
    """Targets whose jobs are not in the batch keep the revision in force, or stay out."""
    store.register(_target("a", description="one"))
    _activate(worklist, worklist.take())
    store.replace(_target("a", description="two"))
    store.register(_target("b"))
    batch = worklist.take()
    replace, register = batch

    assert [t.description for t in worklist.plan([register]).targets] == ["one", ""]
    assert [t.description for t in worklist.plan([replace]).targets] == ["two"]
    assert [t.id for t in worklist.plan(batch).targets] == ["a", "b"]


def test_changes_during_a_compilation_wait_for_the_next(store: Store, worklist: Worklist) -> None:
    """A target that is replaced while its batch runs is pending again, not active."""
    store.register(_target(description="one"))
    batch = worklist.take()
    plan = worklist.plan(batch)
    store.replace(_target(description="two"))
    worklist.confirm(
        worklist.record_generation("d" * 64, "f", "x", 1, above=0).number, batch, plan, {}
    )

    record = store.target("ada")[0]
    assert (record.status, record.revision, record.active_revision) == ("pending", 2, 1)
    _activate(worklist, worklist.take())
    assert store.target("ada")[0].status is TargetStatus.ACTIVE


def test_withdrawal_deletes_at_the_end(store: Store, worklist: Worklist) -> None:
    """A withdrawn target leaves the plan, and the store once that is in force."""
    store.register(_target())
    _activate(worklist, worklist.take())
    store.withdraw("ada")
    batch = worklist.take()
    plan = worklist.plan(batch)

    assert (plan.targets, plan.removed) == ((), ("ada",))
    assert store.target("ada")[0].status is TargetStatus.WITHDRAWN
    _activate(worklist, batch)
    assert store.target_page(None, 10) == []


def test_withdrawn_while_compiling(store: Store, worklist: Worklist) -> None:
    """A target withdrawn while its registration runs stays withdrawn, then goes."""
    store.register(_target())
    batch = worklist.take()
    plan = worklist.plan(batch)
    store.withdraw("ada")
    worklist.confirm(
        worklist.record_generation("d" * 64, "f", "x", 1, above=0).number, batch, plan, {}
    )

    assert store.target("ada")[0].status is TargetStatus.WITHDRAWN
    _activate(worklist, worklist.take())
    assert store.target_page(None, 10) == []


def test_failure_keeps_what_was_in_force(store: Store, worklist: Worklist) -> None:
    """A failed replacement leaves the old revision in every later plan."""
    store.register(_target(description="one"))
    _activate(worklist, worklist.take())
    store.replace(_target(description="two"))
    batch = worklist.take()
    worklist.fail(batch, PolicyNotCompiled("no"))

    record = store.target("ada")[0]
    assert record.status is TargetStatus.FAILED
    assert record.error is not None
    assert record.error.code == "policy_not_compiled"
    assert store.jobs().find(batch[0].id).state is JobState.FAILED
    assert [t.description for t in worklist.plan([]).targets] == ["one"]


def test_failed_withdrawal_says_active(store: Store, worklist: Worklist) -> None:
    """A target that could not be withdrawn is still in force and says so."""
    store.register(_target())
    _activate(worklist, worklist.take())
    store.withdraw("ada")
    worklist.fail(worklist.take(), PolicyNotCompiled("no"))

    assert store.target("ada")[0].status is TargetStatus.ACTIVE
    store.withdraw("ada")


def test_recovery(store: Store, worklist: Worklist) -> None:
    """Jobs of a dead process are queued again, in order."""
    jobs = [store.register(_target(name))[1] for name in ("a", "b")]
    worklist.take()

    assert worklist.recover() == 2
    assert store.target("a")[0].status is TargetStatus.PENDING
    assert [job.id for job in worklist.take()] == [job.id for job in jobs]


def test_generations_only_grow(worklist: Worklist) -> None:
    """A number is above every recorded one and above the pointer's."""
    numbers = [
        worklist.record_generation("d" * 64, "f", "x", 0, above=above).number
        for above in (0, 0, 9, 3)
    ]

    assert numbers == [1, 2, 10, 11]


def test_last_good(worklist: Worklist) -> None:
    """The newest confirmed generation of the same models counts, others do not."""
    for digest, fingerprint, confirmed in (
        ("a" * 64, "f", True),
        ("b" * 64, "f", False),
        ("c" * 64, "other", True),
    ):
        number = worklist.record_generation(digest, fingerprint, "x", 0, above=0).number
        if confirmed:
            worklist.confirm(number)
    good = worklist.last_good("f")

    assert good is not None
    assert good.digest == "a" * 64
    assert worklist.last_good("new") is None


def test_kept_digests(worklist: Worklist) -> None:
    """The newest digests are kept, and all that ruled after a time."""
    for letter in "abcd":
        worklist.record_generation(letter * 64, "f", "x", 0, above=0)

    assert worklist.digests_since(2, time.time() + 60) == {"c" * 64, "d" * 64}
    assert len(worklist.digests_since(1, time.time() - 60)) == 4


def test_recompile_is_asked_for_once(worklist: Worklist) -> None:
    """One waiting recompilation is enough."""
    first, second = worklist.request_recompile(), worklist.request_recompile()

    assert first.id == second.id
    assert [job.kind for job in worklist.take()] == ["recompile"]
    assert worklist.request_recompile().id != first.id
