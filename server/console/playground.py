"""The playground: one request's life, from the prompt to where the answer's words come from.

The decision, its scores and thresholds are the gateway's own (`POST /v1/checks`, for the key of
whoever asks). It takes an auditor's key, so an endpoint on another machine, which gets none
(`server.console.endpoint`), is not asked for it. Which tokens the worker would veto depends on what
the model samples and is told by no route; in how many steps it did, the answer tells.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

from starlette.responses import Response

from detectors.targets import Phrase
from guard.phrase_matcher import Match, PhraseMatcher
from server.console.visit import Visit, message_of, status_of
from server.errors import ServerError
from server.provenance.marks import Piece, first_shown, pieces
from server.provenance.page import MAX_SHOWN
from server.provenance.schemas import AttributeOut

_FEW_PHRASES = 24
_MOST_PHRASES = 2000
_ANSWER_TOKENS = 256


@dataclass(frozen=True, slots=True)
class Forbidden:
    """The phrases that a decision forbids for a target, or would if it were `enforced`.

    `outdated`: they are of a revision that is not in force yet.
    """

    target_id: str
    phrases: list[dict[str, Any]]
    enforced: bool
    outdated: bool


@dataclass
class Life:
    """What is known of one request; what nobody asked for is None.

    `caught` is the first forbidden phrase in the answer, before which the shield would end it.
    """

    check: dict[str, Any] | None = None
    forbidden: list[Forbidden] = field(default_factory=list)
    said: str = ""
    generated: dict[str, Any] | None = None
    caught: Match | None = None
    found: AttributeOut | None = None
    pieces: list[Piece] = field(default_factory=list)
    faults: list[tuple[str, str]] = field(default_factory=list)
    status: int = 200

    def fail(self, step: str, error: ServerError) -> None:
        """Note that a step did not work; the others are shown."""
        self.faults.append((step, message_of(error)))
        self.status = status_of(error)


async def show(visit: Visit) -> Response:
    """An empty playground."""
    return _page(visit, "", "", None)


async def check(visit: Visit) -> Response:
    """Follow a request: decide, ask the model if that is wanted, look up what was said."""
    prompt, said = visit.form.text("prompt"), visit.form.text("answer")
    life = Life(said=said)
    if prompt.strip():
        if visit.endpoint.is_here:
            await _decide(visit, prompt, life)
        if visit.form.text("generate") and visit.is_admin:
            await _generate(visit, prompt, life)
    if life.said.strip() and visit.is_admin:
        await asyncio.to_thread(_catch, life)
        await _attribute(visit, life)
    return _page(visit, prompt, said, life)


def _page(visit: Visit, prompt: str, said: str, life: Life | None) -> Response:
    status = 200 if life is None else life.status
    spans = [] if life is None or life.found is None else first_shown(life.found.spans, MAX_SHOWN)
    return visit.page(
        "playground.html",
        status,
        prompt=prompt,
        said=said,
        life=life,
        spans=spans,
        here=visit.endpoint.is_here,
        few_phrases=_FEW_PHRASES,
        most_phrases=_MOST_PHRASES,
    )


async def _decide(visit: Visit, prompt: str, life: Life) -> None:
    try:
        answer = await visit.endpoint.ask("POST", "/v1/checks", {"text": prompt})
        life.check = answer.json()
        if visit.is_admin and life.check is not None:
            await _forbid(visit, life.check["detections"], life)
    except ServerError as error:
        life.fail("Decision", error)


async def _forbid(visit: Visit, detections: list[dict[str, Any]], life: Life) -> None:
    """The phrases of the units that these detections switch on: see `guard.policy`."""
    for target_id in dict.fromkeys(each["target"] for each in detections):
        own = [each for each in detections if each["target"] == target_id]
        whole = any(each["strength"] == "strong" for each in own)
        items = {item for each in own for item in each["items"]}
        listed = (await visit.api.get("targets", target_id, "phrases")).body
        phrases = [
            phrase
            for phrase in listed["phrases"]
            if (whole if phrase["unit"] == "target" else phrase["item"] in items)
        ]
        target = (await visit.api.get("targets", target_id)).body
        outdated = target["revision"] != target["active_revision"]
        enforced = any(each["enforced"] for each in own)
        life.forbidden.append(Forbidden(target_id, phrases, enforced, outdated))


async def _generate(visit: Visit, prompt: str, life: Life) -> None:
    """Ask the model, guarded as any client is."""
    try:
        models = (await visit.endpoint.ask("GET", "/v1/models")).json()["data"]
        body = {
            "model": models[0]["id"],
            "messages": [{"role": "user", "content": prompt}],
            "max_tokens": _ANSWER_TOKENS,
            "temperature": 0,
        }
        answer = await visit.endpoint.ask("POST", "/v1/chat/completions", body)
        choice = answer.json()["choices"][0]
    except ServerError as error:
        life.fail("Answer", error)
        return
    life.said = choice["message"]["content"] or ""
    life.generated = {
        "model": models[0]["id"],
        "finish_reason": choice["finish_reason"],
        "decision": answer.headers.get("x-lethegate-decision"),
        "generation": answer.headers.get("x-lethegate-generation"),
        "prevented": answer.headers.get("x-lethegate-prevented-steps"),
    }


def _catch(life: Life) -> None:
    phrases = [phrase for unit in life.forbidden if unit.enforced for phrase in unit.phrases]
    matcher = PhraseMatcher(Phrase(p["text"], p["whole_word"]) for p in phrases)
    life.caught = matcher.find(life.said)


async def _attribute(visit: Visit, life: Life) -> None:
    try:
        answer = await visit.api.send("POST", "provenance:attribute", body={"text": life.said})
    except ServerError as error:
        life.fail("Provenance", error)
        return
    life.found = AttributeOut.model_validate(answer.body)
    life.pieces = list(pieces(life.said, first_shown(life.found.spans, MAX_SHOWN)))
