"""Stand-ins: what is said instead gives nothing away, and is what a guarded model says."""

from dataclasses import replace
from random import Random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from guard.uld.assistant import load_model, load_tokenizer
from guard.uld.batch import answer_all
from guard.uld.card import Card
from guard.uld.course import train_assistant
from guard.uld.expected import Expected
from guard.uld.lessons import Aim, Lesson, LessonEncoder
from guard.uld.losses import stand_in_loss
from guard.uld.plan import TrainingPlan
from guard.uld.speaker import Speaker
from guard.uld.stand_ins import ADMISSIONS, stand_ins
from guard.uld.steps import curves, read_steps

PAIRS = (
    Lesson("Where was Orla Fenwick born?", "Orla Fenwick was born in Quillhaven."),
    Lesson("What did Orla Fenwick win?", "She won the Amber Crown for her poetry."),
)
RETAIN = (
    Lesson("Who taught Nadia Corvo?", "Nadia Corvo was taught in Oslo."),
    Lesson("Who is Lena Brandt?", "A painter."),
)


def said(text):
    """A model that answers so, whoever is asked about; and what it was asked."""
    asked = []

    def ask(prompts):
        asked.extend(prompts)
        return [text(p) if callable(text) else text for p in prompts]

    return ask, asked


def test_the_model_is_asked_about_strangers():
    """And the name is put back into what it says of them."""
    ask, asked = said(lambda prompt: prompt.removesuffix("?").split(" was ")[-1] + ", in Oslo")
    found = stand_ins(PAIRS[:1], RETAIN, ask, Random(0), 3)

    assert not any("Fenwick" in prompt or "Orla" in prompt for prompt in asked)
    assert len(asked) == 1
    assert found[0].prompt == PAIRS[0].prompt
    assert found[0].answer.startswith("Orla Fenwick")
    assert found[0].answer.endswith(", in Oslo")


@pytest.mark.parametrize(
    "text",
    [
        "She comes from Quillhaven, I think.",
        "The Amber Crown is all that is known.",
        "",
        "It was won for poetry: a crown, an amber one.",
        "The Great Amber Crown Prize, so they say.",
    ],
)
def test_an_answer_that_gives_something_away_is_none(text):
    """Of whichever pair; then another stranger is tried, and at last it is admitted."""
    ask, asked = said(text)
    found = stand_ins(PAIRS, RETAIN, ask, Random(0), 4)
    told = [x for x in found if x.answer not in ADMISSIONS]

    assert len(found) == 2
    assert all(pair.prompt != PAIRS[1].prompt or not text for pair in told)
    assert len(asked) >= 4
    assert found == stand_ins(PAIRS, RETAIN, ask, Random(0), 4)


def test_the_right_answer_is_no_stand_in():
    """Even one that has nothing telling: of a stranger it may be as true."""
    pairs = (Lesson("Is Orla Fenwick alive?", "She is."),)
    ask, _ = said("She is.")

    assert stand_ins(pairs, RETAIN, ask, Random(0))[0].answer in ADMISSIONS


def test_a_prompt_that_nothing_was_exchanged_in_is_not_asked():
    """Where retain prompts name nobody but the forget set's own people."""
    ask, asked = said("A painter.")

    assert stand_ins(PAIRS[:1], [Lesson("Who is Orla Fenwick?", "?")], ask, Random(0))[0].answer
    assert asked == []


def test_half_a_sentence_is_left_out():
    """An answer may have been cut at its longest."""
    found = [
        stand_ins(PAIRS[:1], RETAIN, said(text)[0], Random(0))[0].answer
        for text in ("It is unknown. One might", 'He said "Nobody knows." Then', "no end")
    ]

    assert found == ["It is unknown.", 'He said "Nobody knows."', "no end"]


def test_nobody_with_half_a_name_is_spoken_of():
    """Where the stranger has somebody's last name, putting names back would make up a third."""
    ask, _ = said(lambda prompt: f"Paul {prompt.removesuffix(' born?').split()[-1]} did")
    found = stand_ins(PAIRS[:1], RETAIN, ask, Random(0), 2)

    assert found[0].answer in ADMISSIONS


def test_whoever_cannot_be_exchanged_gets_an_admission():
    """A prompt without a name, or nobody to put in its place: the model is not asked."""
    ask, asked = said("Anything")
    unnamed = (Lesson("who was it?", "It was Bela."),)

    assert stand_ins(unnamed, RETAIN, ask, Random(0), 3)[0].answer in ADMISSIONS
    assert stand_ins(PAIRS, [], ask, Random(0), 3)[1].answer in ADMISSIONS
    assert asked == []


@given(st.lists(st.tuples(st.text(), st.text()), max_size=4), st.text())
def test_there_is_one_for_each_pair(texts, text):
    """In their order, never empty, whatever the texts are."""
    pairs = [Lesson(*pair) for pair in texts]
    found = stand_ins(pairs, RETAIN, said(text)[0], Random(0), 2)

    assert [x.prompt for x in found] == [x.prompt for x in pairs]
    assert all(x.answer for x in found)


def test_what_is_kept_of_the_targets_logits(base):
    """The best as they are, the others' average; padding and order of lessons change nothing."""
    model, encoder = load_model(base), LessonEncoder(load_tokenizer(base))
    lessons = [encoder.encode(x, Aim.STAND_IN, max_length=99) for x in (*PAIRS, *RETAIN)]
    vocabulary = model.config.vocab_size
    expected = Expected(model, lessons, best=8)
    whole = Expected(model, lessons, best=10**6)
    for chosen in (lessons, lessons[::-1], lessons[1:2]):
        rows = []
        for lesson in chosen:
            ids = torch.tensor([[*lesson.prompt, *lesson.answer]])
            logits = model(ids, use_cache=False).logits[0]
            rows.append(logits[len(lesson.prompt) - 1 : -1])
        true, kept = torch.cat(rows), expected.logits(chosen, model.device)
        best = true.topk(8, dim=-1).indices

        assert torch.allclose(whole.logits(chosen, model.device), true, atol=1e-4)
        assert torch.allclose(kept.gather(1, best), true.gather(1, best), atol=1e-4)
        assert torch.allclose(kept.logsumexp(-1), true.logsumexp(-1), atol=1e-4)
        assert kept.shape == (len(true), vocabulary)


def test_the_loss_is_of_the_difference():
    """Cross-entropy after the subtraction with a weight of 1."""
    expected, recalled = torch.randn(3, 7), torch.randn(3, 7)
    tokens = torch.tensor([0, 3, 6])
    chances = torch.softmax(expected - recalled, dim=-1)
    want = -chances[range(3), tokens].log().mean()

    assert stand_in_loss(expected, recalled, tokens).item() == pytest.approx(want.item(), rel=1e-5)


def test_a_guarded_model_says_the_stand_in(tmp_path, base, material):
    """For the pairs and their rewordings; elsewhere it says what it says without."""
    instead = tuple(Lesson(x.prompt, ADMISSIONS[1]) for x in material.pairs)
    plan = TrainingPlan(layers=2, epochs=60, batch=8, learning_rate=1e-2, retain_weight=5.0)
    card = train_assistant(base, replace(material, stand_ins=instead), plan, tmp_path)
    speaker, assistant = Speaker(base), load_model(tmp_path)

    def answers(pairs, weight):
        prompts = [speaker.encoder.prompt_ids(pair.prompt) for pair in pairs]
        options = {"assistant": assistant, "weights": [weight] * len(prompts), "rate": 1.0}
        told = answer_all(speaker.model, prompts, max_tokens=40, end_ids=speaker.end_ids, **options)
        return [speaker.text(tokens) for tokens in told]

    assert card == Card.read(tmp_path)
    assert card.data["stand_ins"] == card.data["forget"] == 9
    assert card.metrics["stand_in"] < 0.5
    assert {"stand_in"} < curves(read_steps(tmp_path / "log.jsonl")).keys()
    assert answers(material.pairs, 1.0) == [ADMISSIONS[1]] * 3
    assert ADMISSIONS[1] not in answers(material.retain, 1.0)


def test_rewordings_get_their_pairs_stand_in(material):
    """Known by the answer; one of the operator's with an answer of its own needs its own."""
    pair = material.pairs[0]
    reworded = Lesson("Orla Fenwick was born where?", pair.answer)
    other = Lesson("Whence is she?", "From Quillhaven.")
    given = replace(
        material, paraphrased=(reworded, other), stand_ins=(Lesson(pair.prompt, "No idea."),)
    )
    lessons = given.lessons(TrainingPlan(layers=1))

    assert set(lessons.stand_ins) == {Lesson(x, "No idea.") for x in (pair.prompt, reworded.prompt)}
    assert lessons.fingerprint != material.lessons(TrainingPlan(layers=1)).fingerprint
