"""Tenants: whose targets apply to which keys, and what a tenant's admin sees and may do."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from guard.follower import ActivePointer
from guard.key_scope import KeyScope
from server.errors import Conflict, InvalidField, NotFound
from server.keys.published import read_list
from server.on_conflict import OnConflict
from server.schemas import TargetIn

BOTH = pytest.mark.parametrize("database", ["sqlite", "postgresql"], indirect=True)
TARGETS, KEYS, JOBS = "/admin/v1/targets", "/admin/v1/keys", "/admin/v1/jobs"
SECRET = "Port Sorrel"


def target(target_id, **fields):
    return TargetIn(id=target_id, phrases=[SECRET], **fields)


def body(target_id, **fields: Any):
    return {"id": target_id, "phrases": [SECRET], **fields}


@pytest.fixture
def key(admin):
    """Makes a key; gives its headers."""

    def make(**fields: Any) -> dict[str, str]:
        made = admin.post(KEYS, json={"name": "one", **fields})
        assert made.status_code == 201, made.text
        return {"authorization": f"Bearer {made.json()['key']}"}

    return make


@pytest.fixture
def acme(key):
    """The headers of the admin of a tenant."""
    return key(role="admin", tenant="acme")


@pytest.mark.parametrize(
    ("scope", "applies"),
    [
        (KeyScope(), {"own", "others", "everybodys"}),
        (KeyScope(tenant="acme"), {"own", "everybodys"}),
        (KeyScope(tenant="nobody"), {"everybodys"}),
        (KeyScope(frozenset({"own", "others"}), tenant="acme"), {"own"}),
        (KeyScope(labels=frozenset({("law", "gdpr")}), tenant="acme"), {"own"}),
    ],
)
def test_which_targets_apply(scope, applies):
    """A tenant's key has the tenant's targets and everybody's; of them those of its scope."""
    tenants = {"own": "acme", "others": "umbra", "everybodys": None}
    labels = {name: frozenset({("law", "gdpr")} if name == "own" else ()) for name in tenants}
    found = {n for n, tenant in tenants.items() if scope.covers(n, labels[n], tenant)}

    assert found == applies
    assert scope.is_limited is (scope != KeyScope())


def test_scopes_of_two_tenants_have_two_names():
    """Decisions are remembered by them."""
    names = {KeyScope(tenant=tenant).name for tenant in (None, "acme", "umbra")}

    assert len(names) == 3


@BOTH
def test_the_store_as_a_tenant_sees_it(store):
    """Others' targets and jobs are not there, whatever is done with them."""
    acme = store.limited_to("acme")
    _, job = acme.register(target("own"))
    _, others = store.register(target("others", tenant="umbra"))
    store.register(target("everybodys"))
    imported = acme.import_targets({1: target("more")}, OnConflict.REPLACE)

    assert [record.id for record in acme.target_page(None, 10)] == ["more", "own"]
    assert [record.tenant for record in store.target_page(None, 10)] == [
        None,
        "acme",
        "umbra",
        "acme",
    ]
    assert [name for name, _ in acme.document_page(None, 10)] == ["more", "own"]
    assert [each.id for each in acme.standing_targets()] == ["more", "own"]
    assert acme.count_existing(["own", "others", "everybodys"]) == 1
    assert [each.id for each in acme.jobs().page(None, 10)] == [imported.job.id, job.id]
    assert len(store.jobs().page(None, 10)) == 4
    for name in ("others", "everybodys"):
        for act in (
            lambda name=name: acme.target(name),
            lambda name=name: acme.versions(name),
            lambda name=name: acme.version(name, 1),
            lambda name=name: acme.withdraw(name),
            lambda name=name: acme.replace(target(name)),
        ):
            with pytest.raises(NotFound):
                act()
        with pytest.raises(Conflict):
            acme.register(target(name))
        for choice in OnConflict:
            with pytest.raises(Conflict, match="line 7"):
                acme.import_targets({7: target(name)}, choice)
    with pytest.raises(NotFound):
        acme.jobs().find(others.id)
    with pytest.raises(NotFound):
        acme.jobs().cancel(others.id)
    assert store.target("others")[0].revision == 1


@BOTH
def test_nothing_is_stored_for_another_tenant(store):
    """Not by registering, replacing or importing; of an import the line is named."""
    acme = store.limited_to("acme")
    acme.register(target("own", tenant="acme"))
    for act in (
        lambda: acme.register(target("new", tenant="umbra")),
        lambda: acme.replace(target("own", tenant="umbra")),
        lambda: acme.import_targets({3: target("new", tenant="umbra")}, OnConflict.FAIL),
    ):
        with pytest.raises(InvalidField, match="tenant: must be that of your key") as raised:
            act()
        assert raised.value.param == "tenant"
    assert acme.target("own")[1]["tenant"] == "acme"
    acme.replace(target("own"))
    assert acme.target("own")[0].tenant == "acme"


def test_a_tenants_admin_over_the_api(admin, acme, settle):
    """It registers, lists, changes and follows its own, and finds nothing else."""
    admin.post(TARGETS, json=body("others", tenant="umbra"))
    admin.post(TARGETS, json=body("everybodys"))
    made = admin.post(TARGETS, json=body("own"), headers=acme)
    job = f"{JOBS}/{made.json()['job']['id']}"
    settle(lambda: admin.get(job, headers=acme).json()["state"] == "done")

    def ids(response: httpx.Response) -> list[str]:
        return [each["id"] for each in response.json()["targets"]]

    assert made.status_code == 202
    assert made.json()["target"]["tenant"] == "acme"
    assert ids(admin.get(TARGETS, headers=acme)) == ["own"]
    assert ids(admin.get(TARGETS)) == ["everybodys", "others", "own"]
    assert len(admin.get(JOBS, headers=acme).json()["jobs"]) == 1
    exported = admin.get(f"{TARGETS}:export", headers=acme).text.splitlines()
    assert [json.loads(line)["id"] for line in exported] == ["own"]
    changed = admin.patch(f"{TARGETS}/own", json={"action": "refuse"}, headers=acme)
    assert changed.status_code == 202
    moved = admin.patch(f"{TARGETS}/own", json={"tenant": "umbra"}, headers=acme)
    assert (moved.status_code, moved.json()["error"]["param"]) == (422, "tenant")
    for path in ("", "/statistics", "/versions", "/versions/1", "/phrases"):
        assert admin.get(f"{TARGETS}/own{path}", headers=acme).status_code == 200
        assert admin.get(f"{TARGETS}/others{path}", headers=acme).status_code == 404
    for method, path, sent in (
        ("PUT", "/others", body("others")),
        ("PATCH", "/others", {"action": "refuse"}),
        ("DELETE", "/others", None),
        ("POST", "/others/phrases", {"add": ["x y"]}),
        ("POST", "/others/versions/1:rollback", {}),
    ):
        done = admin.request(method, f"{TARGETS}{path}", json=sent, headers=acme)
        assert done.status_code == 404, path
    gone = admin.delete(f"{TARGETS}/own", headers=acme)
    job = f"{JOBS}/{gone.json()['job']['id']}"
    settle(lambda: admin.get(job, headers=acme).json()["state"] == "done")


def test_everything_else_is_closed_to_tenants(admin, acme, key):
    """Whatever is not said to be open to them, for their auditors too, and what is yet to come."""
    auditor = key(role="auditor", tenant="acme")
    paths = admin.get("/openapi.json").json()["paths"]
    opened = set()
    for path, methods in paths.items():
        for method in set(methods) & {"get", "post", "put", "patch", "delete"}:
            filled = path.replace("{", "").replace("}", "").replace("revision", "1")
            filled = filled.replace("number", "1")
            for headers in (acme, auditor):
                answer = admin.request(method, filled, headers=headers, json={"x": 1})
                if answer.status_code != 403:
                    opened.add(path)

    assert {path for path in opened if path.startswith("/admin")} == {
        "/admin/v1/targets",
        "/admin/v1/targets/{target_id}",
        "/admin/v1/targets/{target_id}/phrases",
        "/admin/v1/targets/{target_id}/statistics",
        "/admin/v1/targets/{target_id}/versions",
        "/admin/v1/targets/{target_id}/versions/{revision}",
        "/admin/v1/targets/{target_id}/versions/{revision}:rollback",
        "/admin/v1/targets/{target_id}/versions:diff",
        "/admin/v1/targets:export",
        "/admin/v1/targets:import",
        "/admin/v1/targets:preview",
        "/admin/v1/targets:validate",
        "/admin/v1/jobs",
        "/admin/v1/jobs/{job_id}",
    }


def test_a_tenants_auditor_changes_nothing(admin, acme, key):
    """It lists, and reads no text."""
    admin.post(TARGETS, json=body("own"), headers=acme)
    auditor = key(role="auditor", tenant="acme")

    assert len(admin.get(TARGETS, headers=auditor).json()["targets"]) == 1
    assert admin.get(f"{TARGETS}/own", headers=auditor).status_code == 403
    assert admin.post(TARGETS, json=body("x"), headers=auditor).status_code == 403


def test_gateways_learn_the_tenant(admin, key, settings):
    """It is in the published list; keys tell it, and refuse what is no name."""
    key(tenant="acme")
    active = ActivePointer(settings.keys).read()
    [listed] = read_list(settings.keys, active.digest).secrets.values()

    assert listed.caller.scope.tenant == "acme"
    assert [each["tenant"] for each in admin.get(KEYS).json()["keys"]] == ["acme"]
    for wrong in ({"tenant": "No Name"}, {"tenant": "acme", "role": "node"}):
        assert admin.post(KEYS, json={"name": "n", **wrong}).status_code == 422


def test_the_attribution_page_is_closed_to_tenants(admin, acme):
    """Its key is a field of a form."""
    form = {"key": acme["authorization"].removeprefix("Bearer "), "text": "one two three four"}
    answer = admin.post("/admin/provenance", data=form, headers={"authorization": ""})

    assert answer.status_code == 403
    assert "not limited to a tenant" in answer.text
