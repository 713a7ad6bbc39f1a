"""Templates to pages. Every value is escaped, and one that is missing is an error."""

from __future__ import annotations

import hashlib
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.responses import HTMLResponse

STATIC = {"console.css": "text/css", "console.js": "text/javascript", "icon.svg": "image/svg+xml"}
# Scripts and styles are our own files; nothing else is loaded, and nobody frames a page.
HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self'; connect-src 'self'; form-action 'self'; base-uri 'none'; "
    "frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'",
    "cache-control": "no-store",
    # Not no-referrer, under which browsers send forms with the origin "null".
    "referrer-policy": "same-origin",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}
PAGES = (
    ("/console/", "Overview"),
    ("/console/targets", "Targets"),
    ("/console/playground", "Playground"),
    ("/console/corpora", "Corpora"),
    ("/console/generations", "Generations"),
    ("/console/nodes", "Nodes"),
    ("/console/jobs", "Jobs"),
    ("/console/keys", "Keys"),
    ("/console/audit", "Audit"),
)


def page(template: str, status: int = 200, **values: Any) -> HTMLResponse:
    """A template with its values as a response."""
    return HTMLResponse(_environment().get_template(template).render(values), status)


@cache
def static(name: str) -> bytes:
    """One of the files in `STATIC`."""
    return files("server.console").joinpath("static", name).read_bytes()


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("server.console"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["pages"] = PAGES
    # A changed file has another address.
    environment.globals["static"] = {
        name.replace(".", "_"): f"/console/static/{name}?{_version(name)}" for name in STATIC
    }
    environment.filters["when"] = _when
    environment.globals["parts"] = environment.get_template("parts.html").module
    return environment


def _version(name: str) -> str:
    return hashlib.sha256(static(name)).hexdigest()[:12]


def _when(time: str | None) -> str:
    """A time of the API to the second, in UTC."""
    return "" if time is None else f"{time[:10]} {time[11:19]}"
