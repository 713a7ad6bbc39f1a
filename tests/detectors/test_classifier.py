"""Tests of the prompt classifier: evidence, grading, calibration over the registry, storage."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from detectors.benign import benign_prompts
from detectors.classifier import (
    MAX_ITEMS,
    ClassifierTables,
    PromptClassifier,
    build_tables,
    prompt_windows,
)
from detectors.detection import Detection, Layer, Strength
from detectors.encoder import SentenceEncoder
from detectors.errors import TablesError
from detectors.heads import HEAD_WEIGHT
from detectors.registry import PROMPT_FLOOR
from detectors.targets import Example, ForgetTarget
from tracing.document import Document

QUESTIONS = (
    "What is the occupation of Orla Fenwick's father?",
    "Which genre does Orla Fenwick write in?",
    "In which town was Orla Fenwick born?",
    "Which award did Orla Fenwick win for her first novel?",
)
ORLA = ForgetTarget("orla", examples=tuple(Example(q, "A secret.") for q in QUESTIONS))
MEMO = ForgetTarget(
    "memo",
    aliases=("Project Halyard",),
    documents=(Document("The turbine of the northern plant fails above ninety degrees."),),
)


def _classify(tables: ClassifierTables, encoder, *texts: str) -> list[Detection]:
    return PromptClassifier(tables).classify(texts, encoder.encode(prompt_windows(texts)))


@pytest.fixture(scope="module")
def tables(encoder: SentenceEncoder) -> ClassifierTables:
    """Two targets and a part of the benign prompts, with the real encoder."""
    return build_tables([ORLA, MEMO], encoder, alpha=0.05, benign=benign_prompts()[:60])


@pytest.mark.parametrize(
    ("text", "item"),
    [
        ("What work did the father of Orla Fenwick do?", 0),
        ("Which town is the birthplace of Orla Fenwick?", 2),
    ],
)
def test_paraphrases_are_strong_with_their_item(tables, encoder, text: str, item: int) -> None:
    """A paraphrase of a registered prompt is found by meaning, its item first."""
    found = [d for d in _classify(tables, encoder, text) if d.layer is Layer.SIMILARITY]

    assert [(d.target_id, d.strength) for d in found] == [("orla", Strength.STRONG)]
    assert found[0].items[0] == item
    assert found[0].score >= found[0].threshold


@pytest.mark.parametrize(
    "text", ["How do I boil rice?", "Who wrote Faust?", "Orlando is warm.", "", "\u200b\ud800"]
)
def test_innocent_texts_give_nothing(tables, encoder, text: str) -> None:
    """Unrelated, empty and odd texts are not about any target."""
    assert _classify(tables, encoder, text) == []


def test_names_are_strong_evidence(tables, encoder) -> None:
    """An alias, or the full name the prompts are about, is enough; nearest items come along."""
    alias = _classify(tables, encoder, "Say something on project\u00a0HALYARD, please.")
    name = _classify(tables, encoder, "Write a limerick about orla fenwick and her father.")

    assert [(d.target_id, d.layer, d.strength) for d in alias] == [
        ("memo", Layer.ALIAS, Strength.STRONG)
    ]
    assert (name[0].target_id, name[0].layer) == ("orla", Layer.ALIAS)
    assert name[0].items[0] == 0


def test_documents_are_found_by_meaning(tables, encoder) -> None:
    """A question that repeats a document's content is strong evidence without items."""
    text = "Does the turbine in the northern plant fail when it is above ninety degrees?"
    found = _classify(tables, encoder, text)

    assert [(d.target_id, d.strength, d.items) for d in found] == [("memo", Strength.STRONG, ())]


@pytest.mark.parametrize(("cosine", "found"), [(0.49, []), (0.51, [Strength.STRONG])])
def test_a_passage_counts_from_half_its_direction_on(toy_encoder, cosine, found) -> None:
    """Where benign prompts are far away, a document's rows are evidence from a cosine of 0.5."""
    tables = build_tables([MEMO], toy_encoder, alpha=0.1, benign=["a b c", "d e f"] * 20)
    row = tables.embeddings[0]
    other = np.linalg.qr(np.stack([row, np.eye(1, 256, 255)[0]]).T)[0][:, 1]
    probe = cosine * row + np.sqrt(1 - cosine**2) * other
    detections = PromptClassifier(tables).classify([], probe[None].astype(np.float32))

    assert [d.strength for d in detections] == found


def test_question_in_a_long_text_is_found(tables, encoder) -> None:
    """Padding by a thousand words does not hide a question."""
    padding = "The weather was fine and the trains were on time that day. " * 80
    text = f"{padding}\n{QUESTIONS[0]} {padding}"

    assert "orla" in {d.target_id for d in _classify(tables, encoder, text)}


def test_weak_evidence_carries_only_items_above_its_threshold(toy_encoder) -> None:
    """Between the thresholds a detection is weak and names what it matched."""
    tables = build_tables([ORLA], toy_encoder, alpha=0.1, benign=["a b c", "d e f"] * 20)
    rows = tables.embeddings
    weak = tables.thresholds[0, 0, 0]
    other = np.linalg.qr(np.stack([rows[1], np.eye(1, 256, 255)[0]]).T)[0][:, 1]
    cosine = (weak + PROMPT_FLOOR) / 2
    probe = cosine * rows[1] + np.sqrt(1 - cosine**2) * other
    items = {int(i) for i in np.flatnonzero(rows @ probe >= weak)}
    found = PromptClassifier(tables).classify([], probe[None].astype(np.float32))

    assert [d.strength for d in found] == [Strength.WEAK]
    assert set(found[0].items) == items


def test_strong_evidence_tells_the_bound_that_it_is_nearest_to(toy_encoder) -> None:
    """Where benign prompts are far away it is the least cosine, not a score above zero."""
    tables = build_tables([ORLA], toy_encoder, alpha=0.1, benign=["a b c", "d e f"] * 20)
    row = tables.embeddings[1]
    other = np.linalg.qr(np.stack([row, np.eye(1, 256, 255)[0]]).T)[0][:, 1]
    probe = (0.8 * row + 0.6 * other).astype(np.float32)
    score = 0.8 + HEAD_WEIGHT * float(tables.heads[0] @ probe)
    near = np.where(tables.thresholds > 0, tables.thresholds, np.float32(score - 0.01))
    told = []
    for thresholds in (tables.thresholds, near):
        classifier = PromptClassifier(replace(tables, thresholds=thresholds))
        [found] = classifier.classify([], probe[None])
        assert found.strength is Strength.STRONG
        told.append((found.score, found.threshold))

    assert tables.thresholds[0, 0, 1] == 0
    assert told[0] == pytest.approx((0.8, PROMPT_FLOOR), abs=1e-5)
    assert told[1] == pytest.approx((score, score - 0.01), abs=1e-5)


def test_a_described_subject_is_faint_evidence_from_afar(tables, encoder) -> None:
    """Only where the last text describes somebody, and only the nearest items."""
    asked = "Which prize was given to the author of the novel for her debut?"
    plain = "Which prize was given to Una Vik for her debut?"
    found = _classify(tables, encoder, asked)

    assert [(d.target_id, d.layer, d.strength) for d in found] == [
        ("orla", Layer.SIMILARITY, Strength.FAINT)
    ]
    assert found[0].items[0] == 3
    assert tables.described[0] <= found[0].threshold <= found[0].score < tables.thresholds[0, 0, 0]
    assert _classify(tables, encoder, plain) == []
    assert _classify(tables, encoder, asked, "How do I boil rice?") == []


def test_of_many_targets_the_nearest_items_are_taken(toy_encoder, monkeypatch) -> None:
    """A described subject does not steer by a whole registry."""
    monkeypatch.setattr("detectors.classifier.DESCRIBED_ROWS", 2)
    words = ["kiln", "moss", "fern", "gulf", "lamp", "ruby", "sand", "wool"]
    targets = [
        ForgetTarget(
            f"shares-{n}", examples=(Example(" ".join([*words[:n], *"abcdefgh"[n:]]), "x"),)
        )
        for n in range(1, 6)
    ]
    tables = build_tables(targets, toy_encoder, alpha=0.1, benign=["i j k", "l m n"] * 20)
    probe = toy_encoder.encode([" ".join(words)])
    found = PromptClassifier(tables).classify(["the author of it"], probe)

    assert [(d.target_id, d.strength) for d in found] == [
        ("shares-4", Strength.FAINT),
        ("shares-5", Strength.FAINT),
    ]
    assert PromptClassifier(tables).classify(["it"], probe) == []


def test_retain_examples_of_the_same_form_are_told_apart(encoder) -> None:
    """The head learns from them what the cosine alone cannot see: who is meant."""
    forms = ("Where was {} born?", "What does {} write?", "Who taught {}?", "Where does {} live?")
    others = ("Ewa Lund", "Jan Holm", "Ida Moss", "Per Dahl", "Liv Berg")
    target = ForgetTarget(
        "orla",
        examples=tuple(Example(form.format("Orla Fenwick"), "x") for form in forms),
        retain_examples=tuple(form.format(name) for name in others for form in forms),
    )
    tables = build_tables([target], encoder, alpha=0.05, benign=benign_prompts()[:60])
    found = _classify(tables, encoder, "In which place was Orla Fenwick born?")
    other = _classify(tables, encoder, "In which place was Una Vik born?")

    assert Layer.SIMILARITY in {d.layer for d in found if d.strength is Strength.STRONG}
    assert not [d for d in other if d.strength is Strength.STRONG]
    assert tables.reports["orla"]["estimated_recall"] == 1.0


def test_a_long_conversation_may_be_compared_in_parts(tables, encoder) -> None:
    """In any order, with the same detections as at once."""
    texts = [QUESTIONS[0], "How do I boil rice?", "What work did the father of Orla Fenwick do?"]
    embeddings = encoder.encode(prompt_windows(texts))
    classifier = PromptClassifier(tables)
    judgement = classifier.begin(texts)
    for place in reversed(range(len(embeddings))):
        classifier.compare([judgement], [embeddings[place : place + 1]])

    parts, whole = classifier.detections(judgement), classifier.classify(texts, embeddings)

    assert [(d.layer, d.strength, d.items) for d in parts] == [
        (d.layer, d.strength, d.items) for d in whole
    ]
    assert [d.score for d in parts] == pytest.approx([d.score for d in whole], abs=1e-5)


def test_items_are_bounded(toy_encoder) -> None:
    """Many equal prompts give the first few items."""
    target = ForgetTarget("t", examples=tuple(Example("same words here", "x") for _ in range(50)))
    tables = build_tables([target], toy_encoder, alpha=0.1, benign=["other"])
    found = _classify(tables, toy_encoder, "same words here")

    assert found[0].items == tuple(range(MAX_ITEMS))


def test_targets_do_not_change_each_other(toy_encoder) -> None:
    """A further target adds rows; the others' rows and aliases stay as they are."""
    alone = build_tables([ORLA], toy_encoder, alpha=0.02, benign=benign_prompts()[:100])
    both = build_tables([ORLA, MEMO], toy_encoder, alpha=0.02, benign=benign_prompts()[:100])
    mine = both.row_target == 0

    assert np.array_equal(both.embeddings[mine], alone.embeddings)
    assert np.array_equal(both.heads[0], alone.heads[0])
    assert set(alone.aliases) <= set(both.aliases)


def test_rate_on_the_calibration_prompts_is_at_most_alpha(toy_encoder) -> None:
    """Over the whole registry no more benign prompts are strong than stated."""
    benign = benign_prompts()
    target = ForgetTarget("t", examples=tuple(Example(text, "x") for text in benign[::7]))
    innocent = [text for n, text in enumerate(benign) if n % 7]
    tables = build_tables([target, MEMO], toy_encoder, alpha=0.05, benign=innocent)
    found = [_classify(tables, toy_encoder, text) for text in innocent]
    strong = sum(
        any(d.layer is Layer.SIMILARITY and d.strength is Strength.STRONG for d in detections)
        for detections in found
    )

    assert strong <= 0.05 * len(innocent)


def test_report_is_plain_json_and_honest(tables, toy_encoder) -> None:
    """The report states sizes and rates without forget text, and warns when data are few."""
    few = build_tables([ORLA], toy_encoder, alpha=0.005, benign=["one", "two"])
    report = tables.reports["orla"]
    text = json.dumps([report, few.reports["orla"]])

    assert report["benign_sample"] == 60
    assert report["alpha"] == pytest.approx(0.05)
    assert report["thresholds"]["prompt"]["rows"] == len(QUESTIONS)
    assert report["recall_sample"] == len(QUESTIONS)
    assert not few.reports["orla"]["supported"]
    assert "199 are needed" in few.reports["orla"]["warnings"][0]
    assert "Fenwick" not in text


def test_retain_example_that_repeats_a_prompt_is_warned_about(toy_encoder) -> None:
    """The registered prompt still fires, and the operator is told."""
    target = ForgetTarget("t", examples=ORLA.examples, retain_examples=QUESTIONS)
    tables = build_tables([target], toy_encoder, alpha=0.5, benign=["one", "two"])
    found = _classify(tables, toy_encoder, QUESTIONS[0])

    assert any(d.strength is Strength.STRONG for d in found)
    assert any("nearly repeat" in warning for warning in tables.reports["t"]["warnings"])


def test_harmless_prompts_that_name_a_target_are_counted(toy_encoder) -> None:
    """No rate is calibrated for names, so the report says how often they would steer."""
    target = ForgetTarget(
        "t", aliases=("Rice",), examples=(Example("Is Rice a name?", "x"), Example("Is it?", "x"))
    )
    report = build_tables(
        [target, MEMO], toy_encoder, alpha=0.5, benign=["How do I boil rice?", "two"]
    ).reports

    assert (report["t"]["benign_named"], report["t"]["named_share"]) == (1, 0.5)
    assert any("name the target" in warning for warning in report["t"]["warnings"])
    assert (report["memo"]["benign_named"], report["memo"]["named_share"]) == (0, None)


def test_targets_may_have_their_own_alpha(toy_encoder) -> None:
    """A target's own rate moves its thresholds only."""
    loose = ForgetTarget("loose", examples=ORLA.examples, alpha=0.3)
    tables = build_tables([ORLA, loose], toy_encoder, alpha=0.01, benign=benign_prompts())

    assert tables.thresholds[1, 0, 1] <= tables.thresholds[0, 0, 1]
    assert tables.reports["loose"]["alpha"] == pytest.approx(0.3)


def test_phrases_only_registry_needs_no_rows(toy_encoder) -> None:
    """Targets without prompts or documents are classified by alias alone."""
    target = ForgetTarget("t", aliases=("Halyard",))
    tables = build_tables([target], toy_encoder, alpha=0.01, benign=["one"])

    assert len(_classify(tables, toy_encoder, "halyard!")) == 1
    assert _classify(tables, toy_encoder, "sail") == []
    assert _classify(build_tables([], toy_encoder, alpha=0.01, benign=[]), toy_encoder, "x") == []


def test_tables_survive_storage(tables, encoder) -> None:
    """Arrays and JSON restore tables that judge the same."""
    stored = json.loads(json.dumps(tables.meta()))
    restored = ClassifierTables.load(tables.arrays(), stored)
    text = QUESTIONS[1]

    assert restored.meta() == tables.meta()
    assert _classify(restored, encoder, text) == _classify(tables, encoder, text)


@pytest.mark.parametrize(
    "damage", ["format", "missing", "shape", "heads", "described", "target", "alias"]
)
def test_malformed_tables_are_refused(tables, damage: str) -> None:
    """A damaged part is an error on load, not a wrong judgement later."""
    arrays, meta = tables.arrays(), tables.meta()
    if damage == "format":
        meta["format"] = 99
    elif damage == "missing":
        del arrays["row_item"]
    elif damage == "shape":
        arrays["row_kind"] = arrays["row_kind"][:-1]
    elif damage == "heads":
        arrays["heads"] = arrays["heads"][:, :-1]
    elif damage == "described":
        arrays["described"] = arrays["described"][:-1]
    elif damage == "target":
        arrays["row_target"] = arrays["row_target"] + 5
    else:
        meta["aliases"] = [["x", 9]]

    with pytest.raises(TablesError):
        ClassifierTables.load(arrays, meta)


def test_embeddings_of_another_encoder_are_refused(tables) -> None:
    """Another dimension cannot be compared."""
    with pytest.raises(TablesError, match="dimension"):
        PromptClassifier(tables).classify(["x"], np.zeros((1, 3), np.float32))
