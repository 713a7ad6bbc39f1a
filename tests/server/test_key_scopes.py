"""What a key's scope does: which targets apply, and observing that changes nothing."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from detectors.targets import Enforcement, Example, ForgetTarget, Scope
from guard.background import word_view
from guard.compiler import compile_policy
from guard.decision import Decision, Verdict
from guard.follower import ActivePointer
from guard.key_scope import ALL_TARGETS, KeyScope
from guard.nets import MakeNet
from guard.trace_shield import TraceShield
from guard.vocabulary import Vocabulary
from server import screening as module
from server.auth import Caller, KeyRing, Role
from server.metrics.gateway import GatewayMetrics
from server.provenance.registry import CorpusEntry, Places, write_registry
from server.provenance.schemas import Label
from server.screening import Screening
from server.settings import Settings
from tests.hash_encoder import HashEncoder
from tracing.document import Document
from tracing.index import Index

SALT, SAND = "Who wrote the Salt Ledger?", "Who painted the Sand Portrait?"
SALT_TEXT = "eleven copper kettles stood on the sill of the old lighthouse"
SAND_TEXT = "nine pewter spoons lay under the bench of a new harbour office"
OBSERVING = KeyScope(enforcement=Enforcement.OBSERVE)


@pytest.fixture(scope="module")
def screening(tmp_path_factory: pytest.TempPathFactory) -> Screening:
    """Two refusing targets with names and documents, one of them labelled."""
    patch = pytest.MonkeyPatch()
    patch.setattr(module, "load_encoder", lambda *a, **k: HashEncoder())
    state_dir = tmp_path_factory.mktemp("state")
    settings = Settings(state_dir=state_dir)
    snapshot = compile_policy(
        [
            ForgetTarget("salt", examples=(Example(SALT, "She did."),), aliases=("Ilse Moreau",)),
            ForgetTarget(
                "sand",
                examples=(Example(SAND, "He did."),),
                aliases=("Orla Fenwick",),
                labels={"law": "gdpr", "team": "art"},
                tenant="acme",
            ),
        ],
        encoder=HashEncoder(),
        vocabulary=Vocabulary([None, *(bytes([b]) for b in range(256))]),
        snapshots=settings.snapshots,
        alpha=0.01,
        progress=lambda *a: None,
    )
    _publish_documents(state_dir)
    made = Screening(settings)
    made.start(GatewayMetrics(CollectorRegistry(), made.worker_facts))
    ActivePointer(state_dir).publish(1, snapshot.digest)
    end = time.monotonic() + 60
    while made.current() is None:
        assert time.monotonic() < end
        time.sleep(0.01)
    patch.undo()
    return made


def _publish_documents(state_dir: Path) -> None:
    places, name = Places(state_dir / "corpora"), "@targets-8-enforce-matched"
    index = Index(places.index(name), word_view())
    index.add(
        [
            Document(SALT_TEXT, metadata={"target": "salt"}),
            Document(SAND_TEXT, metadata={"target": "sand"}),
        ]
    )
    index.close()
    entry = CorpusEntry(
        name, name, 1, Label.FORGET, Scope.MATCHED, Enforcement.ENFORCE, (), 8, None, 0.0
    )
    ActivePointer(places.root).publish(1, write_registry(places, [entry]))


def _decide(screening: Screening, text: str, scope: KeyScope) -> Decision:
    return asyncio.run(screening.screen([text], scope))


def _caught(makes: Sequence[MakeNet], text: str) -> bool:
    return any(make().reveals(text) for make in makes)


@pytest.mark.parametrize(
    ("scope", "applies"),
    [
        (ALL_TARGETS, {"salt", "sand"}),
        (KeyScope(frozenset({"salt"})), {"salt"}),
        (KeyScope(labels=frozenset({("law", "gdpr")})), {"sand"}),
        (KeyScope(labels=frozenset({("law", "gdpr"), ("team", "law")})), set()),
        (KeyScope(frozenset({"salt"}), frozenset({("law", "gdpr")})), {"salt", "sand"}),
        (KeyScope(frozenset()), set()),
        (KeyScope(tenant="acme"), {"salt", "sand"}),
        (KeyScope(tenant="umbra"), {"salt"}),
    ],
)
def test_only_the_targets_that_apply(
    screening: Screening, scope: KeyScope, applies: set[str]
) -> None:
    """Prompts are judged and answers watched for them, whatever other keys asked before."""
    for name, prompt, alias in (("salt", SALT, "Ilse Moreau"), ("sand", SAND, "Orla Fenwick")):
        decision = _decide(screening, prompt, scope)
        nets = screening.nets(decision)

        assert {d.target_id for d in decision.detections} == applies & {name}
        assert (decision.verdict is Verdict.STEER) is (name in applies)
        assert _caught(nets.enforced, f"By {alias}.") is (name in applies)


def test_documents_of_other_targets_do_not_count(screening: Screening) -> None:
    """TraceShield looks for those of the key's targets only."""

    def stopped(scope: KeyScope) -> list[bool]:
        nets = screening.nets(_decide(screening, SALT, scope))
        shields = [net for make in nets.enforced if isinstance(net := make(), TraceShield)]
        assert len(shields) == 1
        return [
            any(make().feed(text).caught for make in nets.enforced)
            for text in (f"{SALT_TEXT} and so on", f"{SAND_TEXT} and so on")
        ]

    assert stopped(ALL_TARGETS) == [True, True]
    assert stopped(KeyScope(frozenset({"salt"}))) == [True, False]
    assert stopped(KeyScope(tenant="umbra")) == [True, False]


def test_a_document_that_ends_an_answer_counts_for_its_target(screening: Screening) -> None:
    """However many surfaces show it; and for no other target, whose prompt it may have been."""
    nets = screening.nets(_decide(screening, SALT, ALL_TARGETS))

    def cut(name: str) -> int:
        counts = screening._tally.now().targets.get(name)
        return 0 if counts is None else counts.cut_provenance

    before = cut("sand"), cut("salt")
    for _ in range(2):
        assert any(make().feed(f"{SAND_TEXT} and so on").caught for make in nets.enforced)

    assert (cut("sand"), cut("salt")) == (before[0] + 1, before[1])


def test_observing_records_what_enforcing_would_do(screening: Screening) -> None:
    """The request is allowed, its detections are there, and the nets only observe."""
    decision = _decide(screening, SALT, OBSERVING)
    nets = screening.nets(decision)

    assert (decision.verdict, decision.targets, decision.detections) == (Verdict.ALLOW, (), ())
    assert {d.target_id for d in decision.observed} == {"salt"}
    assert decision.would is not None
    assert decision.would.verdict is Verdict.STEER
    assert nets.enforced == ()
    assert _caught(nets.observed, "By Ilse Moreau.")
    assert any(isinstance(make(), TraceShield) for make in nets.observed)


class _Listed:
    """Keys with scopes."""

    required = True

    def find(self, digest: str, now: float) -> Caller | None:
        """Every key observes."""
        return Caller("key-1", Role.CLIENT, OBSERVING)


@pytest.mark.parametrize("text", ["about John", "about Mary", "hi"])
@pytest.mark.parametrize("stream", [False, True])
def test_an_observed_answer_is_the_engines_own(start_stack: Any, text: str, stream: bool) -> None:
    """Bytes in, bytes out, and what was found is counted."""
    raw = json.dumps(
        {"messages": [{"role": "user", "content": text}], "stream": stream, "echo": False}
    ).encode()
    headers = {"content-type": "application/json"}
    plain, observed = start_stack(), start_stack(keyring=KeyRing({}, _Listed))
    plain.guard.verdicts, plain.guard.forbidden = {}, []
    answers = []
    for stack in (plain, observed):
        stack.vllm.says = [["I am", " John", " Smith", "!"]]
        key = {"authorization": "Bearer lg-x", **headers}
        answers.append(stack.http.post("/v1/chat/completions", content=raw, headers=key))

    assert observed.vllm.raw_bodies == [raw]
    assert answers[0].content == answers[1].content
    assert observed.guard.scopes == [OBSERVING]
    assert observed.count("lethegate_requests_total", verdict="allow") == 1
    blocks = observed.count("lethegate_observed_blocks_total", surface="content", layer="phrase")
    assert blocks == (text == "about John")


def test_what_cannot_be_guarded_passes_where_nothing_is_enforced(start_stack: Any) -> None:
    """Beam search would pass by the guard, which only observes here."""
    fields = {"messages": [{"role": "user", "content": "hi"}], "use_beam_search": True}
    for ring, status in ((KeyRing({}), 400), (KeyRing({}, _Listed), 200)):
        stack = start_stack(keyring=ring)
        key = {"authorization": "Bearer lg-x"}
        answer = stack.http.post("/v1/chat/completions", json=fields, headers=key)

        assert answer.status_code == status


def test_a_request_cannot_choose_its_scope(start_stack: Any) -> None:
    """Neither a body nor a header says what is enforced."""
    stack = start_stack()
    headers = {"x-lethegate-enforcement": "observe", "x-lethegate-targets": "none"}
    body = {"messages": [{"role": "user", "content": "about Mary"}], "enforcement": "observe"}
    answer = stack.http.post("/v1/chat/completions", json=body, headers=headers)

    assert answer.json()["choices"][0]["finish_reason"] == "content_filter"
    assert stack.guard.scopes == [ALL_TARGETS]
