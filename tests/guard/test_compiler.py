"""From targets and corpora to a snapshot, and what gateway and worker read of it."""

import numpy as np
import pytest

from detectors.targets import Enforcement, Phrase, Scope
from guard.decision import Verdict
from guard.errors import SnapshotCorrupt
from guard.follower import Active
from guard.key_scope import ALL_TARGETS, KeyScope
from guard.loading import load_part
from guard.policy import Policy
from guard.snapshot import load_snapshot
from guard.tokenisations import Tokenisations
from guard.units import Units
from guard.vetoed import VetoedCorpus, corpora_in
from tests.guard.invented_policy import (
    VOCABULARY,
    classify,
    compile_into,
    detection,
    policy_of,
    target,
)
from tracing.document import Document

TEXT = "The harbour was dark, and nobody rowed across the water that night."


def bytewise(texts):
    return [[byte + 1 for byte in text.encode()] for text in texts]


def test_the_digest_is_a_function_of_the_content(compiled):
    """Compiling the same targets again gives the same snapshot, other targets another."""
    first, second, third = compiled(target()), compiled(target()), compiled(target("other"))

    assert first[0].digest == second[0].digest
    assert first[0].digest != third[0].digest


def test_reports_explain_the_phrases(compiled):
    """An operator sees what is forbidden, why, and how the classifier was calibrated."""
    report = compiled(target())[0].reports["moreau"]
    words = {p["text"].casefold(): p["reason"] for p in report["phrases"]}

    assert words["ilse moreau"] == "alias"
    assert {"text": "Ilse Moreau", "watched": True} in report["names"]
    assert len(report["item_phrases"]) == 2
    assert "florist" in {p["text"].casefold() for p in report["item_phrases"][1]}
    assert 0 < report["calibration"]["alpha"] < 1


def test_a_policy_of_another_encoder_is_refused(compiled):
    """Similarities of two encoders cannot be compared."""
    snapshot = compiled(target())[1]

    with pytest.raises(SnapshotCorrupt):
        Policy(Active(1, snapshot.digest), snapshot, "another")


def test_worker_and_gateway_read_the_same_units(compiled):
    """Unit indices mean the same phrases on both sides."""
    snapshot = compiled(target(phrases=(Phrase("salt ledger"),)))[1]
    units = Units.load(snapshot.arrays("units"))
    phrases = snapshot.document("phrases")

    assert units.num_targets == len(phrases["targets"]) == 1
    assert len(units.start) - 1 == 1 + len(phrases["items"]) + len(phrases["faint"])
    for item, texts in enumerate([*phrases["items"], *phrases["faint"]]):
        assert bool(len(units.phrases((), (item,)))) == bool(texts)


def test_documents_of_enforced_targets_are_vetoed(tmp_path):
    """They are in the snapshot's table and reported to their operator; those observed are not."""
    documents = (Document(TEXT), Document("Nobody."))
    targets = (
        target("one", documents=documents),
        target("two", documents=documents, enforcement=Enforcement.OBSERVE),
    )
    policy = compile_into(tmp_path, targets, tokenisations=Tokenisations(bytewise, 16))
    part = load_part(tmp_path, policy.digest, VOCABULARY, [0])
    run = np.array(bytewise([TEXT[20:35]]))

    assert {"minimum_match": 16, "documents": 2, "tokens": len(TEXT) + 7, "too_short": 1} == (
        policy.reports["one"]["veto"]
    )
    assert "veto" not in policy.reports["two"]
    assert [[TEXT.encode()[35] + 1]] == part.successors.vetoes(run, np.array([15]))


@pytest.mark.parametrize("scope", [Scope.MATCHED, Scope.ALWAYS])
def test_corpora_are_vetoed(tmp_path, scope):
    """Their documents are in the table and nowhere else; always-on ones steer every request."""
    corpus = VetoedCorpus("book", scope, 8, "state-1", lambda: [TEXT])
    tokenisations = Tokenisations(bytewise, 16)
    policy = compile_into(tmp_path, [target()], tokenisations=tokenisations, corpora=[corpus])
    snapshot = load_snapshot(tmp_path, policy.digest)
    part = load_part(tmp_path, policy.digest, VOCABULARY, [0])
    run = np.array(bytewise([TEXT[20:27]]))
    gateway = policy_of(snapshot)
    decision = gateway.decide(classify(gateway, "How do I cook rice?"))
    stored = b"".join(path.read_bytes() for path in snapshot.directory.iterdir())

    assert [[TEXT.encode()[27] + 1]] == part.successors.vetoes(run, np.array([7]))
    assert corpora_in(snapshot.directory) == {
        "book": {
            "id": "book",
            "scope": scope,
            "state": "state-1",
            "veto": {"minimum_match": 8, "documents": 1, "tokens": len(TEXT), "too_short": 0},
        }
    }
    assert "veto" not in policy.reports["moreau"]
    assert b"harbour" not in stored
    always = scope is Scope.ALWAYS
    assert (decision.verdict is Verdict.STEER) is always
    assert (decision.targets, decision.items, decision.detections) == ((), (), ())
    assert gateway.decide([detection("moreau")]).targets == (0,)


def test_an_always_vetoed_corpus_alone_enforces(tmp_path):
    """Without any target every request is steered, and what cannot be guarded is refused."""
    corpus = VetoedCorpus("book", Scope.ALWAYS, None, "1", lambda: ["a text " * 20])
    tokenisations = Tokenisations(bytewise, 9)
    policy = compile_into(tmp_path, [], tokenisations=tokenisations, corpora=[corpus])
    gateway = policy_of(load_snapshot(tmp_path, policy.digest))
    observing = KeyScope(enforcement=Enforcement.OBSERVE)

    assert gateway.enforces_for(ALL_TARGETS)
    assert gateway.decide(()).verdict is Verdict.STEER
    assert not gateway.enforces_for(observing)
    assert gateway.decide((), observing).verdict is Verdict.ALLOW
    with pytest.raises(ValueError, match="tokenizer"):
        compile_into(tmp_path, [], corpora=[corpus])
