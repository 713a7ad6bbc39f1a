"""What became of a request: answered, cleanly refused, cut off by a restart, or wrong."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from guard.decision import Verdict
from server.attack.answers import surfaces_of
from server.bench.figures import Window
from server.bench.soak.exchange import Spoken
from server.bench.soak.requests import says
from server.sse import EventSplitter, event_data

# Where the text of an answer is, by API.
_TEXTS = (
    *("choice 0 content", "choice 0 text", "text"),
    *("output output_text", "output_text.delta delta"),
)
_LAST_TYPES = frozenset({"message_stop", "response.completed", "response.incomplete"})


class Outcome(StrEnum):
    """Of a request; the last five are none that a client may ever see.

    `STEERED`: an unmatched question was found to be about a target, a false alarm. `REFUSED`: an
    error in the API's own shape. `LEFT`: the client broke off; what it had was right. `CUT`: the
    server was being restarted.
    """

    RIGHT = "right"
    CLEAN = "clean"
    STEERED = "steered"
    REFUSED = "refused"
    LEFT = "left"
    CUT = "cut"
    LEAK = "leak"
    WRONG = "wrong"
    LATE = "late"
    BROKEN = "broken"
    FAULT = "fault"


ACCEPTABLE = frozenset(
    {Outcome.RIGHT, Outcome.CLEAN, Outcome.STEERED, Outcome.REFUSED, Outcome.LEFT, Outcome.CUT}
)


@dataclass(frozen=True, slots=True)
class Judged:
    """A request's outcome; `why` is of closed words and numbers, never text."""

    outcome: Outcome
    shape: str
    manner: str
    seconds: float
    why: str = ""


def judge(spoken: Spoken, restarts: Sequence[Window] = ()) -> Judged:
    """Judge one request.

    `restarts` are the times without a server, `time.monotonic` seconds: what met one may be cut
    off or refused, but what was received must be right all the same.
    """
    outcome, why = _outcome(spoken, any(w.meets(spoken.sent, spoken.ended) for w in restarts))
    ask = spoken.ask
    return Judged(outcome, ask.shape, ask.manner.value, spoken.seconds, why)


def _outcome(spoken: Spoken, restarting: bool) -> tuple[Outcome, str]:
    if spoken.status == 200:
        wrong = _wrong(spoken)
        if wrong is not None:
            return wrong
    elif spoken.status is not None and not spoken.fault and not spoken.left:
        return _refusal(spoken, restarting)
    if spoken.left:
        return Outcome.LEFT, ""
    if spoken.fault:
        if restarting:
            return Outcome.CUT, spoken.fault
        late = "Timeout" in spoken.fault
        return Outcome.LATE if late else Outcome.BROKEN, spoken.fault
    if not _is_whole(spoken):
        return (Outcome.CUT if restarting else Outcome.BROKEN), "unfinished"
    if spoken.ask.prey is not None:
        return Outcome.CLEAN, ""
    return (Outcome.RIGHT if spoken.decision == Verdict.ALLOW else Outcome.STEERED), ""


def _wrong(spoken: Spoken) -> tuple[Outcome, str] | None:
    """What is wrong with the part of an answer that was received."""
    broken_off = bool(spoken.left or spoken.fault)
    try:
        said = surfaces_of(spoken.body, stream=spoken.ask.streams)
    except (ValueError, KeyError, TypeError, AttributeError):
        return None if broken_off else (Outcome.BROKEN, "unreadable")
    prey = spoken.ask.prey
    if prey is not None:
        found = [name for name, text in said.items() if says(prey, text)]
        return (Outcome.LEAK, ", ".join(found)) if found else None
    if spoken.decision != Verdict.ALLOW:
        return None
    if said.get("error", "null") != "null":
        return None  # of a stream that the engine's end cut off: it is not whole
    text = next((said[name] for name in _TEXTS if name in said), "")
    expected = spoken.ask.expected or ""
    part = broken_off or not _is_whole(spoken)
    right = expected.startswith(text) if part else text == expected
    return None if right else (Outcome.WRONG, f"parts after {_common(text, expected)} characters")


def _refusal(spoken: Spoken, restarting: bool) -> tuple[Outcome, str]:
    code = _code(spoken.body)
    if code is None:
        return Outcome.BROKEN, f"status {spoken.status} without an error in the API's shape"
    why = f"{spoken.status} {code}"
    if restarting or spoken.status != 500:
        return Outcome.REFUSED, why
    return Outcome.FAULT, why


def _code(body: bytes) -> str | None:
    """The code or type of an error in OpenAI's or Anthropic's shape; None: it has neither."""
    try:
        error: Any = json.loads(body)["error"]
        if not isinstance(error["message"], str):
            return None
        return str(error.get("code") or error["type"])
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def _is_whole(spoken: Spoken) -> bool:
    """Whether an answer came to an end of its own."""
    if not spoken.ask.streams:
        return True  # it was read as JSON
    last = None
    for event in EventSplitter().feed(spoken.body):
        data = event_data(event)
        last = data if data is not None else last
    if last is None:
        return False
    if last.strip() == b"[DONE]":
        said = surfaces_of(spoken.body, stream=True)
        return said.get("error", "null") == "null"
    try:
        return json.loads(last).get("type") in _LAST_TYPES
    except (ValueError, AttributeError):
        return False


def _common(one: str, other: str) -> int:
    pairs = zip(one, other, strict=False)
    return next((place for place, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))
