"""Phrases over the admin API and from the shell: seen, edited, previewed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner, Result

from detectors.benign import benign_prompts
from server.cli import app
from server.errors import InvalidField
from server.log import configure_logging
from server.phrases import PhraseEdit, edited, list_phrases
from server.schemas import TargetIn

TARGETS = "/admin/v1/targets"
QUESTION = "Where was Ada Novak born?"
ADA = {
    "id": "ada",
    "aliases": ["Ada Novak"],
    "phrases": ["How"],
    "examples": [{"prompt": QUESTION, "answer": "She was born in Port Sorrel, in a blue house."}],
}


def error(response: httpx.Response) -> tuple[int, str | None, str]:
    """Status, field and code of a refusal."""
    found = response.json()["error"]
    return response.status_code, found["param"], found["code"]


def phrases(admin: httpx.Client, target_id: str = "ada") -> dict[str, dict[str, Any]]:
    """A target's phrases by text; those of the whole target win."""
    listed = admin.get(f"{TARGETS}/{target_id}/phrases").json()["phrases"]
    return {phrase["text"]: phrase for phrase in reversed(listed)}


@pytest.fixture
def ada(admin: httpx.Client, settle: Callable[[Callable[[], bool]], None]) -> httpx.Client:
    """The admin API with one target in force."""
    assert admin.post(TARGETS, json=ADA).status_code == 202
    settle(lambda: admin.get(f"{TARGETS}/ada").json()["status"] == "active")
    settle(lambda: admin.get("/admin/v1/jobs").json()["jobs"][0]["state"] == "done")
    return admin


class TestList:
    def test_every_phrase_has_its_reason_and_unit(self, ada: httpx.Client) -> None:
        """What holds always, what holds with an item only, and how ordinary each is."""
        response = ada.get(f"{TARGETS}/ada/phrases")
        listed, found = response.json(), phrases(ada)

        assert response.headers["etag"] == ada.get(f"{TARGETS}/ada").headers["etag"]
        assert (listed["target_id"], listed["revision"], listed["struck"]) == ("ada", 1, [])
        assert listed["benign_texts"] == len(benign_prompts())
        assert found["How"]["reason"] == "operator"
        assert (found["Ada Novak"]["reason"], found["Ada Novak"]["unit"]) == ("alias", "target")
        assert found["Port Sorrel"] | {"unit": "", "item": 0} == {
            "text": "Port Sorrel",
            "whole_word": True,
            "reason": "name",
            "unit": "",
            "item": 0,
            "benign_touched": 0,
        }
        assert (found["blue"]["unit"], found["blue"]["item"]) == ("item", 0)
        assert found["blue"]["reason"] == "answer_word"

    def test_harmless_texts_are_counted_over_the_registry(self, ada: httpx.Client) -> None:
        """Built-in prompts and the retain examples of every target, each once."""
        built_in = sum("how" in text.lower().split() for text in benign_prompts())
        before = phrases(ada)["How"]["benign_touched"]
        other = {"id": "bob", "phrases": ["x1"], "retain_examples": ["How?", "A blue one", "How?"]}
        ada.post(TARGETS, json=other)
        after = phrases(ada)

        assert before >= built_in > 0
        assert after["How"]["benign_touched"] == before + 1
        assert after["blue"]["benign_touched"] >= 1

    def test_parts_of_words_are_counted_inside_words(self) -> None:
        """A phrase that needs no borders touches more."""
        part = {"text": "ow", "whole_word": False}
        target = TargetIn.model_validate({"id": "a", "phrases": ["ow", part]})
        [listed] = list_phrases(target, 1, []).phrases

        assert not listed.whole_word
        assert listed.benign_touched == sum("ow" in text.lower() for text in benign_prompts())

    def test_unknown_targets_and_other_roles_see_nothing(self, ada: httpx.Client) -> None:
        """404, and 403 for an auditor: phrases are forget text."""
        auditor = {"authorization": "Bearer auditor-key"}

        assert error(ada.get(f"{TARGETS}/bob/phrases"))[0] == 404
        assert ada.get(f"{TARGETS}/ada/phrases", headers=auditor).status_code == 403
        assert ada.post(f"{TARGETS}:preview", json=ADA, headers=auditor).status_code == 403
        edit = {"strike": ["blue"]}
        assert ada.post(f"{TARGETS}/ada/phrases", json=edit, headers=auditor).status_code == 403


class TestEdit:
    def test_an_edit_is_a_new_revision_with_a_job(self, ada: httpx.Client) -> None:
        """Added phrases hold for the whole target; struck ones of any unit do not come back."""
        etag = ada.get(f"{TARGETS}/ada").headers["etag"]
        edit = {"add": ["Marden", {"text": "sorrel", "whole_word": False}], "strike": ["BLUE"]}
        response = ada.post(f"{TARGETS}/ada/phrases", json=edit, headers={"if-match": etag})
        found = phrases(ada)

        assert response.status_code == 202
        assert response.json()["job"]["kind"] == "replace"
        assert response.json()["target"]["revision"] == 2
        assert response.headers["etag"] != etag
        assert found["Marden"]["reason"] == found["sorrel"]["reason"] == "operator"
        assert "blue" not in found
        assert ada.get(f"{TARGETS}/ada/phrases").json()["struck"] == ["BLUE"]
        assert ada.get(f"{TARGETS}/ada").json()["target"]["examples"] == ADA["examples"]

    def test_what_was_struck_can_be_added_again_and_back(self, ada: httpx.Client) -> None:
        """An operator's own phrase leaves the list, an alias stays an alias."""
        path = f"{TARGETS}/ada/phrases"
        ada.post(path, json={"strike": ["how", "Ada Novak"]})
        target = ada.get(f"{TARGETS}/ada").json()["target"]

        assert not {"How", "Ada Novak"} & set(phrases(ada))
        assert (target["phrases"], target["aliases"]) == ([], ["Ada Novak"])

        ada.post(path, json={"add": ["How"]})
        assert phrases(ada)["How"]["reason"] == "operator"
        assert ada.get(path).json()["struck"] == ["Ada Novak"]

    @pytest.mark.parametrize(
        ("edit", "param"),
        [
            ({}, "add"),
            ({"add": [], "strike": []}, "add"),
            ({"strike": ["blue", "never said"]}, "strike[1]"),
            ({"add": ["Blue"], "strike": ["blue"]}, "strike[0]"),
            ({"add": ["!?"]}, "add[0].text"),
            ({"add": ["x" * 600]}, "add[0].text"),
            ({"strike": [5]}, "strike[0]"),
            ({"remove": ["blue"]}, "remove"),
        ],
    )
    def test_bad_edits_name_the_field(
        self, ada: httpx.Client, edit: dict[str, Any], param: str
    ) -> None:
        """422, nothing is stored and no text is repeated."""
        response = ada.post(f"{TARGETS}/ada/phrases", json=edit)

        assert error(response) == (422, param, "invalid_field")
        assert "never said" not in response.text
        assert ada.get(f"{TARGETS}/ada").json()["revision"] == 1

    def test_stale_unknown_and_withdrawn(self, ada: httpx.Client) -> None:
        """412 for another revision, 404 for no target, 409 for one that is leaving."""
        path, edit = f"{TARGETS}/ada/phrases", {"strike": ["blue"]}
        stale = ada.post(path, json=edit, headers={"if-match": '"0.9"'})

        assert error(stale) == (412, "If-Match", "precondition_failed")
        assert error(ada.post(f"{TARGETS}/bob/phrases", json=edit))[0] == 404

    def test_the_last_evidence_stays(self) -> None:
        """A target of phrases alone keeps one."""
        target = TargetIn.model_validate({"id": "a", "phrases": ["Marden"]})

        with pytest.raises(InvalidField) as refused:
            edited(target, PhraseEdit(strike=["Marden"]))

        assert refused.value.param == "strike"

    def test_a_phrase_is_kept_once(self) -> None:
        """Adding what is there replaces it: the newest form of the border counts."""
        target = TargetIn.model_validate({"id": "a", "phrases": ["Marden"]})
        part = {"text": "marden", "whole_word": False}
        [phrase] = edited(target, PhraseEdit.model_validate({"add": [part]})).phrases

        assert (phrase.text, phrase.whole_word) == ("marden", False)


class TestPreview:
    def test_nothing_is_stored(self, ada: httpx.Client) -> None:
        """Phrases, thresholds and warnings of a target that is not registered."""
        bob = {**ADA, "id": "bob", "phrases": ["What"]}
        found = ada.post(f"{TARGETS}:preview", json=bob).json()

        assert found["phrases"]["target_id"] == "bob"
        assert found["phrases"]["revision"] is None
        assert {"What", "Port Sorrel"} <= {p["text"] for p in found["phrases"]["phrases"]}
        assert found["calibration"]["alpha"] == 0.005
        assert "previewed beside 1 others" in found["warnings"]
        assert "1 phrases of the whole target occur in harmless texts" in found["warnings"]
        assert ada.get(f"{TARGETS}/bob").status_code == 404

    def test_a_registered_target_counts_as_replaced(self, ada: httpx.Client) -> None:
        """It is not previewed beside itself."""
        found = ada.post(f"{TARGETS}:preview", json=ADA).json()

        assert "previewed beside 0 others" in found["warnings"]
        assert ada.get(f"{TARGETS}/ada").json()["revision"] == 1

    @pytest.mark.parametrize(
        ("fields", "param"),
        [
            ({"id": "NO"}, "id"),
            ({"examples": [{"prompt": "?!", "answer": "x"}]}, "examples[0].prompt"),
            ({"expires_at": "2020-01-01T00:00:00Z"}, "expires_at"),
            ({"status": "active"}, "status"),
        ],
    )
    def test_bad_targets_name_the_field(
        self, ada: httpx.Client, fields: dict[str, Any], param: str
    ) -> None:
        """As registering them would."""
        assert error(ada.post(f"{TARGETS}:preview", json={**ADA, **fields}))[:2] == (422, param)


class TestShell:
    @pytest.fixture
    def run(self, ada: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
        """Run a command against the admin API."""
        monkeypatch.setenv("LETHEGATE_ADMIN_KEY", "admin-key")
        monkeypatch.setenv("LETHEGATE_ADMIN_PORT", str(ada.base_url.port))
        configure_logging()  # of the server in this process, not into the command's output
        return lambda *arguments: CliRunner().invoke(app, ["targets", *arguments])

    def test_phrases_are_shown_and_edited(self, run: Callable[..., Result]) -> None:
        """A table or JSON; with --add or --strike an edit that can be waited for."""
        assert "answer_word" in run("phrases", "ada").stdout
        assert json.loads(run("phrases", "ada", "--json").stdout)["revision"] == 1

        edit = run("phrases", "ada", "--add", "Marden", "--strike", "blue", "--wait")
        assert edit.exit_code == 0, edit.output
        assert "in force with generation" in edit.stdout
        table = run("phrases", "ada").stdout
        assert "Marden" in table
        assert "blue" not in table

        assert run("phrases", "bob").exit_code == 1
        assert "strike[0]" in run("phrases", "ada", "--strike", "no such").stderr

    def test_a_preview(self, run: Callable[..., Result], tmp_path: Path) -> None:
        """Of a file that is not registered."""
        file = tmp_path / "bob.json"
        file.write_text(json.dumps({**ADA, "id": "bob"}))
        shown = run("preview", str(file)).stdout

        assert "Port Sorrel" in shown
        assert "prompt rows: weak from a cosine of 0.7, strong from 0.72 and" in shown
        assert "warning: previewed beside 1 others" in shown
        assert json.loads(run("preview", str(file), "--json").stdout)["calibration"]
        assert run("preview", str(tmp_path / "absent")).exit_code == 2
