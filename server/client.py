"""The admin API's client, as the command line uses it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import httpx

from server.auth import admin_key
from server.errors import ServerError, StartFault
from server.settings import Settings

PREFIX = "/admin/v1"
_FINAL = frozenset({"done", "failed", "cancelled"})


class AdminClient:
    """Calls the admin API; every failure is a ServerError with one line of message."""

    def __init__(self, base_url: str, key: str, *, timeout_seconds: float = 60.0) -> None:
        self._http = httpx.Client(
            base_url=base_url,
            headers={"authorization": f"Bearer {key}"},
            timeout=timeout_seconds,
            trust_env=False,  # the admin API is next door, and the key is not for a proxy
        )

    @classmethod
    def of(cls, settings: Settings) -> AdminClient:
        """For the control process of these settings, with its admin key.

        Raises:
            StartFault: no key is set and none was made yet.
        """
        if settings.admin_key is None and not settings.admin_key_file.exists():
            raise StartFault(
                f"no admin key: set LETHEGATE_ADMIN_KEY, or start the server that makes "
                f"{settings.admin_key_file}"
            )
        return cls(settings.admin_url, admin_key(settings))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._http.close()

    def register(self, document: bytes) -> dict[str, Any]:
        """Register the target in a JSON document."""
        headers = {"content-type": "application/json"}
        return self._call("POST", "/targets", content=document, headers=headers)

    def targets(self) -> Iterator[dict[str, Any]]:
        """All targets, page by page."""
        return self._pages("/targets", "targets")

    def target(self, target_id: str) -> dict[str, Any]:
        """One whole target."""
        return self._call("GET", f"/targets/{_quoted(target_id)}")

    def statistics(self, target_id: str) -> dict[str, Any]:
        """What a target did and costs."""
        return self._call("GET", f"/targets/{_quoted(target_id)}/statistics")

    def withdraw(self, target_id: str) -> dict[str, Any]:
        """Withdraw a target."""
        return self._call("DELETE", f"/targets/{_quoted(target_id)}")

    def phrases(self, target_id: str) -> dict[str, Any]:
        """Every phrase of a target, with its reason."""
        return self._call("GET", f"/targets/{_quoted(target_id)}/phrases")

    def edit_phrases(
        self, target_id: str, add: Sequence[str], strike: Sequence[str]
    ) -> dict[str, Any]:
        """Add and strike phrases of a target."""
        edit = {"add": list(add), "strike": list(strike)}
        return self._call("POST", f"/targets/{_quoted(target_id)}/phrases", json=edit)

    def preview(self, document: bytes) -> dict[str, Any]:
        """What the target in a JSON document would become; nothing is stored."""
        headers = {"content-type": "application/json"}
        return self._call("POST", "/targets:preview", content=document, headers=headers)

    def patch(self, target_id: str, patch: bytes) -> dict[str, Any]:
        """Change a target by the JSON merge patch in a document."""
        headers = {"content-type": "application/merge-patch+json"}
        path = f"/targets/{_quoted(target_id)}"
        return self._call("PATCH", path, content=patch, headers=headers)

    def import_targets(self, lines: bytes, on_conflict: str) -> dict[str, Any]:
        """Register the targets in JSON lines, all or none."""
        params, headers = {"on_conflict": on_conflict}, {"content-type": "application/x-ndjson"}
        return self._call(
            "POST", "/targets:import", content=lines, headers=headers, params=params, timeout=None
        )

    def validate_targets(self, lines: bytes) -> dict[str, Any]:
        """Check the targets in JSON lines; nothing is stored."""
        headers = {"content-type": "application/x-ndjson"}
        path = "/targets:validate"
        return self._call("POST", path, content=lines, headers=headers, timeout=None)

    def export_targets(self) -> Iterator[bytes]:
        """All targets as JSON lines, in pieces as they come."""
        try:
            with self._http.stream("GET", f"{PREFIX}/targets:export") as response:
                if response.is_error:
                    response.read()
                    raise ServerError(_message(response.json()))
                yield from response.iter_bytes()
        except httpx.HTTPError as error:
            raise ServerError(f"the export ended early: {error}") from None

    def versions(self, target_id: str) -> dict[str, Any]:
        """The kept revisions of a target."""
        return self._call("GET", f"/targets/{_quoted(target_id)}/versions")

    def diff(self, target_id: str, before: int, after: int | None) -> dict[str, Any]:
        """What changed between two revisions; the newest is the second unless given."""
        params = {"from": before} | ({} if after is None else {"to": after})
        return self._call("GET", f"/targets/{_quoted(target_id)}/versions:diff", params=params)

    def roll_back(self, target_id: str, revision: int) -> dict[str, Any]:
        """Make a kept revision the newest again."""
        path = f"/targets/{_quoted(target_id)}/versions/{revision}:rollback"
        return self._call("POST", path, json={})

    def add_assistant(self, name: str, folder: str) -> dict[str, Any]:
        """Register the assistant in a folder of the server's machine."""
        return self._call("POST", "/assistants", json={"id": name, "folder": folder})

    def assistants(self) -> list[dict[str, Any]]:
        """All registered assistants."""
        return list(self._pages("/assistants", "assistants"))

    def remove_assistant(self, name: str) -> dict[str, Any]:
        """Retire an assistant."""
        return self._call("DELETE", f"/assistants/{_quoted(name)}")

    def create_key(self, key: dict[str, Any]) -> dict[str, Any]:
        """Make an API key; the answer holds it in clear."""
        return self._call("POST", "/keys", json=key)

    def keys(self) -> Iterator[dict[str, Any]]:
        """All API keys, page by page."""
        return self._pages("/keys", "keys")

    def patch_key(self, key_id: str, patch: bytes) -> dict[str, Any]:
        """Change an API key by the JSON merge patch in a document."""
        headers = {"content-type": "application/merge-patch+json"}
        return self._call("PATCH", f"/keys/{_quoted(key_id)}", content=patch, headers=headers)

    def rotate_key(self, key_id: str, grace_seconds: int) -> dict[str, Any]:
        """Give an API key a second secret; the answer holds it in clear."""
        rotation = {"grace_seconds": grace_seconds}
        return self._call("POST", f"/keys/{_quoted(key_id)}:rotate", json=rotation)

    def delete_key(self, key_id: str) -> dict[str, Any]:
        """Revoke an API key."""
        return self._call("DELETE", f"/keys/{_quoted(key_id)}")

    def nodes(self) -> list[dict[str, Any]]:
        """All nodes."""
        found: list[dict[str, Any]] = self._call("GET", "/nodes")["nodes"]
        return found

    def fence_node(self, node_id: str) -> dict[str, Any]:
        """Keep a node from serving."""
        return self._call("POST", f"/nodes/{_quoted(node_id)}:fence", json={})

    def unfence_node(self, node_id: str) -> dict[str, Any]:
        """Let a node serve again."""
        return self._call("POST", f"/nodes/{_quoted(node_id)}:unfence", json={})

    def forget_node(self, node_id: str) -> dict[str, Any]:
        """Forget a node that is gone."""
        return self._call("DELETE", f"/nodes/{_quoted(node_id)}")

    def train_assistant(self, training: dict[str, Any]) -> dict[str, Any]:
        """Have an assistant trained by the server."""
        return self._call("POST", "/assistants:train", json=training)

    def training_steps(self, name: str) -> Iterator[dict[str, Any]]:
        """The log of an assistant's training, page by page."""
        return self._pages(f"/assistants/{_quoted(name)}/log", "steps")

    def loss_picture(self, name: str) -> str:
        """The losses of an assistant's training as SVG."""
        return self._send("GET", f"/assistants/{_quoted(name)}/loss.svg").text

    def generation(self) -> dict[str, Any]:
        """The policy that rules, and who has acknowledged it."""
        return self._call("GET", "/generation")

    def generations(self, limit: int) -> list[dict[str, Any]]:
        """The policies that were put in force, newest first."""
        page = self._call("GET", "/generations", params={"limit": str(limit)})
        found: list[dict[str, Any]] = page["generations"]
        return found

    def cancel(self, job_id: str) -> dict[str, Any]:
        """Cancel a job."""
        return self._call("POST", f"/jobs/{_quoted(job_id)}:cancel", json={})

    def jobs(self, limit: int) -> list[dict[str, Any]]:
        """The newest jobs."""
        page = self._call("GET", "/jobs", params={"limit": str(limit)})
        found: list[dict[str, Any]] = page["jobs"]
        return found

    def wait(
        self,
        job_id: str,
        timeout_seconds: float,
        on_progress: Callable[[dict[str, Any]], None] = lambda job: None,
    ) -> dict[str, Any]:
        """Poll a job until it has ended; gives its last state, ended or not, at the timeout."""
        end = time.monotonic() + timeout_seconds
        while True:
            job = self._call("GET", f"/jobs/{_quoted(job_id)}")
            on_progress(job)
            if job["state"] in _FINAL or time.monotonic() >= end:
                return job
            time.sleep(0.1)

    def create_corpus(self, corpus: dict[str, Any]) -> dict[str, Any]:
        """Register a corpus."""
        return self._call("POST", "/corpora", json=corpus)

    def change_corpus(self, corpus_id: str, change: dict[str, Any]) -> dict[str, Any]:
        """Change a corpus's settings."""
        return self._call("PATCH", f"/corpora/{_quoted(corpus_id)}", json=change)

    def corpora(self) -> Iterator[dict[str, Any]]:
        """All corpora, page by page."""
        return self._pages("/corpora", "corpora")

    def corpus(self, corpus_id: str) -> dict[str, Any]:
        """One corpus."""
        return self._call("GET", f"/corpora/{_quoted(corpus_id)}")

    def upload_documents(self, corpus_id: str, lines: Iterator[bytes]) -> dict[str, Any]:
        """Add documents, JSON lines that are streamed as they come."""
        path = f"/corpora/{_quoted(corpus_id)}/documents"
        headers = {"content-type": "application/x-ndjson"}
        return self._call("POST", path, content=lines, headers=headers, timeout=None)

    def documents(self, corpus_id: str) -> Iterator[dict[str, Any]]:
        """A corpus's documents without their text, page by page."""
        return self._pages(f"/corpora/{_quoted(corpus_id)}/documents", "documents")

    def document(self, corpus_id: str, number: int) -> dict[str, Any]:
        """One document with its text."""
        return self._call("GET", f"/corpora/{_quoted(corpus_id)}/documents/{number}")

    def withdraw_document(self, corpus_id: str, number: int, *, erase: bool) -> dict[str, Any]:
        """Withdraw a document; with `erase` it is also gone from disk."""
        path = f"/corpora/{_quoted(corpus_id)}/documents/{number}"
        return self._call("DELETE", path, params={"erase": str(erase).lower()})

    def withdraw_corpus(self, corpus_id: str) -> dict[str, Any]:
        """Withdraw a corpus with all its documents."""
        return self._call("DELETE", f"/corpora/{_quoted(corpus_id)}")

    def adopt_index(self, corpus_id: str, index: str) -> dict[str, Any]:
        """Have a corpus take over an index of the server's `index_dir`."""
        return self._call("POST", f"/corpora/{_quoted(corpus_id)}:adopt", json={"index": index})

    def verify_corpus(self, corpus_id: str) -> dict[str, Any]:
        """Have a corpus's index compared with its checksums."""
        return self._call("POST", f"/corpora/{_quoted(corpus_id)}:verify", json={})

    def _pages(self, path: str, name: str) -> Iterator[dict[str, Any]]:
        after: dict[str, str] = {}
        while True:
            page = self._call("GET", path, params={"limit": "1000", **after})
            yield from page[name]
            if page["next"] is None:
                return
            after = {"after": str(page["next"])}

    def _call(self, method: str, path: str, **arguments: Any) -> dict[str, Any]:
        answer: dict[str, Any] = _json(self._send(method, path, **arguments))
        return answer

    def _send(self, method: str, path: str, **arguments: Any) -> httpx.Response:
        try:
            response = self._http.request(method, PREFIX + path, **arguments)
        except httpx.HTTPError as error:
            place = self._http.base_url
            raise ServerError(f"cannot reach the admin API at {place}: {error}") from None
        if response.is_error:
            raise ServerError(_message(_json(response)))
        return response


def _json(response: httpx.Response) -> Any:
    try:
        return response.json()
    except ValueError:
        raise ServerError("the admin API's answer is not JSON") from None


def _message(body: Any) -> str:
    error = body.get("error") if isinstance(body, dict) else None
    if not isinstance(error, dict):
        return "the admin API refused without a reason"
    return f"{error.get('message')} ({error.get('code')})"


def _quoted(part: str) -> str:
    return quote(part, safe="")
