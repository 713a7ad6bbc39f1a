"""The form of answers of both completion APIs, and what a steered one adds to it."""

from __future__ import annotations

from typing import Any

from server.lenient import integer
from server.stream_form import StreamForm

_MAX_CHOICES = 4096


def own_form(body: dict[str, Any], *, chat: bool, num_choices: int) -> StreamForm:
    """What the answer to the client's own body looks like."""
    options = _stream_options(body)
    return StreamForm(
        chat=chat,
        num_choices=num_choices,
        usage_wanted=options.get("include_usage") is True,
        usage_in_chunks=options.get("continuous_usage_stats") is True,
    )


def steered_form(
    body: dict[str, Any], *, chat: bool, num_choices: int
) -> tuple[dict[str, Any], StreamForm]:
    """The body that the guard's parameters are added to, and what its answer looks like."""
    options = _stream_options(body)
    wanted = options.get("include_usage") is True
    if wanted:
        # If the shield ends the stream, the tokens used so far are known only from the chunks.
        body = {**body, "stream_options": {**options, "continuous_usage_stats": True}}
    form = StreamForm(
        chat=chat,
        num_choices=num_choices,
        usage_wanted=wanted,
        usage_in_chunks=True,
        usage_added=wanted and not options.get("continuous_usage_stats"),
        structured=_is_structured(body),
    )
    return body, form


def choices_per_prompt(body: dict[str, Any]) -> int:
    """How many choices a valid request gets for each prompt; 1 where `n` is no sensible number."""
    n = integer(body.get("n"))
    return n if n is not None and 0 < n <= _MAX_CHOICES else 1


def _stream_options(body: dict[str, Any]) -> dict[str, Any]:
    options = body.get("stream_options")
    return options if isinstance(options, dict) else {}


def _is_structured(body: dict[str, Any]) -> bool:
    response_format = body.get("response_format")
    plain = response_format is None or (
        isinstance(response_format, dict) and response_format.get("type") == "text"
    )
    forced_tool = body.get("tool_choice") not in (None, "none", "auto")
    return not plain or body.get("structured_outputs") is not None or forced_tool
