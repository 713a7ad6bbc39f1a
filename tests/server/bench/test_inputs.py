"""Questions, target and model come from files or from the demo, with a clear word if not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from server.bench import inputs
from server.bench.errors import InputMissing
from server.bench.inputs import matched_questions, model_or_demo, read_target, unmatched_questions


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As if run from a wheel, where there is no demo."""
    monkeypatch.setattr(inputs, "_DEMO", tmp_path / "demo")
    monkeypatch.setattr(inputs, "_DEMO_MODEL", tmp_path / "model")


class TestDefaults:
    def test_are_the_demos(self) -> None:
        """Its target, its questions in other words, and retain questions kept for testing."""
        prompts = {example["prompt"] for example in json.loads(read_target(None))["examples"]}

        assert prompts
        assert not prompts & set(matched_questions(None))
        assert not set(matched_questions(None)) & set(unmatched_questions(None))

    @pytest.mark.usefixtures("installed")
    def test_without_a_checkout_the_options_are_asked_for(self) -> None:
        """Each by its name."""
        with pytest.raises(InputMissing, match="--model"):
            model_or_demo(None)
        with pytest.raises(InputMissing, match="--target"):
            read_target(None)
        with pytest.raises(InputMissing, match="--unmatched"):
            unmatched_questions(None)
        with pytest.raises(InputMissing, match="--matched"):
            matched_questions(None)


class TestFiles:
    def test_every_line_is_a_question(self, tmp_path: Path) -> None:
        """Other fields do not matter."""
        path = tmp_path / "questions.jsonl"
        path.write_text('{"question": "a?", "split": "x"}\n\n{"question": "b?"}\n')

        assert unmatched_questions(path) == ["a?", "b?"]
        assert matched_questions(path) == ["a?", "b?"]

    @pytest.mark.parametrize("content", ["", "[1]\n", '{"prompt": "secret"}\n', "{nonsense\n"])
    def test_a_bad_file_is_named_and_not_quoted(self, tmp_path: Path, content: str) -> None:
        """Questions about a target are the operator's secret."""
        path = tmp_path / "questions.jsonl"
        path.write_text(content)
        with pytest.raises(InputMissing, match=r"questions\.jsonl") as raised:
            matched_questions(path)

        assert "secret" not in str(raised.value)

    @pytest.mark.parametrize("content", [b"[]", b"{", b"\xff"])
    def test_a_target_is_one_object(self, tmp_path: Path, content: bytes) -> None:
        """It is looked at before servers are started for it."""
        path = tmp_path / "target.json"
        path.write_bytes(content)
        with pytest.raises(InputMissing):
            read_target(path)
        with pytest.raises(InputMissing):
            read_target(tmp_path / "nowhere.json")
