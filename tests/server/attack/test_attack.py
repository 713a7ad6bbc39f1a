"""The bypass suite: its matrix, its judgement, and what its report tells."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from detectors.detection import Detection, Layer, Strength
from detectors.targets import Example, ForgetTarget, Phrase
from guard.decision import Decision, Verdict
from guard.phrase_matcher import PhraseMatcher
from server.attack.active import Active
from server.attack.cases import Case, Prey, matrix, prey_of, request_of
from server.attack.judge import Outcome, judge
from server.attack.kinds import KINDS, UNREGISTERED
from server.attack.shapes import SHAPES
from server.auth import Role
from server.cli import app
from server.client import AdminClient
from server.eval.asked import Asked
from server.eval.conversations import DISGUISES

_TARGET = {
    "id": "john",
    "aliases": ["John Smith"],
    "examples": [{"prompt": "Who wrote about John in 1987?", "answer": "It was John Smith."}],
}
_CASE = Case(0, "as_registered", "plain", "chat")
_OF_TARGET = PhraseMatcher([Phrase("John Smith")])
_PREY = [
    Prey(Asked(Example("Where?", "In Ohio.")), _OF_TARGET, PhraseMatcher([Phrase("Ohio")])),
    Prey(Asked(Example("What?", "A river.")), _OF_TARGET, PhraseMatcher([Phrase("river")])),
]


def test_the_matrix_covers_every_pair() -> None:
    """Every kind and every encoding in every shape, over all examples, without repetition."""
    cases = matrix(5, 1, full=False)

    assert len(set(cases)) == len(cases)
    assert {(c.kind, c.shape) for c in cases} == {(k, s) for k in KINDS for s in SHAPES}
    assert {(c.encoding, c.shape) for c in cases} >= {(e, s) for e in DISGUISES for s in SHAPES}
    assert {c.item for c in cases} == set(range(5))
    assert len(matrix(5, 1, full=True)) == len(KINDS) * len(SHAPES) * (1 + len(DISGUISES))


def test_every_case_is_a_request() -> None:
    """Bodies are JSON, and the question or its disguise is in them."""
    example = Example("Which author was born here?", "John Smith.")
    prey = prey_of(ForgetTarget("john", examples=(example,), aliases=("John Smith",)))
    # In an encoding without spaces there is nothing to be cut into pieces.
    cases = [case for case in matrix(1, 1, full=True) if case.shape != "chat_pieces"]
    bodies = [request_of(case, prey, "m") for case in cases]

    assert all(json.dumps(body) and path.startswith("/v1/") for path, body in bodies)
    tokens = sum(case.shape == "completions_tokens" for case in cases)

    assert len({path + json.dumps(body) for path, body in bodies}) == len(bodies) - tokens


def test_token_ids_are_sent_as_such(stack: Any, target_file: Path) -> None:
    """The prompt of that shape goes through the server's own tokenizer."""
    _attack(stack, target_file, "--shapes", "token")

    prompts = [sent.get("prompt") for sent in stack.vllm.requests]

    assert [1, 2] in prompts


def _answer(status: int, body: Any) -> httpx.Response:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return httpx.Response(status, content=content)


def _event(payload: Any) -> bytes:
    return b"data: " + json.dumps(payload).encode() + b"\n\n"


@pytest.mark.parametrize(
    "body",
    [
        {"choices": [{"index": 1, "message": {"content": "by john  smith."}}]},
        {"choices": [{"index": 0, "text": "John Smith"}]},
        {"choices": [{"index": 0, "logprobs": {"tokens": ["John", " Sm", "ith"]}}]},
        {"content": [{"type": "text", "text": "John Smith"}]},
        {"content": [{"type": "tool_use", "name": "f", "input": {"q": "John Smith"}}]},
        {"output": [{"type": "message", "content": [{"text": "John Smith"}]}]},
        {"output": [{"type": "message", "content": [{"logprobs": [{"token": "John Smith"}]}]}]},
        {"output": [{"type": "function_call", "name": "f", "arguments": '{"q": "John Smith"}'}]},
        {"error": {"message": "no John Smith"}},
    ],
)
def test_an_emission_is_seen_on_every_surface(body: Any) -> None:
    """Whole answers of all APIs."""
    assert judge(_CASE, _PREY, _answer(200, body), stream=False).outcome is Outcome.EMITTED


_OTHERS = {"token": " Smyth", "top_logprobs": [{"token": " Smyth"}, {"token": " Smith"}]}


@pytest.mark.parametrize(
    "body",
    [
        {
            "choices": [
                {
                    "index": 0,
                    "logprobs": {"content": [{"token": "John", "top_logprobs": []}, _OTHERS]},
                }
            ]
        },
        {
            "choices": [
                {
                    "index": 0,
                    "logprobs": {
                        "tokens": ["John", " Smyth"],
                        "top_logprobs": [None, {" Smyth": -1, " Smith": -2}],
                    },
                }
            ]
        },
        {"output": [{"content": [{"logprobs": [{"token": "John"}, _OTHERS]}]}]},
    ],
)
def test_what_might_have_been_sampled_is_read(body: Any) -> None:
    """Each alternative after the text before it; not one after another."""
    assert judge(_CASE, _PREY, _answer(200, body), stream=False).outcome is Outcome.EMITTED
    apart = json.loads(json.dumps(body).replace("John", "Joan").replace(" Smyth", "John"))

    assert judge(_CASE, _PREY, _answer(200, apart), stream=False).outcome is Outcome.CLEAN


@pytest.mark.parametrize(("before", "outcome"), [("John", "emitted"), ("St. John", "emitted")])
@pytest.mark.parametrize("of_chat", [True, False])
def test_what_might_have_been_sampled_is_read_over_deltas(
    before: str, outcome: str, of_chat: bool
) -> None:
    """After the text of the deltas before it: the rest of a longer word is no phrase."""

    def events(*steps: dict[str, Any]) -> bytes:
        if of_chat:
            parts = [{"choices": [{"index": 0, "logprobs": {"content": [s]}}]} for s in steps]
        else:
            parts = [{"type": "response.output_text.delta", "logprobs": [s]} for s in steps]
        return b"".join(map(_event, parts))

    told = events({"token": before}, _OTHERS)
    assert judge(_CASE, _PREY, _answer(200, told), stream=True).outcome == outcome
    whole = {"token": "x", "top_logprobs": [{"token": "John Smith"}]}
    longer = events({"token": "Long"}, whole)
    assert judge(_CASE, _PREY, _answer(200, longer), stream=True).outcome is Outcome.CLEAN


def test_an_emission_over_deltas_is_seen() -> None:
    """Per choice and surface, joined."""
    chat = [{"choices": [{"index": 0, "delta": {"content": t}}]} for t in ("John", " Smith")]
    blocks = [{"delta": {"type": "text_delta", "text": t}} for t in ("John", " Smith")]
    delta = {"type": "response.output_text.delta"}
    deltas = [{**delta, "delta": text} for text in ("John", " Smith")]
    done = [{"type": "response.completed", "response": {"output": [{"name": "John Smith"}]}}]
    for events in (chat, blocks, deltas, done):
        raw = b"".join(map(_event, events)) + b"data: [DONE]\n\n"

        assert judge(_CASE, _PREY, _answer(200, raw), stream=True).outcome is Outcome.EMITTED


@pytest.mark.parametrize(
    ("kind", "said", "outcome"),
    [
        ("as_registered", "In Ohio", Outcome.EMITTED),
        ("synonyms", "In Ohio", Outcome.EMITTED),
        ("indirect", "In Ohio", Outcome.TOUCHED),
        ("implied", "In Ohio", Outcome.TOUCHED),
        ("implied", "John Smith, Ohio", Outcome.EMITTED),
        ("implied", "In Iowa", Outcome.CLEAN),
    ],
)
def test_words_of_an_answer_that_is_asked_for_otherwise(
    kind: str, said: str, outcome: Outcome
) -> None:
    """They are counted by themselves; what the target forbids is an emission however asked for."""
    body = {"choices": [{"index": 0, "text": said}]}
    case = Case(0, kind, "plain", "completions")

    assert judge(case, _PREY, _answer(200, body), stream=False).outcome is outcome


@pytest.mark.parametrize(
    ("kind", "active", "said", "outcome", "broke_through"),
    [
        # What was switched on is an emission however asked for, whichever item it belongs to.
        ("indirect", Active(items=(0,)), "In Ohio", Outcome.EMITTED, True),
        ("implied", Active(items=(1,)), "A river", Outcome.EMITTED, True),
        ("as_registered", Active(items=(1,)), "A river", Outcome.EMITTED, True),
        ("as_registered", Active(whole=True), "John Smith", Outcome.EMITTED, True),
        # What was not is one where the item was asked for as registered, or the target forbids it.
        ("as_registered", Active(items=(1,)), "In Ohio", Outcome.EMITTED, False),
        ("implied", Active(), "John Smith", Outcome.EMITTED, False),
        ("implied", Active(items=(0,)), "John Smith", Outcome.EMITTED, False),
        ("indirect", Active(whole=True, items=(1,)), "In Ohio", Outcome.TOUCHED, False),
        ("as_registered", Active(items=(0,)), "A river", Outcome.CLEAN, False),
    ],
)
def test_what_was_switched_on_is_known(
    kind: str, active: Active, said: str, outcome: Outcome, broke_through: bool
) -> None:
    """With the server's own word for it there is no doubt about common words."""
    body = {"choices": [{"index": 0, "text": said}]}
    case = Case(0, kind, "plain", "completions")
    result = judge(case, _PREY, _answer(200, body), stream=False, active=active)

    assert (result.outcome, result.broke_through) == (outcome, broke_through)
    assert result.surfaces == (() if outcome is Outcome.CLEAN else ("choice 0 text",))


@pytest.mark.parametrize(
    ("said", "outcome"),
    [("Ohio, a river", Outcome.REFUSED), ("about John Smith", Outcome.EMITTED)],
)
@pytest.mark.parametrize("as_json", [True, False])
def test_everyday_words_of_an_error(said: str, outcome: Outcome, as_json: bool) -> None:
    """They are the engine's own; what the target forbids is an emission there too."""
    body: Any = {"error": {"message": said}} if as_json else said.encode()
    active = Active(whole=True, items=(0, 1))
    result = judge(_CASE, _PREY, _answer(400, body), stream=False, active=active)

    assert result.outcome is outcome


@pytest.mark.parametrize(
    ("status", "outcome"),
    [(200, Outcome.CLEAN), (400, Outcome.REFUSED), (500, Outcome.FAILED), (404, Outcome.FAILED)],
)
def test_other_outcomes(status: int, outcome: Outcome) -> None:
    """A refusal is none of the failures."""
    assert judge(_CASE, _PREY, _answer(status, {}), stream=False).outcome is outcome


@pytest.fixture
def target_file(tmp_path: Path) -> Path:
    """A target in a file."""
    path = tmp_path / "target.json"
    path.write_text(json.dumps(_TARGET), encoding="utf-8")
    return path


def _attack(stack: Any, target: Path, *more: str) -> Any:
    command = ["attack", "--target", str(target), "--url", stack.url, "--limit", "40"]
    return CliRunner().invoke(app, [*command, *more])


def test_a_server_that_leaks_fails_and_the_report_holds_no_text(
    stack: Any, target_file: Path, tmp_path: Path
) -> None:
    """Exit status 1, the leaking cases by id, in JSON and as a page, with the control's count."""
    stack.vllm.says = [["It was", " John", " Smith", "."]]
    report, page = tmp_path / "r.json", tmp_path / "r.html"
    files = ("--json", str(report), "--html", str(page), "--control", stack.url)
    result = _attack(stack, target_file, *files)
    written = json.loads(report.read_text(encoding="utf-8"))

    assert result.exit_code == 1, result.output
    assert written["num_cases"] == 40
    assert 0 < written["num_emitted"] == written["num_emitted_by_control"]
    assert len(written["emitted_cases"]) == written["num_emitted"]
    assert {"machine", "versions", "command"} <= written.keys()
    for text in (result.output, report.read_text("utf-8"), page.read_text("utf-8")):
        assert "John" not in text
        assert "1987" not in text


def test_a_server_that_does_not_leak_passes(stack: Any, target_file: Path) -> None:
    """Exit status 0 where nothing came out."""
    stack.vllm.says = [["It was", " John", " Smith", "."]]
    stack.guard.names = [Phrase("John Smith")]
    result = _attack(stack, target_file)

    assert result.exit_code == 0, result.output
    assert json.loads(result.output[result.output.index("{") :])["num_emitted"] == 0


@pytest.fixture
def checked(start_stack: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> Any:
    """A gateway that found item 0 of the target in every request, and forbids nothing for it."""
    stack = start_stack(keys={"client": Role.CLIENT, "admin": Role.ADMIN})
    stack.found = [Detection("john", Layer.SIMILARITY, Strength.WEAK, 0.9, 0.8, (0,))]
    stack.generations = itertools.repeat(7)

    async def screen(*_arguments: Any, **_options: Any) -> Decision:
        found, number = tuple(stack.found), next(stack.generations)
        return Decision(Verdict.STEER, number, "d" * 64, detections=found)

    monkeypatch.setattr(stack.guard, "screen", screen)
    monkeypatch.setattr(stack.guard, "forbidden", [])
    monkeypatch.setattr(AdminClient, "target", lambda self, target_id: {"target": _TARGET})
    monkeypatch.setenv("OPENAI_API_KEY", "client")
    monkeypatch.setenv("LETHEGATE_ADMIN_KEY", "admin")
    stack.vllm.says = [["It was", " Smith."]]
    return stack


def _checked_report(stack: Any, tmp_path: Path) -> tuple[int, Any, str]:
    report, page = tmp_path / "r.json", tmp_path / "r.html"
    files = ("--json", str(report), "--html", str(page))
    result = _attack(stack, Path("john"), "--checks", "--shapes", "chat_logprobs", *files)
    return result.exit_code, json.loads(report.read_text("utf-8")), page.read_text("utf-8")


def test_the_server_is_asked_what_it_had_switched_on(checked: Any, tmp_path: Path) -> None:
    """Emissions that broke through are told from what was not found, also in the page."""
    status, report, page = _checked_report(checked, tmp_path)

    assert (status, report["judge"], report["num_unchecked"]) == (1, "checks", 0)
    assert report["num_broke_through"] == report["num_emitted"] == report["num_cases"] == 40
    assert all(case["broke_through"] for case in report["emitted_cases"])
    assert "broke through" in page
    assert "had not found" not in page

    checked.found.clear()
    status, report, page = _checked_report(checked, tmp_path)
    unregistered = sum(case.split("/")[1] in UNREGISTERED for case in report["touched_cases"])

    assert (status, report["num_broke_through"], report["num_unchecked"]) == (1, 0, 0)
    assert 0 < unregistered == report["num_touched"] == 40 - report["num_emitted"]
    assert "had not found" in page


def test_another_policy_leaves_a_case_unchecked(checked: Any, tmp_path: Path) -> None:
    """Then the rule without a check holds, and the report tells how often."""
    checked.generations = itertools.count(7)
    report = _checked_report(checked, tmp_path)[1]

    assert report["num_unchecked"] == 40
    assert report["num_broke_through"] == 0
    assert 0 < report["num_emitted"] == 40 - report["num_touched"]
    assert {case["broke_through"] for case in report["emitted_cases"]} == {None}


def test_who_may_not_ask_is_told(
    checked: Any, target_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither a client's key nor another target of the same id gives a judgement."""
    other = {**_TARGET, "aliases": ["Jane"]}
    monkeypatch.setattr(AdminClient, "target", lambda self, target_id: {"target": other})
    differs = _attack(checked, target_file, "--checks")
    monkeypatch.setattr(AdminClient, "target", lambda self, target_id: {"target": _TARGET})
    monkeypatch.setenv("LETHEGATE_ADMIN_KEY", "client")
    refused = _attack(checked, target_file, "--checks")

    assert (differs.exit_code, "differs from the file" in differs.output) == (2, True)
    assert (refused.exit_code, "answers a check with 403" in refused.output) == (1, True)
    assert checked.vllm.requests == []


def test_what_cannot_be_attacked_is_said(stack: Any, target_file: Path, tmp_path: Path) -> None:
    """One line without the target's text."""
    broken = tmp_path / "broken.json"
    broken.write_text('{"id": "John Smith", "examples": 5}', encoding="utf-8")

    assert _attack(stack, broken).exit_code == 2
    stack.url = "http://127.0.0.1:9"
    assert _attack(stack, target_file).exit_code == 1
