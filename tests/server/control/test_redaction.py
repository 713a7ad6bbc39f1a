"""Planted secrets, looked for everywhere that an operator or a client may look.

Every field of a target and of a request holds a word of its own. A control process and a gateway go
through success and failure; then logs, metrics, error bodies, headers, audits and published files
must hold none of the words, and no file at all a key.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client import generate_latest
from starlette.requests import Request
from starlette.responses import Response

from detectors.targets import Phrase
from guard.decision import Verdict
from guard.errors import SnapshotMissing
from server.auth import KeyRing, Role
from server.log import configure_logging
from server.settings import Settings

Settle = Callable[[Callable[[], bool]], None]
# Where forget text and documents are meant to be: the store, its snapshots, the corpora's indexes.
_HOLDS_TEXT = ("lethegate.db", "snapshots", "index", "uploads")
FIELDS = (
    *("description", "prompt", "answer", "alias", "phrase", "excluded", "document", "source"),
    *("metadata", "retain", "header", "query", "requestid", "path", "body", "name", "key"),
)
SECRETS = {field: f"Zyx{field.capitalize()}qvorn" for field in FIELDS}


def _target(target_id: str = "ada") -> dict[str, Any]:
    s = SECRETS
    return {
        "id": target_id,
        "description": s["description"],
        "examples": [{"prompt": f"Who is {s['prompt']}?", "answer": f"It is {s['answer']}."}],
        "aliases": [s["alias"]],
        "phrases": [s["phrase"]],
        "excluded_phrases": [s["excluded"]],
        "documents": [
            {
                "text": f"{s['document']} went home",
                "source": s["source"],
                "metadata": {"a": s["metadata"]},
            }
        ],
        "retain_examples": [f"{s['retain']}?"],
    }


def _spoilt() -> Iterator[Any]:
    """Bodies that are refused, with words in every place, as values and as names."""
    good = _target("bad")
    for field, value in good.items():
        yield {**good, field: {SECRETS["name"]: value}}
        yield {**good, field: [value, SECRETS["body"] * 60_000]}
        yield {**good, f"{field}{SECRETS['name']}": value}
    yield {**good, "id": SECRETS["body"]}
    yield {**good, "labels": {f"!{SECRETS['body']}": SECRETS["body"]}}
    yield {**good, "expires_at": SECRETS["body"]}
    yield {**good, "uld": {"assistant": SECRETS["body"].lower()}}
    yield {**good, "thresholds": {"alpha": SECRETS["body"]}}


def _found(text: str, *, besides: tuple[str, ...] = ()) -> list[str]:
    folded = text.casefold()
    words = (w for field, w in SECRETS.items() if field not in besides)
    return [word for word in words if word.casefold() in folded]


def _said(answer: httpx.Response) -> str:
    return f"{answer.status_code} {dict(answer.headers)} {answer.text}"


def test_the_control_process_tells_nothing(
    admin: httpx.Client,
    settings: Settings,
    settle: Settle,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Its errors, logs, metrics, audit and files, after everything that can go wrong there."""
    configure_logging("debug", "json", capture=True)
    made = [
        admin.post("/admin/v1/keys", json={"name": SECRETS["key"], "role": role}).json()
        for role in ("client", "auditor", "admin")
    ]
    keys = [answer["key"] for answer in made]
    keys.append(admin.post(f"/admin/v1/keys/{made[0]['id']}:rotate", json={}).json()["key"])
    job = admin.post("/admin/v1/targets", json=_target()).json()["job"]["id"]
    settle(lambda: admin.get(f"/admin/v1/jobs/{job}").json()["state"] == "done")
    failing = {**_target("failing"), "labels": {"fail": "compile"}}
    failed = admin.post("/admin/v1/targets", json=failing).json()["job"]["id"]
    settle(lambda: admin.get(f"/admin/v1/jobs/{failed}").json()["state"] == "failed")

    answers = [admin.post("/admin/v1/targets", json=body) for body in _spoilt()]
    answers += [admin.put("/admin/v1/targets/ada", json=body) for body in _spoilt()]
    answers += [
        admin.post(path, content=content.encode(), headers={"content-type": "application/json"})
        for path in ("/admin/v1/targets", "/admin/v1/keys", "/admin/v1/corpora")
        for content in (
            f'{{"{SECRETS["name"]}": "{SECRETS["body"]}',
            f'["{SECRETS["body"]}"]',
            f'{{"{SECRETS["body"]}": 1, "{SECRETS["body"]}": 2}}',
            f'{{"{SECRETS["body"]}": NaN}}',
        )
    ]
    path, query = f"/admin/v1/targets/{SECRETS['path']}", {"after": SECRETS["query"] * 9}
    odd = {"if-match": SECRETS["header"], "x-request-id": SECRETS["requestid"]}
    answers += [admin.get(path), admin.delete(path), admin.get("/admin/v1/jobs", params=query)]
    answers += [
        admin.get(f"/{SECRETS['path']}"),
        admin.delete("/admin/v1/targets/ada", headers=odd),
    ]
    answers += [admin.post("/admin/v1/targets", json=_target())]
    answers += [
        admin.get("/admin/v1/targets", headers={"authorization": f"{kind} {SECRETS['header']}"})
        for kind in ("Bearer", "Basic")
    ]
    assert {answer.status_code for answer in answers} >= {400, 401, 404, 409, 412, 422}
    assert all(answer.status_code >= 400 for answer in answers)
    for answer in answers:
        # Which field is at fault is told to who sent it, and nowhere else.
        assert _found(_said(answer), besides=("name",)) == [], answer.request.url
        assert not any(key in _said(answer) for key in keys)

    auditor = {"authorization": f"Bearer {keys[1]}"}
    for shown in ("targets", "jobs", "generation", "audit", "provenance/blocks"):
        assert _found(_said(admin.get(f"/admin/v1/{shown}", headers=auditor))) == [], shown
    for job_id in (job, failed):
        assert _found(_said(admin.get(f"/admin/v1/jobs/{job_id}", headers=auditor))) == []
    assert _found(admin.get("/metrics").text) == []
    settle(lambda: len(admin.get("/admin/v1/audit?event=admin").json()["records"]) > 10)
    captured = capfd.readouterr()
    assert _found(captured.out + captured.err) == []
    assert not any(key in captured.out + captured.err for key in keys)
    _search_files(settings.state_dir, keys)


def _search_files(state_dir: Path, keys: list[str]) -> None:
    """No file holds a key, and only those that are there for it hold forget text."""
    seen = 0
    for path in state_dir.rglob("*"):
        if not path.is_file():
            continue
        content, name = path.read_bytes(), path.relative_to(state_dir)
        assert not any(key.encode() in content for key in keys), name
        if not any(part.startswith(_HOLDS_TEXT) for part in name.parts):
            assert _found(content.decode("utf-8", "ignore")) == [], name
            seen += 1
    assert seen >= 4


async def _fails(_request: Request) -> Response:
    raise RuntimeError(f"the engine says {SECRETS['phrase']} and {SECRETS['prompt']}")


def test_a_gateway_tells_nothing(
    start_stack: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Allowed, steered, refused, cut, malformed and failed requests, of all shapes."""
    configure_logging("debug", "json", capture=True)
    key = f"lg-{SECRETS['key']}"
    stack = start_stack(keyring=KeyRing({key: Role.CLIENT}))
    stack.guard.verdicts = {"steer me": Verdict.STEER, "refuse me": Verdict.REFUSE}
    stack.guard.forbidden = [Phrase(SECRETS["phrase"])]
    headers = {
        "authorization": f"Bearer {key}",
        "x-request-id": f"{SECRETS['requestid']} is a text",
        "x-odd": SECRETS["header"],
    }
    said = []

    def ask(text: str, **fields: Any) -> httpx.Response:
        prompt = f"{text} {SECRETS['prompt']}"
        body = {"messages": [{"role": "user", "content": prompt}], **fields}
        answer: httpx.Response = stack.http.post(
            f"/v1/chat/completions?q={SECRETS['query']}", json=body, headers=headers
        )
        said.append(answer)
        return answer

    stack.vllm.says = [["well, ", SECRETS["phrase"][:4], SECRETS["phrase"][4:], " it is"]]
    for stream in (False, True):
        ask("allow me", stream=stream, max_tokens=1)
        said.pop()  # the engine's own words, which nothing forbids
        ask("steer me", stream=stream)
        ask("refuse me", stream=stream)
        ask("allow me", stream=stream, prompt_embeds=SECRETS["body"])
        ask("allow me", stream=stream, lethegate_x=SECRETS["body"])
        ask("allow me", stream=stream, vllm_xargs=SECRETS["body"])
        stack.vllm.stream_error = {"message": SECRETS["phrase"], "code": 500}
        ask("steer me", stream=stream)
        stack.vllm.stream_error = None
    said.extend(
        stack.http.post("/v1/chat/completions", json={}, headers=wrong)
        for wrong in (None, {"authorization": f"Bearer {SECRETS['header']}"})
    )
    typed = {**headers, "content-type": "application/json"}
    said += [
        stack.http.post("/v1/completions", content=raw, headers=typed)
        for raw in (f'{{"{SECRETS["body"]}"', f'{{"a":1,"a":"{SECRETS["body"]}"}}')
    ]
    said.append(stack.http.get(f"/{SECRETS['path']}", headers=headers))
    for error in (SnapshotMissing(SECRETS["phrase"]), RuntimeError(SECRETS["phrase"])):
        stack.guard.error = error
        ask("allow me")
    stack.guard.error, stack.guard.nets_error = None, RuntimeError(SECRETS["phrase"])
    ask("steer me")
    stack.guard.nets_error, stack.vllm.instead = None, _fails
    ask("steer me")
    stack.audit.stop()

    statuses = {answer.status_code for answer in said}
    assert statuses >= {200, 400, 401, 403, 503}
    for answer in said:
        # A client's own request id is in its answer's id, as the engine puts it there.
        assert _found(_said(answer), besides=("requestid",)) == [], answer.text
        assert key not in _said(answer)
    assert _found(generate_latest(stack.registry).decode()) == []
    captured = capfd.readouterr()
    assert "fail" in captured.err
    assert _found(captured.out + captured.err) == []
    assert stack.audit.files.newest(99, None, "block")
    _search_files(tmp_path, [key])
