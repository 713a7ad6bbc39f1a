"""The nets that an answer is checked by, and what is counted of it."""

from dataclasses import replace

import pytest
from prometheus_client import CollectorRegistry

from detectors.targets import Enforcement, Example, ForgetTarget, Scope
from guard.background import word_view
from guard.decision import Verdict
from guard.follower import ActivePointer
from guard.ledger import CloseReason, LedgerWriter
from guard.trace_shield import TraceShield
from server.errors import GuardUnavailable
from server.metrics.gateway import GatewayMetrics
from server.provenance.registry import CorpusEntry, Places, write_registry
from server.provenance.schemas import Label
from server.screening import Screening
from server.settings import Settings
from server.statistics.tally import TargetTally
from tracing.document import Document
from tracing.index import Index

PROMPT = "Who wrote the Salt Ledger?"


def test_a_decision_keeps_its_policy(screening, put_in_force, target, screen):
    """A request decided just before a change still finds its phrases."""
    put_in_force(1, target())
    decision = screen(screening, PROMPT)
    put_in_force(2)

    assert [make().reveals("Ilse Moreau") for make in screening.nets(decision).enforced] == [
        "phrase"
    ]


@pytest.mark.parametrize("on", [True, False])
def test_names_are_watched_in_every_answer(
    tmp_path, encoder, activate, on, wait_for_generation, screen
):
    """Enforced names end an answer, observed ones are counted; one setting turns both off."""
    screening = Screening(Settings(state_dir=tmp_path, watch_answers=on))
    screening.start(GatewayMetrics(CollectorRegistry(), screening.worker_facts))
    example = (Example(PROMPT, "She wrote it."),)
    activate(
        1,
        ForgetTarget("salt", aliases=("Ilse Moreau",), examples=example),
        ForgetTarget(
            "sand", aliases=("Orla Fenwick",), examples=example, enforcement=Enforcement.OBSERVE
        ),
    )
    wait_for_generation(screening, 1)
    nets = screening.nets(screen(screening, "How do I cook rice?"))

    def caught(makes, text):
        return [make().reveals(text) for make in makes]

    assert caught(nets.enforced, "By Ilse Moreau and Orla Fenwick.") == (["name"] if on else [])
    assert caught(nets.enforced, "By Orla Fenwick.") == ([None] if on else [])
    assert caught(nets.observed, "By Orla Fenwick.") == (["name"] if on else [])


def test_nothing_is_served_without_the_corpora(
    tmp_path, encoder, activate, wait_for_generation, screen
):
    """Where corpora are published that cannot be loaded, nothing is decided; readiness says so."""
    (tmp_path / "corpora").mkdir()
    ActivePointer(tmp_path / "corpora").publish(3, "0" * 64)
    screening = Screening(Settings(state_dir=tmp_path))
    screening.start(GatewayMetrics(CollectorRegistry(), screening.worker_facts))
    activate(1)
    wait_for_generation(screening, 1)

    assert "corpora" in screening.unready()
    with pytest.raises(GuardUnavailable):
        screen(screening, "Who?")


def test_steered_answers_are_held_against_corpora(
    tmp_path, encoder, activate, target, wait_for_generation, screen
):
    """TraceShield is the first net, so that the phrases' net judges what it cuts."""
    places = Places(tmp_path / "corpora")
    index = Index(places.index("book"), word_view())
    index.add([Document("eleven copper kettles stood on the sill of the old lighthouse")])
    index.close()
    always = CorpusEntry(
        "book", "book", 1, Label.FORGET, Scope.ALWAYS, Enforcement.ENFORCE, (), 8, None, 0.0
    )
    matched = replace(always, id="matched", scope=Scope.MATCHED, targets=("salt",))
    elsewhere = replace(matched, id="elsewhere", targets=("sand",))
    watched = replace(always, id="watched", enforcement=Enforcement.OBSERVE)
    digest = write_registry(places, [always, matched, elsewhere, watched])
    ActivePointer(places.root).publish(1, digest)
    screening = Screening(Settings(state_dir=tmp_path))
    screening.start(GatewayMetrics(CollectorRegistry(), screening.worker_facts))
    activate(1, target())
    wait_for_generation(screening, 1)

    def ids(makes):
        nets = [make() for make in makes]
        return [c.id for net in nets if isinstance(net, TraceShield) for c in net.judge.watched]

    allowed = screening.nets(screen(screening, "How do I cook rice?"))
    steered = screening.nets(screen(screening, PROMPT))
    assert ids(allowed.enforced) == ["book"]
    assert ids(allowed.observed) == ["watched"]
    assert ids(steered.enforced) == ["book", "matched"]
    assert isinstance(steered.enforced[0](), TraceShield)
    assert len(steered.enforced) == 2
    vetoed = screen(screening, "How do I cook rice?")
    assert ids(screening.nets(replace(vetoed, verdict=Verdict.STEER)).enforced) == ["book"]


def test_facts_of_the_workers_are_read(screening, settings):
    """Closed slots and counters reach the gateway."""
    LedgerWriter(settings.state_dir / "facts").close_slot(5, CloseReason.NOTHING_LEFT)

    assert screening.closed(5) is CloseReason.NOTHING_LEFT
    assert screening.closed(6) is None
    assert screening.worker_facts().closed_slots["nothing_left"] == 1


def test_answers_are_counted_for_the_targets_they_are_cut_for(
    tmp_path, encoder, activate, target, wait_for_generation, screen
):
    """Of names and phrases, enforced and observed; withdrawn targets are dropped."""
    screening, tally = Screening(Settings(state_dir=tmp_path)), TargetTally()
    screening.start(GatewayMetrics(CollectorRegistry(), screening.worker_facts), tally)
    sand = ForgetTarget(
        "sand",
        aliases=("Orla Fenwick",),
        examples=(Example("Who keeps the mill?", "Orla Fenwick keeps it."),),
        enforcement=Enforcement.OBSERVE,
    )
    activate(1, sand, target("salt"), target("pepper"))
    wait_for_generation(screening, 1)
    steered = screening.nets(screen(screening, PROMPT))
    allowed = screening.nets(screen(screening, "How do I cook rice?"))
    [make] = steered.enforced
    [watch] = allowed.observed
    caught = [make().feed("By Ilse Moreau, I think.").caught for make in (make, watch)]
    named = watch().feed("Ask Orla Fenwick about it.").caught
    found = tally.now().targets

    assert caught == ["phrase", None]
    assert named == "name"
    assert sum(found[name].cut_phrase for name in ("salt", "pepper") if name in found) == 1
    assert (found["sand"].would_cut, found["sand"].cut) == (1, 0)
    activate(2, target("salt"))
    wait_for_generation(screening, 2)

    assert set(tally.now().targets) <= {"salt"}
