"""A corpus takes over an index that the command line built."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from guard.background import word_view
from server.cli import app
from server.settings import Settings
from tests.server.control.corpora.passages import CORPORA, OTHER, SECRET, flip_bit
from tracing.index import Index
from tracing.manifest import read_manifest

Done = Callable[[httpx.Response], dict[str, Any]]


@pytest.fixture
def settings(settings: Settings, tmp_path: Path, request: pytest.FixtureRequest) -> Settings:
    """With a directory of indexes, unless a test says otherwise."""
    directory = getattr(request, "param", tmp_path / "indexes")
    return settings.model_copy(update={"index_dir": directory})


@pytest.fixture
def built(settings: Settings, tmp_path: Path) -> Path:
    """An index of two documents, the second of which is withdrawn from it again, and a third."""
    texts = {"a": SECRET, "b": "no more " + OTHER, "c": OTHER}
    lines = [{"text": text, "source": source} for source, text in texts.items()]
    file = tmp_path / "texts.jsonl"
    file.write_text("\n".join(json.dumps(line) for line in lines))
    assert settings.index_dir is not None
    directory = settings.index_dir / "novels"
    made = CliRunner().invoke(app, ["index", "build", str(directory), str(file)])
    assert made.exit_code == 0, made.output
    index = Index(directory, word_view())
    index.withdraw([1])
    index.close()
    return directory


@pytest.fixture
def adopt(admin: httpx.Client, done: Done) -> Callable[[str], dict[str, Any]]:
    """Have corpus `book`, which is made, take over an index; gives the job as it ended."""

    def ended(name: str) -> dict[str, Any]:
        admin.post(CORPORA, json={"id": "book", "veto": True})
        return done(admin.post(f"{CORPORA}/book:adopt", json={"index": name}))

    return ended


def test_an_index_is_taken_over(
    admin: httpx.Client, built: Path, adopt: Callable[[str], dict[str, Any]], done: Done
) -> None:
    """Its documents are the corpus's, under their numbers; later ones follow."""
    before = {path.name: path.read_bytes() for path in built.iterdir()}
    job = adopt("novels")

    assert (job["state"], job["message"]) == ("done", "2 documents taken over")
    page = admin.get(f"{CORPORA}/book/documents").json()["documents"]
    assert [(d["number"], d["source"], d["characters"]) for d in page] == [
        (0, "a", len(SECRET)),
        (2, "c", len(OTHER)),
    ]
    shown = admin.get(f"{CORPORA}/book").json()
    assert (shown["status"], shown["documents"], shown["words"]) == ("active", 2, 28)
    assert shown["vetoed"]["documents"] == 2
    found = admin.post("/admin/v1/provenance:attribute", json={"text": f"He wrote: {SECRET}."})
    assert [s["count"] for s in found.json()["spans"]] == [1]
    assert {path.name: path.read_bytes() for path in built.iterdir()} == before

    added = admin.post(
        f"{CORPORA}/book/documents", json={"documents": [{"text": SECRET}, {"text": "a b c d"}]}
    )
    assert done(added)["message"] == "1 documents added"
    again = admin.post(f"{CORPORA}/book:adopt", json={"index": "novels"})
    assert (again.status_code, again.json()["error"]["code"]) == (409, "conflict")


def test_what_cannot_be_taken_over_leaves_the_corpus_as_it_was(
    admin: httpx.Client, built: Path, adopt: Callable[[str], dict[str, Any]]
) -> None:
    """A flipped bit, an index that is not there, and one of another kind fail the job."""
    [segment] = built.glob("*.segment")
    flip_bit(segment)
    damaged, missing = adopt("novels"), adopt("poems")
    flip_bit(segment)

    for job in (damaged, missing):
        assert (job["state"], job["error"]["code"]) == ("failed", "corpus_not_adopted")
        assert SECRET.split()[1] not in json.dumps(job)
    assert admin.get(f"{CORPORA}/book").json()["documents"] == 0
    assert adopt("novels")["state"] == "done"


@pytest.mark.parametrize("name", ["", ".", "..", "../novels", "a/b", "/etc", ".hidden", "a" * 200])
def test_names_are_of_folders_in_the_directory(admin: httpx.Client, name: str) -> None:
    """Nothing else is read."""
    admin.post(CORPORA, json={"id": "book"})
    refused = admin.post(f"{CORPORA}/book:adopt", json={"index": name})

    assert refused.status_code == 422
    assert refused.json()["error"]["param"] == "index"


@pytest.mark.parametrize("settings", [None], indirect=True)
def test_without_a_directory_nothing_is_taken_over(admin: httpx.Client) -> None:
    """The setting opens it."""
    admin.post(CORPORA, json={"id": "book"})
    refused = admin.post(f"{CORPORA}/book:adopt", json={"index": "novels"})

    assert refused.status_code == 409
    assert "index_dir" in refused.json()["error"]["message"]


@pytest.mark.parametrize("death", ["copied", "adopted"])
def test_killed_while_it_takes_over_it_is_done_again(
    make_control: Callable[..., Any], built: Path, death: str
) -> None:
    """Between copy and commit, and between commit and record: all there, once, nothing besides."""
    control = make_control()
    control.death = death
    control.start()
    control.until(control.ready)
    control.until(lambda: control.http.post("/corpora", json={"id": "book"}).status_code == 202)
    with suppress(httpx.HTTPError):  # it may die before it has answered
        control.http.post("/corpora/book:adopt", json={"index": "novels"})
    assert control.process.wait() == -signal.SIGKILL
    control.death = ""
    control.start()
    control.until(lambda: _last_job(control)["state"] in ("done", "failed"))
    job = _last_job(control)

    assert (job["state"], job["message"]) == ("done", "2 documents taken over")
    page = control.http.get("/corpora/book/documents").json()["documents"]
    assert [d["number"] for d in page] == [0, 2]
    found = control.http.post("/provenance:attribute", json={"text": f"no more {OTHER}"}).json()
    assert [span["count"] for span in found["spans"]] == [1]
    indexes = (control.state_dir / "corpora" / "index").iterdir()
    [index] = (path for path in indexes if not path.name.startswith("@"))  # targets' own
    # Its one segment; for a moment also that which what is withdrawn is purged into.
    control.until(lambda: _segments(index) == [s.name for s in read_manifest(index).segments])
    assert len(_segments(index)) == 1


def _segments(index: Path) -> list[str]:
    return [path.name for path in index.glob("*.segment")]


def _last_job(control: Any) -> dict[str, Any]:
    job: dict[str, Any] = control.http.get("/jobs?limit=1").json()["jobs"][0]
    return job
