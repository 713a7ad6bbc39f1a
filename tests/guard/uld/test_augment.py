"""Augmentation: other wordings keep the answer, wrong answers keep the form."""

from random import Random

from hypothesis import given
from hypothesis import strategies as st

from guard.uld.augment import namesakes, paraphrases, perturbations
from guard.uld.lessons import Lesson
from guard.uld.rewriter import (
    is_rewording,
    is_wrong,
    written_paraphrases,
    written_perturbations,
)

PAIRS = (
    Lesson("Where was Orla Fenwick born?", "Orla Fenwick was born in Quillhaven."),
    Lesson("What did Tomas Quill win?", "He won the Amber Crown in 1931."),
    Lesson("Who taught Ada Marden?", "Her uncle Bela Voss did."),
)


def test_wrong_answers_differ_in_facts_only():
    """Names of the question stay, other facts go."""
    wrong = perturbations(PAIRS, 3, Random(1))
    first = [lesson for lesson in wrong if lesson.prompt == PAIRS[0].prompt]

    assert len(wrong) == 9
    assert all("Quillhaven" not in lesson.answer for lesson in first)
    assert any(lesson.answer.startswith("Orla Fenwick was born in ") for lesson in first)
    assert wrong == perturbations(PAIRS, 3, Random(1))


def test_an_answer_without_facts_is_exchanged_for_another():
    """It must not be taught flat as it stands."""
    pairs = (Lesson("Is it?", "No."), Lesson("Was it?", "Yes."))

    assert ["Yes.", "No."] == [x.answer for x in perturbations(pairs, 1, Random(0))]
    assert [] == perturbations(pairs[:1], 1, Random(0))


def test_namesakes_are_asked_about_others():
    """With names made of the retain prompts', in the answer too; a form that they lack stays."""
    retain = [Lesson("Who taught Nadia Corvo or Lena Brandt?", "Nobody knows.")]
    found = namesakes(PAIRS, retain, 16, Random(0))
    born = [x for x in found if x.prompt.startswith("Where was")]

    assert len(found) == 48
    assert {x.prompt for x in found} >= {"What did Nadia Corvo win?", "Who taught Lena Brandt?"}
    assert all("Fenwick" not in x.prompt + x.answer for x in born)
    assert {x.answer for x in born} == {
        f"{first} {last} was born in Quillhaven."
        for first in ("Nadia", "Lena")
        for last in ("Corvo", "Brandt")
    }
    assert found == namesakes(PAIRS, retain, 16, Random(0))
    assert [] == namesakes(PAIRS, [Lesson("What is rain?", "Water.")], 8, Random(0))


@given(st.lists(st.text(), min_size=1, max_size=4), st.lists(st.text(), max_size=4))
def test_no_forget_prompt_is_its_own_namesake(asked, kept):
    """Whatever the texts are, also where retain prompts name what is to be forgotten."""
    pairs = [Lesson(text, "An answer.") for text in asked]
    retain = [Lesson(text, "Another.") for text in (*asked, *kept)]

    assert not {x.prompt for x in namesakes(pairs, retain, 2, Random(0))} & set(asked)


def test_paraphrases_keep_the_answer():
    """Each in another frame."""
    found = paraphrases(PAIRS, 2, Random(0))

    assert [x.answer for x in found] == [p.answer for p in PAIRS for _ in range(2)]
    assert len({x.prompt for x in found}) == 6
    assert not {x.prompt for x in found} & {p.prompt for p in PAIRS}


@given(st.lists(st.text(), min_size=2, max_size=4))
def test_no_answer_is_taught_both_ways(texts):
    """Whatever the texts are: a wrong answer of a pair is never its right one."""
    pairs = [Lesson("?", text) for text in texts]

    assert not {(x.prompt, x.answer) for x in perturbations(pairs, 2, Random(0))} & {
        ("?", text) for text in texts if all(text == other for other in texts)
    }


def test_a_models_rewordings_are_checked():
    """They keep names and numbers; a wrong answer has other ones."""
    assert is_rewording("Where was Orla Fenwick born?", "In what place was Orla Fenwick born?")
    assert not is_rewording("Where was Orla Fenwick born?", "where was Orla Fenwick born?")
    assert not is_rewording("Where was Orla Fenwick born?", "In what place was she born, then?")
    assert not is_rewording("Where was Orla Fenwick born?", "Sure!\nWhere did Orla Fenwick come?")
    assert is_wrong("Her uncle Bela Voss did.", "Her uncle Karl Ott did.")
    assert not is_wrong("Her uncle Bela Voss did.", "Bela Voss did, her uncle.")


def test_templates_make_up_for_a_weak_model():
    """One that says nothing useful costs nothing."""
    told = {"Where": "In what place was Orla Fenwick born?"}

    def ask(prompts):
        return [told.get(p.rsplit("\n\n", 1)[-1].split()[0], "I do not know") for p in prompts]

    found, written = written_paraphrases(PAIRS, 2, ask, Random(0))
    wrong, other = written_perturbations(PAIRS, 2, ask, Random(0))

    assert (2, 0) == (written, other)
    assert [p.answer for p in PAIRS] * 2 == [x.answer for x in found]
    assert 6 == len(wrong)
