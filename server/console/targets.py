"""The list of targets, and the form that registers one."""

from __future__ import annotations

from typing import Any

from starlette.responses import Response

from server.console.errors import ApiRefused
from server.console.forms import Form
from server.console.visit import Visit
from server.errors import Forbidden

_PAGE = 50
_EMPTY_ROWS = 2


async def show(visit: Visit) -> Response:
    """Targets by id, all or those whose id holds what is searched for."""
    search = visit.query("search")
    found = await visit.api.get("targets", limit=_PAGE, after=visit.query("after"), search=search)
    targets, next_ = found.body["targets"], found.body["next"]
    return visit.page("targets.html", targets=targets, next=next_, search=search or "")


async def show_new(visit: Visit) -> Response:
    """An empty form, for admins."""
    if not visit.is_admin:
        raise Forbidden("This needs a key with the role admin.")
    return _form(visit, {}, None)


async def create(visit: Visit) -> Response:
    """Register what the form says, or show what it would become.

    What the API refuses can be mended in the form.
    """
    document = _document(visit.form)
    try:
        if visit.form.text("preview"):
            preview = (await visit.api.send("POST", "targets:preview", body=document)).body
            return _form(visit, document, None, preview)
        made = (await visit.api.send("POST", "targets", body=document)).body
    except ApiRefused as error:
        if error.status not in (409, 422):
            raise
        return _form(visit, document, error)
    return visit.to(f"/console/targets/{made['target']['id']}?job={made['job']['id']}")


def _form(
    visit: Visit,
    document: dict[str, Any],
    error: ApiRefused | None,
    preview: dict[str, Any] | None = None,
) -> Response:
    examples = [*document.get("examples", ()), *[{"prompt": "", "answer": ""}] * _EMPTY_ROWS]
    return visit.page(
        "new_target.html",
        200 if error is None else error.status,
        document=document,
        examples=examples,
        error=None if error is None else str(error),
        param=None if error is None else error.param,
        preview=preview,
    )


def _document(form: Form) -> dict[str, Any]:
    """The target that a form describes; what is empty is left to its default."""
    pairs = zip(form.all("prompt"), form.all("answer"), strict=False)
    document: dict[str, Any] = {
        "id": form.text("id").strip(),
        "description": form.text("description").strip(),
        "aliases": form.lines("aliases"),
        "phrases": form.lines("phrases"),
        "examples": [{"prompt": p, "answer": a} for p, a in pairs if p.strip() or a.strip()],
        "retain_examples": form.lines("retain_examples"),
        "action": form.text("action"),
        "enforcement": form.text("enforcement"),
        "scope": form.text("scope"),
    }
    return {name: value for name, value in document.items() if value or name == "id"}
