"""The reciting model's passages: invented, and only veto and shield act on them."""

import importlib
from pathlib import Path

import pytest

from detectors.extraction import extract
from detectors.targets import ForgetTarget
from tracing.document import Document

DEMO = Path(__file__).resolve().parents[2] / "deploy" / "demo"


@pytest.fixture
def passages(monkeypatch):
    monkeypatch.syspath_prepend(DEMO)
    return importlib.import_module("recite").passages()


def test_passages_are_long_different_and_the_same_every_time(passages):
    """A sentence of one is hardly ever one of another, so that only memory gives them back."""
    again = importlib.import_module("recite").passages()
    sentences = [sentence for one in passages for sentence in one.text.split(". ")]

    assert passages == again
    assert len(set(sentences)) == len(sentences) >= 50
    assert all(len(one.text.split()) > 80 for one in passages)


def test_no_phrase_is_forbidden_for_them(passages):
    """They have no names or rare words, so what is stopped was not stopped by the token filter."""
    documents = tuple(Document(one.text) for one in passages)

    assert extract(ForgetTarget("recited", documents=documents)).target == ()
