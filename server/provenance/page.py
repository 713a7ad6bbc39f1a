"""The attribution page: paste what a model said, see which of it comes from where.

Rendered here, without scripts: the key is typed into the form and goes no further than this
request. For admins only, as attribution is everywhere.
"""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from importlib.resources import files

from server.provenance.marks import Piece, first_shown, pieces
from server.provenance.schemas import AttributeOut, SourceOut

PATH = "/admin/provenance"
STYLE_PATH = "/admin/provenance.css"
# Of the form, escapes included: a text of a million letters passes, nothing much longer.
MAX_FORM_BYTES = 2 * 1024 * 1024
MAX_SHOWN = 200
HEADERS = {
    "content-security-policy": "default-src 'none'; style-src 'self'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'",
    "cache-control": "no-store",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}


def stylesheet() -> str:
    """The page's CSS."""
    return files("server").joinpath("data/provenance.css").read_text(encoding="utf-8")


def render_page(text: str = "", found: AttributeOut | None = None, error: str | None = None) -> str:
    """The page with its form and, if asked for, what was found in a text or why nothing was."""
    told = "" if error is None else f'<p class="error" role="alert">{escape(error)}</p>'
    result = "" if found is None else "".join(_result(text, found))
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Lethegate: provenance</title>
<link rel="stylesheet" href="{STYLE_PATH}">
</head>
<body>
<main>
<h1>Where does this come from?</h1>
{told}
<form method="post" action="{PATH}">
<label for="text">What the model said</label>
<textarea id="text" name="text" rows="8" required>{escape(text)}</textarea>
<label for="key">Admin key</label>
<input id="key" name="key" type="password" autocomplete="current-password" required>
<button>Look up</button>
</form>
{result}
</main>
</body>
</html>
"""


def _result(text: str, found: AttributeOut) -> Iterator[str]:
    refused = sum(span.refused for span in found.spans)
    yield f"<h2>{found.words} words, {len(found.spans)} matches, {refused} refused</h2>\n"
    shown = first_shown(found.spans, MAX_SHOWN)
    left_out = len(found.spans) - len(shown)
    if left_out > 0:
        yield f"<p>{left_out} more are not shown here; the refused ones come first.</p>\n"
    yield f'<p class="said">{"".join(map(_piece, pieces(text, shown)))}</p>\n'
    for number, span in enumerate(shown, 1):
        kind = "refused" if span.refused else "let through"
        yield f'<section id="match-{number}">\n<h3>{number}. {escape(span.corpus)}, {kind}</h3>\n'
        yield (
            f'<p class="numbers">{span.words} words, {span.nats:.2f} nats per word, '
            f"BCI {span.raw:.1f}, {span.count} times</p>\n"
        )
        for source in span.sources:
            yield from _source(source)
        yield "</section>\n"


def _piece(piece: Piece) -> str:
    if not piece.matches:
        return escape(piece.text)
    kind = "refused" if piece.refused else "matched"
    numbers = " ".join(map(str, piece.matches))
    return f'<mark class="{kind}" title="match {numbers}">{escape(piece.text)}</mark>'


def _source(source: SourceOut) -> Iterator[str]:
    named = f", {escape(source.source)}" if source.source else ""
    yield f"<p>document {source.document}{named}, from word {source.first_word + 1}</p>\n"
    if source.passage is None or source.start is None or source.end is None:
        return
    before, inside, after = (
        escape(part)
        for part in (
            source.passage[: source.start],
            source.passage[source.start : source.end],
            source.passage[source.end :],
        )
    )
    yield f"<blockquote>{before}<mark>{inside}</mark>{after}</blockquote>\n"
