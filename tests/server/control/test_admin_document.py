"""The admin API against its own OpenAPI document: generated requests, answers as documented."""

from __future__ import annotations

import json
import re
from typing import Any

import httpx
import pytest

from server.admin_examples import EXAMPLES
from server.database import Database
from server.parameters import MAX_NUMBER

JSON = {"content-type": "application/json"}
# What is otherwise than a schema could say, by operation.
OPERATIONS = [
    {
        # No served model is known here, so nothing is trained.
        "include-name": "POST /admin/v1/assistants:train",
        "checks": {"not_a_server_error": {"expected-statuses": ["2xx", "4xx", "503"]}},
    },
    {
        # Tells what is wrong with lines, as its answer.
        "include-name": "POST /admin/v1/targets:validate",
        "checks": {"negative_data_rejection": {"enabled": False}},
    },
    {
        # Withdrawing one is a job (202): it is there until that is done.
        "include-path-regex": "^/admin/v1/(targets|corpora)/",
        "checks": {"use_after_free": {"enabled": False}},
    },
]


@pytest.mark.timeout(120)
def test_generated_requests_are_answered_as_documented(admin: httpx.Client, fuzz: Any) -> None:
    """No fault of the server, no undocumented status, body or header, and nothing that hangs."""
    document = admin.get("/openapi.json").json()
    found = fuzz(document, admin.base_url, key="admin-key", examples=3, operations=OPERATIONS)

    assert not found.faults, str(found)
    assert found.statuses.total() > 150


@pytest.mark.fuzz
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("database", ["sqlite", "postgresql"], indirect=True)
def test_many_generated_requests(
    admin: httpx.Client, fuzz: Any, database: Database, seed: int
) -> None:
    """The same with every boundary that the document knows, and requests that follow each other."""
    document = admin.get("/openapi.json").json()
    found = fuzz(
        document,
        admin.base_url,
        key="admin-key",
        examples=30,
        sequences=30,
        boundaries=True,
        seed=seed,
        operations=OPERATIONS,
    )
    print(f"\nadmin API on {'SQLite' if database.is_file else 'PostgreSQL'}, seed {seed}: {found}")

    assert not found.faults, str(found)
    assert admin.get("/admin/v1/targets").status_code == 200


def test_the_document_refers_to_nothing_that_it_lacks(admin: httpx.Client) -> None:
    """Also where a handler reads its body itself; and FastAPI's own errors are not in it."""
    text = admin.get("/openapi.json").text
    schemas = json.loads(text)["components"]["schemas"]
    named = set(re.findall(r'"\$ref":"([^"]*)"', text))

    assert named
    assert {name.removeprefix("#/components/schemas/") for name in named} <= set(schemas)
    assert "Validation" not in " ".join(name for name in schemas if "Error" in name)


def test_every_example_is_taken(admin: httpx.Client, settle: Any) -> None:
    """In the order of a first day; each in every form that the document says it has."""
    document = admin.get("/openapi.json").json()
    ids = {"target_id": "ada-novak", "corpus_id": "the-leak"}
    forms = [
        (method.upper(), path, kind, media["examples"]["example"]["value"])
        for (method, path) in EXAMPLES
        for kind, media in document["paths"][path][method.lower()]["requestBody"]["content"].items()
        if "examples" in media
    ]
    for method, path, kind, value in forms:
        query = "?on_conflict=replace" if path.endswith(":import") else ""
        content = value if isinstance(value, str) else json.dumps(value)
        answer = admin.request(
            method, path.format(**ids) + query, content=content, headers={"content-type": kind}
        )

        assert answer.is_success, (method, path, kind, answer.text)
        if path.endswith("/keys"):
            ids["key_id"] = answer.json()["id"]
        if path.endswith(":validate"):
            assert answer.json()["num_problems"] == 0
        if (job := answer.json().get("job")) is not None:
            settle(lambda job=job: _state(admin, job) == "done")
    described = {
        (method.upper(), path)
        for path, operations in document["paths"].items()
        for method, operation in operations.items()
        if '"examples": {' in json.dumps(operation)
    }
    assert {(method, path) for method, path, _, _ in forms} == set(EXAMPLES) == described


def _state(admin: httpx.Client, job: dict[str, Any]) -> str:
    return str(admin.get(f"/admin/v1/jobs/{job['id']}").json()["state"])


def test_every_operation_tells_its_errors_and_its_key(admin: httpx.Client) -> None:
    """Probes need no key; what has a body tells which are not taken."""
    paths = admin.get("/openapi.json").json()["paths"]
    replace = paths["/admin/v1/targets/{target_id}"]["put"]

    assert replace["security"] == [{"key": []}]
    assert {"202", "400", "401", "403", "404", "409", "412", "413", "415", "422"} <= set(
        replace["responses"]
    )
    assert "security" not in paths["/livez"]["get"]
    assert (
        "application/merge-patch+json"
        in (paths["/admin/v1/keys/{key_id}"]["patch"]["requestBody"]["content"])
    )


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("DELETE", "/admin/v1/targets", "GET, POST"),
        ("POST", "/admin/v1/generation", "GET"),
        ("PATCH", "/admin/v1/corpora/a:verify", "POST"),
        ("GET", "/admin/v1/targets/a/versions/1:rollback", "POST"),
    ],
)
def test_a_405_names_the_methods_that_there_are(
    admin: httpx.Client, method: str, path: str, allowed: str
) -> None:
    """Of the resource as a whole, before its body is looked at; a verb is no part of an id."""
    response = admin.request(method, path, content="{}")

    assert (response.status_code, response.headers["allow"]) == (405, allowed)


@pytest.mark.parametrize(
    "path",
    [
        f"targets/a/versions/{MAX_NUMBER + 1}",
        f"targets/a/versions:diff?from={MAX_NUMBER + 1}",
        f"corpora/a/documents/{MAX_NUMBER + 1}",
        f"corpora/a/documents?after={MAX_NUMBER + 1}",
        "targets/a%00b",
        "jobs/a%00b",
        "keys?after=%00",
    ],
)
def test_what_no_database_takes_is_refused(admin: httpx.Client, path: str) -> None:
    """A number or a NUL that would be an error of the store is a field's."""
    assert admin.get(f"/admin/v1/{path}").status_code == 422


@pytest.mark.parametrize("database", ["sqlite", "postgresql"], indirect=True)
def test_the_largest_number_is_taken(admin: httpx.Client, database: Database) -> None:
    """By either database: it is looked for, and not there."""
    admin.post("/admin/v1/targets", json={"id": "a", "phrases": ["Port Sorrel"]})
    admin.post("/admin/v1/corpora", json={"id": "a"})
    for path in ("targets/a/versions", "corpora/a/documents"):
        assert admin.get(f"/admin/v1/{path}/{MAX_NUMBER}").status_code == 404
    documents = admin.get(f"/admin/v1/corpora/a/documents?after={MAX_NUMBER}").json()

    assert documents["documents"] == []


@pytest.mark.parametrize("time", ["9999-12-31T23:59:59-23:59", "0001-01-01T00:00:00+23:59"])
def test_a_time_beyond_the_calendar_is_refused(admin: httpx.Client, time: str) -> None:
    """It could be stored, and then not be shown."""
    target = {"id": "a", "phrases": ["Port Sorrel"], "expires_at": time}
    key = {"name": "a", "expires_at": time}

    assert admin.post("/admin/v1/targets", json=target).status_code == 422
    assert admin.post("/admin/v1/keys", json=key).status_code == 422
    assert admin.get("/admin/v1/targets").json()["targets"] == []
