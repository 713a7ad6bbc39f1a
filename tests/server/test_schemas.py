"""What an operator may send, and how a refusal names the field."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from detectors.targets import Action, Example, Phrase
from server.schemas import TargetIn, field_path


def _target(**fields: Any) -> dict[str, Any]:
    return {"id": "ada", "phrases": ["Port Sorrel"], **fields}


def test_defaults_suit_a_newcomer() -> None:
    """An id and one phrase are enough."""
    target = TargetIn.model_validate(_target()).to_target()

    assert target.phrases == (Phrase("Port Sorrel", whole_word=True),)
    assert target.action is Action.STEER
    assert target.alpha is None


def test_everything_reaches_the_detectors() -> None:
    """Every field that can be sent is in the ForgetTarget."""
    document = {
        "id": "a.b-c_1",
        "description": "d",
        "examples": [{"prompt": "p?", "answer": "a"}],
        "aliases": ["Ada"],
        "phrases": ["one", {"text": "two", "whole_word": False}],
        "excluded_phrases": ["three"],
        "documents": [{"text": "t", "source": "s", "metadata": {"k": "v"}}],
        "retain_examples": ["r?"],
        "action": "refuse",
        "enforcement": "observe",
        "scope": "always",
        "thresholds": {"alpha": 0.01, "delta": 0.8},
        "labels": {"team": "x"},
        "expires_at": "2999-01-01T00:00:00Z",
    }
    target = TargetIn.model_validate(document).to_target()

    assert target.examples == (Example("p?", "a"),)
    assert target.phrases == (Phrase("one"), Phrase("two", whole_word=False))
    assert target.documents[0].metadata == {"k": "v"}
    assert (target.action, target.enforcement, target.scope) == ("refuse", "observe", "always")
    assert (target.alpha, target.delta, target.labels) == (0.01, 0.8, {"team": "x"})


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"id": "Ada"}, "id"),
        ({"id": "a\n"}, "id"),
        ({"id": "a" * 65}, "id"),
        ({"id": "../x"}, "id"),
        ({"phrases": ["\0"]}, "phrases[0].text"),
        ({"phrases": ["..."]}, "phrases[0].text"),
        ({"phrases": ["\u200b"]}, "phrases[0].text"),
        ({"phrases": ["\ud800x"]}, "phrases[0].text"),
        ({"phrases": [{"text": "x", "whole_word": "yes"}]}, "phrases[0].whole_word"),
        ({"phrases": ["x"] * 10_001}, "phrases"),
        ({"examples": [{"prompt": "p", "answer": "a"}, {"prompt": "p"}]}, "examples[1].answer"),
        ({"examples": [{"prompt": "p", "answer": "x" * 20_001}]}, "examples[0].answer"),
        ({"documents": [{"uri": "http://x"}]}, "documents[0].text"),
        ({"documents": [{"text": "t", "uri": "http://x"}]}, "documents[0].uri"),
        ({"thresholds": {"alpha": 1}}, "thresholds.alpha"),
        ({"thresholds": {"alpha": "0.1"}}, "thresholds.alpha"),
        ({"thresholds": {"delta": 0.1}}, "thresholds.delta"),
        ({"thresholds": {"delta": 1.1}}, "thresholds.delta"),
        ({"thresholds": {"delta": "0.8"}}, "thresholds.delta"),
        ({"thresholds": {"minimum_match": 61}}, "thresholds.minimum_match"),
        ({"uld": {"weight": 1}}, "uld.assistant"),
        ({"uld": {"assistant": "a", "weight": 11.0}}, "uld.weight"),
        ({"action": "explode"}, "action"),
        ({"labels": {"a key": "v"}}, "labels.?"),
        ({"expires_at": "2999-01-01T00:00:00"}, "expires_at"),
        ({"colour": "red"}, "colour"),
        ({"phrases": []}, ""),
    ],
)
def test_refused(fields: dict[str, Any], path: str) -> None:
    """What is wrong, unsupported or without effect is refused and the field is named."""
    with pytest.raises(ValidationError) as caught:
        TargetIn.model_validate(_target(**fields))

    assert field_path(caught.value.errors(include_input=False)[0]["loc"]) == path


def test_stored_form_is_stable() -> None:
    """What is stored can be read again and means the same."""
    first = TargetIn.model_validate(
        _target(documents=[{"text": "t"}], thresholds={"alpha": 0.1, "delta": 1})
    )
    again = TargetIn.model_validate(first.model_dump(mode="json"))

    assert again == first


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=6,
)


@given(st.sampled_from(sorted(TargetIn.model_fields)), json_values)
def test_any_json_is_a_target_or_a_named_field(field: str, value: Any) -> None:
    """No JSON makes validation fail in another way; the error names the field."""
    try:
        TargetIn.model_validate(_target(**{field: value}))
    except ValidationError as error:
        path = field_path(error.errors(include_input=False)[0]["loc"])
        assert path.startswith(field) or (field == "phrases" and path == "")
