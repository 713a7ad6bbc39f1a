"""ETags and cursor pages beyond targets: corpora, keys, assistants."""

from __future__ import annotations

import pytest

from guard.uld.card import Card
from server.errors import PreconditionFailed
from server.etags import content_etag, require_match

CORPORA, KEYS, ASSISTANTS = "/admin/v1/corpora", "/admin/v1/keys", "/admin/v1/assistants"
STALE = {"if-match": '"stale"'}


def folder_of(folder):
    folder.mkdir()
    data = {"sha256": "0" * 64, "forget": 3, "flat": 5}
    Card("served", "tokenizer", 2, 6, data, {}, {"forget": 0.5}, ["ada"]).write(folder)
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(folder.name.encode())
    return str(folder)


@pytest.fixture
def shelved(admin, tmp_path):
    """Three registered assistants; the answer to the last."""
    for name in ("second", "first", "third"):
        answer = admin.post(ASSISTANTS, json={"id": name, "folder": folder_of(tmp_path / name)})
        assert answer.status_code == 201, answer.text
    return answer


@pytest.mark.parametrize("given", [None, "*", '"a"', '"b", "a"', 'W/"x", *'])
def test_what_matches(given):
    """Nothing, anything, or the tag among others."""
    require_match('"a"', given, "target")


@pytest.mark.parametrize("given", ['"b"', "a", 'W/"a"', '"a', '"b","c"'])
def test_what_does_not_match(given):
    """A weak tag never matches strongly."""
    with pytest.raises(PreconditionFailed, match="The key has been changed") as raised:
        require_match('"a"', given, "key")
    assert raised.value.param == "If-Match"


def test_tags_tell_contents_and_incarnations_apart():
    """The order of keys does not matter."""
    tag = content_etag(1.0, {"a": 1, "b": [2]})

    assert tag == content_etag(1.0, {"b": [2], "a": 1})
    assert len({tag, content_etag(1.0, {"a": 2, "b": [2]}), content_etag(2.0, {"a": 1})}) == 3


def test_a_corpus_is_changed_from_a_known_state(admin):
    """Stale tags change nothing, not even by withdrawing it; work on documents changes no tag."""
    made = admin.post(CORPORA, json={"id": "book", "label": "licensed", "minimum_match": 6})
    path, tag = f"{CORPORA}/book", made.headers["etag"]
    assert admin.get(path).headers["etag"] == tag

    refused = admin.patch(path, json={"minimum_match": 9}, headers=STALE)
    changed = admin.patch(path, json={"minimum_match": 9}, headers={"if-match": tag})
    second = admin.patch(path, json={"minimum_match": 12}, headers={"if-match": tag})
    kept = admin.delete(path, headers={"if-match": tag})

    assert (refused.status_code, changed.status_code) == (412, 202)
    assert refused.json()["error"]["param"] == "If-Match"
    assert changed.headers["etag"] == admin.get(path).headers["etag"] != tag
    assert (second.status_code, kept.status_code) == (412, 412)
    assert admin.get(path).json()["minimum_match"] == 9
    gone = admin.delete(path, headers={"if-match": changed.headers["etag"]})
    assert gone.status_code == 202


def test_a_key_is_rotated_from_a_known_state(admin):
    """Of two operators one learns that the other was faster."""
    made = admin.post(KEYS, json={"name": "alice"})
    path, tag = f"{KEYS}/{made.json()['id']}", made.headers["etag"]
    first = admin.post(f"{path}:rotate", json={}, headers={"if-match": tag})
    second = admin.post(f"{path}:rotate", json={}, headers={"if-match": tag})

    assert (first.status_code, second.status_code) == (200, 412)
    assert len(admin.get(path).json()["secrets"]) == 2


def test_assistants_come_in_pages_and_singly(admin, shelved):
    """By id, from a cursor on; one that is not there is a 404."""
    first = admin.get(ASSISTANTS, params={"limit": 2}).json()
    rest = admin.get(ASSISTANTS, params={"limit": 2, "after": first["next"]}).json()
    one = admin.get(shelved.headers["location"])

    assert [each["id"] for each in first["assistants"]] == ["first", "second"]
    assert ([each["id"] for each in rest["assistants"]], rest["next"]) == (["third"], None)
    assert one.json() == rest["assistants"][0]
    assert one.headers["etag"] == shelved.headers["etag"] == f'"{one.json()["digest"]}"'
    assert admin.get(f"{ASSISTANTS}/nobody").status_code == 404


def test_an_assistant_is_retired_from_a_known_state(admin, shelved):
    """Another that took the name meanwhile stays."""
    path, tag = shelved.headers["location"], shelved.headers["etag"]

    assert admin.delete(path, headers=STALE).status_code == 412
    assert admin.delete(path, headers={"if-match": tag}).status_code == 200


def test_the_document_tells_which_answers_have_a_tag(admin, tmp_path):
    """Those that have one and no others; who takes a tag may answer that it is past."""
    told, takers, refusers = set(), set(), set()
    for path, operations in admin.get("/openapi.json").json()["paths"].items():
        for method, operation in operations.items():
            answers = operation["responses"]
            names = {parameter["name"] for parameter in operation.get("parameters", ())}
            tagged = [s for s, answer in answers.items() if "ETag" in answer.get("headers", {})]
            assert all(status.startswith("2") for status in tagged)
            told |= {(method, path)} if tagged else set()
            takers |= {(method, path)} if "If-Match" in names else set()
            refusers |= {(method, path)} if "412" in answers else set()
    ids = {"target_id": "ada", "corpus_id": "book", "assistant_id": "first", "revision": 1}
    sent = set()

    def ask(method, path, body=None):
        place = f"/admin/v1/{path}"
        answer = admin.request(method, place.format(**ids), json=body)
        assert answer.is_success, (method, path, answer.text)
        if "etag" in answer.headers:
            sent.add((method, place))
        return answer.json()

    target = {"id": "ada", "phrases": ["Port Sorrel"]}
    ask("post", "targets", target)
    ask("put", "targets/{target_id}", target)
    ask("patch", "targets/{target_id}", {"description": "an author"})
    ask("post", "targets/{target_id}/phrases", {"add": ["Grey Lanterns"]})
    ask("post", "targets/{target_id}/versions/{revision}:rollback", {})
    ask("post", "corpora", {"id": "book"})
    ask("patch", "corpora/{corpus_id}", {"minimum_match": 9})
    ask("post", "corpora/{corpus_id}/documents", {"documents": [{"text": "a b c"}]})
    ids["key_id"] = ask("post", "keys", {"name": "alice"})["id"]
    ask("patch", "keys/{key_id}", {"name": "eve"})
    ask("post", "keys/{key_id}:rotate", {})
    ask("post", "assistants", {"id": "first", "folder": folder_of(tmp_path / "first")})
    for path in (
        *("targets", "targets/{target_id}", "targets/{target_id}/phrases"),
        *("targets/{target_id}/versions", "targets/{target_id}/versions/{revision}"),
        *("targets/{target_id}/statistics", "targets/{target_id}/versions:diff?from=1"),
        *("corpora", "corpora/{corpus_id}", "corpora/{corpus_id}/documents"),
        *("keys", "keys/{key_id}", "assistants", "assistants/{assistant_id}"),
        *("jobs", "generations", "nodes", "audit"),
    ):
        ask("get", path)
    for path in ("targets/{target_id}", "keys/{key_id}", "assistants/{assistant_id}"):
        ask("delete", path)
    ask("delete", "corpora/{corpus_id}")

    assert sent == told
    assert len(takers) > 8
    assert takers == refusers
