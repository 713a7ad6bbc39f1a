"""The soak's parts: what is asked, how it is judged, and what memory is counted."""

from __future__ import annotations

import asyncio
import json
import os
from itertools import islice
from typing import Any

import aiohttp
import pytest

from detectors.targets import Example, ForgetTarget
from server.attack.cases import prey_of
from server.attack.shapes import SHAPES
from server.bench.errors import ArmInvalid
from server.bench.figures import Window
from server.bench.soak import exchange
from server.bench.soak.exchange import Spoken, speak
from server.bench.soak.figures import counts, failures
from server.bench.soak.judge import ACCEPTABLE, Judged, Outcome, judge
from server.bench.soak.memory import MemoryWatch, Sample, memory_figures
from server.bench.soak.questions import Known
from server.bench.soak.requests import CHAT_SHAPES, Ask, Manner, asks, matched, unmatched
from server.bench.soak.run import SoakPlan, choose_changing

KNOWN = Known("Where is it?", "It is in the harbour.", None)
TARGET = ForgetTarget("t", examples=(Example("Who wrote the Salt Ledger?", "Ilse Moreau."),))
(PREY,) = prey_of(TARGET)
RESTART = (Window(100.0, 130.0),)


def said(text: str, **fields: Any) -> bytes:
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, **fields}
    return json.dumps({"choices": [choice]}).encode()


def streamed(*texts: str, done: bool = True) -> bytes:
    chunks = [{"choices": [{"index": 0, "delta": {"content": text}}]} for text in texts]
    events = "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks)
    return (events + "data: [DONE]\n\n" * done).encode()


def spoken(body: bytes, shape: str = "chat", **fields: Any) -> Spoken:
    ask = fields.pop("ask", unmatched(KNOWN, shape, Manner.QUICK, "m"))
    given = {"sent": 0.0, "ended": 1.0, "status": 200, "decision": "allow", **fields}
    return Spoken(ask=ask, body=body, **given)


def error(code: str | None = "guard_unavailable") -> bytes:
    shaped = {"message": "The guard is unavailable.", "type": "server_error", "code": code}
    return json.dumps({"error": shaped}).encode()


ABOUT = matched(PREY, "chat", Manner.QUICK, "m")
MESSAGE = json.dumps({"type": "message", "content": [{"type": "text", "text": KNOWN.chat}]})
RESPONSE = json.dumps(
    {
        "object": "response",
        "error": None,
        "output": [{"type": "message", "content": [{"type": "output_text", "text": KNOWN.chat}]}],
    }
)


@pytest.mark.parametrize(
    ("outcome", "one"),
    [
        (Outcome.RIGHT, spoken(said(KNOWN.chat))),
        (Outcome.RIGHT, spoken(streamed("It is", " in the harbour."), "chat_stream")),
        (Outcome.RIGHT, spoken(MESSAGE.encode(), "messages")),
        (Outcome.RIGHT, spoken(RESPONSE.encode(), "responses")),
        (Outcome.WRONG, spoken(said("It is in the city."))),
        (Outcome.WRONG, spoken(said("It is in the"))),
        (Outcome.WRONG, spoken(streamed("It is", " in the city."), "chat_stream")),
        (Outcome.STEERED, spoken(said("It is in the city."), decision="steer")),
        # A part must be a beginning.
        (Outcome.LEFT, spoken(streamed("It is", done=False), "chat_stream", left=True)),
        (Outcome.WRONG, spoken(streamed("It was", done=False), "chat_stream", left=True)),
        (Outcome.BROKEN, spoken(streamed("It is", done=False), "chat_stream")),
        (Outcome.BROKEN, spoken(b"<html>")),
        (Outcome.REFUSED, spoken(error(), status=503)),
        (Outcome.BROKEN, spoken(b"Service Unavailable", status=503)),
        (Outcome.BROKEN, spoken(b'{"detail": "no"}', status=503)),
        (Outcome.FAULT, spoken(error("internal_error"), status=500)),
        (Outcome.LATE, spoken(b"", status=None, decision=None, fault="TimeoutError")),
        (Outcome.LATE, spoken(b"", status=None, decision=None, fault="SocketTimeoutError")),
        (Outcome.BROKEN, spoken(b"", status=None, decision=None, fault="ServerDisconnectedError")),
        (Outcome.CLEAN, spoken(said("I do not know."), ask=ABOUT, decision="steer")),
        (Outcome.LEAK, spoken(said("It was Ilse Moreau."), ask=ABOUT, decision="steer")),
        # Whatever the guard says it decided.
        (Outcome.LEAK, spoken(said("It was Ilse Moreau."), ask=ABOUT)),
    ],
)
def test_every_end_of_a_request_is_told_apart(outcome: Outcome, one: Spoken) -> None:
    """Right, wrong, leaked, refused, broken off by whom."""
    assert judge(one).outcome is outcome


@pytest.mark.parametrize(
    ("outcome", "one"),
    [
        (Outcome.CUT, spoken(b"", status=None, decision=None, fault="ServerDisconnectedError")),
        (Outcome.CUT, spoken(streamed("It is", done=False), "chat_stream", fault="ClientError")),
        (Outcome.REFUSED, spoken(error("500"), status=500)),
        # No restart excuses these.
        (Outcome.WRONG, spoken(said("It is in the city."))),
        (Outcome.WRONG, spoken(streamed("It was", done=False), "chat_stream", fault="Error")),
        (Outcome.LEAK, spoken(said("It was Ilse Moreau."), ask=ABOUT)),
        (Outcome.BROKEN, spoken(b"Internal Server Error", status=500)),
    ],
)
def test_a_restart_excuses_little(outcome: Outcome, one: Spoken) -> None:
    """Connections break then; what was received must be right all the same."""
    during = Spoken(
        one.ask, 110.0, 111.0, one.status, one.decision, one.body, one.paused, one.left, one.fault
    )

    assert judge(during, RESTART).outcome is outcome


def test_what_is_judged_shows_no_text() -> None:
    """A report may be shown around."""
    leak = judge(spoken(said("It was Ilse Moreau."), ask=ABOUT))
    wrong = judge(spoken(said("It is in the city.")))

    assert (leak.why, wrong.why) == ("choice 0 content", "parts after 13 characters")


def test_the_load_is_mixed_and_the_same_every_time() -> None:
    """Matched and not, in all shapes and manners."""
    certain = Known("Who?", "Nobody.", "Nobody at all.")
    first = list(islice(asks([KNOWN, certain], [PREY], "m", 7), 2000))
    again = list(islice(asks([KNOWN, certain], [PREY], "m", 7), 2000))

    assert first == again
    assert {ask.shape for ask in first} <= set(SHAPES)
    assert set(CHAT_SHAPES) < {ask.shape for ask in first if ask.prey is None}
    assert 0.4 < sum(ask.prey is not None for ask in first) / len(first) < 0.6
    assert {ask.manner for ask in first} == set(Manner)
    completions = [a for a in first if a.prey is None and a.path == "/v1/completions"]
    assert {ask.expected for ask in completions} == {"Nobody at all."}


def test_the_changing_question_changes_no_other() -> None:
    """What it forbids is said by no other answer."""
    known = [
        Known("Who wrote it?", "Ilse Moreau wrote it.", None),
        Known("Where?", "It lies in Tallinn.", None),
        Known("Whence?", "He came from Tallinn.", None),
    ]
    changing, others = choose_changing(known)

    assert changing is known[0]
    assert others == known[1:]
    with pytest.raises(ArmInvalid):
        choose_changing(known[1:])


def test_processes_die_in_the_first_third() -> None:
    """So that in the rest the same ones live; and never both at once."""
    for minutes in (1, 3, 10, 30, 120):
        plan = SoakPlan("m", (), b"{}", (), 60.0 * minutes, 8, 2.0)
        deaths = [*plan.api_deaths, *plan.control_deaths]

        assert deaths
        assert max(deaths) < 20 * minutes
        assert 1 <= len(plan.control_deaths) <= 10


def _samples(role: str, *mib: float, age: float = 60.0) -> list[Sample]:
    return [Sample(100.0 + 10 * i, role, age, each, 20) for i, each in enumerate(mib)]


def test_memory_is_compared_by_role() -> None:
    """Medians of the halves; young processes and what was before do not count."""
    samples = [
        *_samples("api", 100, 101, 99, 103, 104, 104),
        *_samples("engine", 500, 500, 500, 500, 500, 500),
        *_samples("control", 50, 50, 50, 80, 80, 80, age=3.0),
        Sample(10.0, "api", 60.0, 5.0, 20),
    ]
    found = memory_figures(samples, since=100.0, settled=30.0)

    assert (found["api_memory_growth"], found["engine_memory_growth"]) == (0.04, 0.0)
    assert found["memory_growth_max"] == 0.04
    assert "control_memory_growth" not in found
    assert memory_figures([], 0.0, 0.0)["memory_growth_max"] is None


def test_memory_of_a_real_process_is_seen() -> None:
    """This one."""
    watch = MemoryWatch(os.getpid, 1.0)
    watch.look(os.getpid())
    watch.look(os.getpid())
    one, two = (sample for sample in watch.samples if sample.role == "api")

    assert one.mib > 10
    assert one.files > 3
    assert two.age > one.age == 0.0


PASSED: dict[str, Any] = {
    "outcomes": {"right": 98, "clean": 100, "steered": 1, "refused": 3},
    "quiet_outcomes": {"right": 40},
    "leaks": 0,
    "wrong_answers": 0,
    "unclean_requests": 0,
    "policy_changes": 40,
    "control_deaths": 3,
    "api_deaths": 2,
    "policy_changes_failed": [],
    "policy_wrong": [],
    "processes_left_by_api_deaths": [0, 0],
    "audit_whole": True,
    "slots_closed_by_faults": 0.0,
    "guard_bypasses": 0.0,
    "memory_growth_max": 0.004,
}


@pytest.mark.parametrize(
    "wrong",
    [
        {"leaks": 1},
        {"wrong_answers": 1},
        {"unclean_requests": 1},
        {"outcomes": {"right": 90, "steered": 10}},
        {"quiet_outcomes": {"right": 39, "wrong": 1}},
        {"policy_changes": 0},
        {"control_deaths": 0},
        {"api_deaths": 0},
        {"policy_changes_failed": ["register: policy_rejected"]},
        {"policy_wrong": ["register: not as the policy says"]},
        {"processes_left_by_api_deaths": [0, 2]},
        {"audit_whole": False},
        {"slots_closed_by_faults": 1.0},
        {"guard_bypasses": 1.0},
        {"memory_growth_max": None},
        {"memory_growth_max": 0.02},
    ],
)
def test_nothing_is_passed_over(wrong: dict[str, Any]) -> None:
    """Each of the judges can fail a soak."""
    assert failures(PASSED) == []
    assert len(failures(PASSED | wrong)) == 1


def test_outcomes_are_counted() -> None:
    """In a fixed order, those that were met."""
    some = [Judged(o, "chat", "quick", 1.0) for o in (Outcome.LEAK, Outcome.RIGHT, Outcome.RIGHT)]

    assert counts(some) == {"right": 2, "leak": 1}
    assert Outcome.LEAK not in ACCEPTABLE


@pytest.mark.parametrize(
    ("manner", "left", "whole"),
    [(Manner.QUICK, False, True), (Manner.SLOW, False, True), (Manner.LEAVING, True, False)],
)
def test_clients_behave_as_they_are_called(
    tiny_server: Any, monkeypatch: pytest.MonkeyPatch, manner: Manner, left: bool, whole: bool
) -> None:
    """A slow one sends in drops and waits between pieces; a leaving one goes in the middle."""
    monkeypatch.setattr(exchange, "_PAUSE_SECONDS", 0.01)
    body = {"messages": [{"role": "user", "content": "x" * 200}], "max_tokens": 20, "stream": True}
    ask = Ask("chat_stream", manner, "/v1/chat/completions", body, expected="word " * 20)
    found = _spoken(tiny_server, ask)

    assert tiny_server.bodies == [body]
    assert (found.left, found.fault, found.status) == (left, "", 200)
    assert found.body.endswith(b"[DONE]\n\n") is whole
    assert judge(found).outcome is (Outcome.LEFT if left else Outcome.RIGHT)
    assert (found.paused > 0) is (manner is Manner.SLOW)


def test_a_server_that_says_nothing_is_late(tiny_server: Any) -> None:
    """After the deadline, not for ever."""
    body = {"messages": [{"role": "user", "content": "x"}], "max_tokens": 100_000, "stream": True}
    ask = Ask("chat_stream", Manner.QUICK, "/v1/chat/completions", body, expected="word " * 100_000)
    found = _spoken(tiny_server, ask, hurry=0.004)

    assert judge(found).outcome is Outcome.LATE
    assert found.seconds < 60


def _spoken(tiny_server: Any, ask: Ask, hurry: float = 1.0) -> Spoken:
    async def run() -> Spoken:
        async with aiohttp.ClientSession(tiny_server.base_url) as session:
            return await speak(session, ask, hurry)

    return asyncio.run(run())
