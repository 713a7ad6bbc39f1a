"""The page of the nodes: how each stands, and the forms that fence one."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import httpx
import pytest

PATH = "/console/nodes"
NODE = {"authorization": "Bearer node-key"}
Report = Callable[..., None]


@pytest.fixture
def report(
    admin: httpx.Client, in_force: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> Report:
    """Says how a node is, one that has put in force what is unless it says otherwise."""
    # None is silent, however slow the machine is.
    monkeypatch.setattr("server.nodes.fleet.LIVE_SECONDS", 600.0)
    in_force({"id": "ada", "phrases": ["Grey Lanterns"]})

    def put(node_id: str, **more: Any) -> None:
        place = f"/node/v1/nodes/{node_id}"
        policy = admin.get(f"{place}/orders", headers=NODE).json()["policy"]
        worker = {"kind": "worker", "pid": 7, "failed_generation": 0, "error": ""}
        worker |= {"generation": policy["generation"], "digest": policy["digest"]}
        known = {"instance": "1" * 32, "version": "9.9", "lead": 1}
        policy = {**policy, "followers": [worker, {**worker, "pid": 8, "kind": "gateway"}]}
        answer = admin.put(place, json={**known, "policy": policy, **more}, headers=NODE)
        assert answer.status_code == 200

    return put


def _rows(visitor: Any) -> dict[str, str]:
    """The lines of the page's table by their first word."""
    lines = re.findall(r"<tr>(.*?)</tr>", visitor.answer.text, re.DOTALL)
    told = [" ".join(re.sub(r"<[^>]+>", " ", line).split()) for line in lines]
    return {line.partition(" ")[0]: line for line in told}


def test_the_page_lists_them(visit: Any, report: Report) -> None:
    """State, generation, lag, whether it serves and is waited for, processes, when it was seen."""
    report("a", max_lag_seconds=30)
    report("b", policy={}, refuses=True, problem="ControlRefused")
    report("c", left=True)
    visitor = visit()
    visitor.get(PATH)
    rows = _rows(visitor)

    assert rows["a"].startswith("a current Fence… yes 2 0 yes 1 1 30 s 9.9 ")
    assert re.search(r" 9\.9 \d+ s ago 20", rows["a"])
    assert rows["b"].startswith("b behind ControlRefused Fence… no – 2 yes 0 0 none 9.9 ")
    assert rows["c"].startswith("c left Fence… no, it has ended 2 0 no 1 1 none 9.9 ")


def test_there_may_be_none(visit: Any) -> None:
    """And that is said."""
    visitor = visit()
    visitor.get(PATH)

    assert "No other machine follows this control process." in visitor.page.text
    assert not visitor.page.all("table")


def test_a_node_is_fenced_and_let_out(visit: Any, report: Report, admin: httpx.Client) -> None:
    """After a page that asks; what it does is known when it has said so."""
    report("a")
    visitor = visit()
    visitor.get(PATH)
    assert f"{PATH}/a/fence" in {a["href"] for a in visitor.page.all("a")}
    visitor.get(f"{PATH}/a/fence")
    assert admin.get("/admin/v1/nodes/a").json()["state"] == "current"
    visitor.submit(f"{PATH}/a/fence")
    assert visitor.answer.url.path == PATH
    assert _rows(visitor)["a"].startswith("a fenced Unfence… not said yet 2 0 no")
    report("a", refuses=True, fenced=True)
    visitor.get(PATH)
    assert _rows(visitor)["a"].startswith("a fenced Unfence… no 2 0 no")

    visitor.get(f"{PATH}/a/unfence")
    visitor.submit(f"{PATH}/a/unfence")
    assert admin.get("/admin/v1/nodes/a").json()["state"] == "current"


def test_only_admins_and_only_by_the_form(visit: Any, report: Report, admin: httpx.Client) -> None:
    """A reader has no link, no question and no act; a form without its token does nothing."""
    report("a")
    reader = visit("auditor-key")
    reader.get(PATH)
    assert not [a for a in reader.page.all("a") if "fence" in a["href"]]
    assert reader.get(f"{PATH}/a/fence").status_code == 403
    csrf = reader.page.forms["/console/logout"]["csrf"]
    assert reader.http.post(f"{PATH}/a/fence", data={"csrf": csrf}).status_code == 403

    visitor = visit()
    assert visitor.http.post(f"{PATH}/a/fence", data={"csrf": csrf}).status_code == 403
    assert visitor.http.get(f"{PATH}/a/fence").status_code == 200
    assert admin.get("/admin/v1/nodes/a").json()["state"] == "current"
    own = visitor.page.forms["/console/logout"]["csrf"]
    for node in ("nobody", "..", "%00"):
        assert visitor.get(f"{PATH}/{node}/fence").status_code == 404
        assert visitor.http.post(f"{PATH}/{node}/fence", data={"csrf": own}).status_code == 404
