"""The limits of keys: buckets, and counters that processes share."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from server.errors import ConcurrencyLimited, RateLimited, RequestsLimited, TokensLimited
from server.keys import counters as counters_module
from server.keys import limits as limits_module
from server.keys.counters import Counters, last_uses
from server.keys.limits import OPEN_ANSWER_TOKENS, Limiter, Limits, asked_tokens


@pytest.fixture
def counters(tmp_path: Path) -> Iterator[Counters]:
    """A file of its own."""
    made = Counters(tmp_path / "keys")
    yield made
    made.close()


def _enters(limiter: Limiter, limits: Limits, key: str = "k") -> bool:
    with suppress(RateLimited):
        limiter.enter(key, limits, anthropic=False).leave(None)
        return True
    return False


@settings(
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    limit=st.integers(1, 50),
    waits=st.lists(st.floats(0, 30), max_size=150),
    key=st.uuids().map(str),
)
def test_no_stretch_of_time_sees_more_than_the_bucket_gives(
    counters: Counters,
    clock: Callable[[float], None],
    limit: int,
    waits: list[float],
    key: str,
) -> None:
    """Over any time t at most limit * (1 + t / 60) requests are let in."""
    limiter, let_in, now = Limiter(counters), [], 0.0
    for wait in waits:
        clock(wait)
        now += wait
        if _enters(limiter, Limits(requests_per_minute=limit), key):
            let_in.append(now)

    for first in range(len(let_in)):
        for last in range(first, len(let_in)):
            most = limit * (1 + (let_in[last] - let_in[first]) / 60)
            assert last - first + 1 <= most + 1e-6


def test_waiting_as_long_as_told_is_enough(
    counters: Counters, clock: Callable[[float], None]
) -> None:
    """`Retry-After` is the time after which the same request is let in."""
    limiter, limits = Limiter(counters), Limits(requests_per_minute=7, tokens_per_minute=1000)
    while _enters(limiter, limits):
        pass
    with pytest.raises(RequestsLimited) as caught:
        limiter.enter("k", limits, anthropic=False)
    clock(caught.value.retry_after_seconds or 0)

    admission = limiter.enter("k", limits, anthropic=False)
    admission.reserve(400, {"max_tokens": 800})
    with pytest.raises(TokensLimited) as caught_tokens:
        admission.reserve(400, {"max_tokens": 800})
    assert caught_tokens.value.headers["x-ratelimit-remaining-tokens"] == "100"
    clock(caught_tokens.value.retry_after_seconds or 0)
    admission.reserve(400, {"max_tokens": 800})


def test_tokens_are_put_right_by_the_answer(
    counters: Counters, clock: Callable[[float], None]
) -> None:
    """What was reserved and not needed comes back, what was needed beyond it is owed."""
    limiter, limits = Limiter(counters), Limits(tokens_per_minute=1000)

    def left(spent: int | None) -> str:
        admission = limiter.enter("k", limits, anthropic=False)
        admission.reserve(400, {"max_tokens": 800})
        admission.leave(spent)
        probe = limiter.enter("k", limits, anthropic=False)
        probe.leave(None)
        return probe.headers()["x-ratelimit-remaining-tokens"]

    assert left(150) == "850"
    clock(60)
    assert left(None) == "100"
    clock(60)
    assert left(1500) == "0"
    clock(60)  # of the debt of 1,500 a minute's worth is gone
    assert not _reserves(limiter, limits, 600)
    assert _reserves(limiter, limits, 500)


def _reserves(limiter: Limiter, limits: Limits, tokens: int) -> bool:
    admission = limiter.enter("k", limits, anthropic=False)
    with suppress(TokensLimited):
        admission.reserve(0, {"max_tokens": tokens})
        return True
    return False


@pytest.mark.parametrize(
    ("body", "tokens"),
    [
        ({}, 100 + OPEN_ANSWER_TOKENS),
        ({"max_tokens": 5}, 105),
        ({"max_tokens": 5, "max_completion_tokens": 7}, 107),
        ({"max_tokens": 5, "n": 3}, 115),
        ({"max_tokens": 5, "n": 2, "prompt": ["a", "b"]}, 120),
        ({"max_tokens": 5, "messages": [[{}], [{}]]}, 110),
        ({"max_tokens": "5", "n": 3.0}, 115),
        ({"max_tokens": 2.5, "n": "many"}, 100 + OPEN_ANSWER_TOKENS),
    ],
)
def test_what_a_request_may_need(body: dict[str, Any], tokens: int) -> None:
    """Its prompts and every answer at its longest."""
    assert asked_tokens(400, body, 1_000_000) == tokens
    assert asked_tokens(400, {}, 300) == 300


@pytest.mark.parametrize(
    ("seconds", "written"), [(0.0201, "21ms"), (1.5, "1.5s"), (59.0, "59s"), (360.0, "6m0s")]
)
def test_durations_are_written_as_openai_does(seconds: float, written: str) -> None:
    """In Go's form."""
    assert limits_module._duration(seconds) == written


def test_requests_at_once(counters: Counters) -> None:
    """As many as the limit, and another when one has ended."""
    limiter, limits = Limiter(counters), Limits(concurrent_requests=2)
    first, _ = (limiter.enter("k", limits, anthropic=False) for _ in range(2))
    with pytest.raises(ConcurrencyLimited):
        limiter.enter("k", limits, anthropic=False)
    assert _enters(limiter, limits, "another")
    first.leave(None)

    assert _enters(limiter, limits)


_CHILD = """
import sys, time
from pathlib import Path
from server.keys.counters import Counters
from server.keys import limits as limits_module
from server.keys.limits import Limiter, Limits
from server.errors import RateLimited
# No bucket empties while one process waits for the other.
limits_module.monotonic = lambda: 1000.0
limiter = Limiter(Counters(Path(sys.argv[1])))
limits = Limits(requests_per_minute=100, concurrent_requests=1000)
let_in = 0
for _ in range(90):
    try:
        limiter.enter("k", limits, anthropic=False)
        let_in += 1
    except RateLimited:
        pass
print(let_in, flush=True)
time.sleep(600)
"""


def test_processes_share_a_limit(tmp_path: Path) -> None:
    """Two gateways let in together what one would; what a killed one had under way is forgotten."""
    command = [sys.executable, "-c", _CHILD, str(tmp_path / "keys")]
    children = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(2)]
    try:
        counts = [int(child.stdout.readline()) for child in children if child.stdout]
        mine = Counters(tmp_path / "keys")
        limiter, limits = Limiter(mine), Limits(concurrent_requests=100)

        assert sum(counts) == 100
        assert not _enters(limiter, limits)
    finally:
        for child in children:
            child.kill()
            child.wait()
            assert child.stdout is not None
            child.stdout.close()
    assert _enters(limiter, limits)
    mine.close()


def test_a_process_that_waited_sees_what_others_took_meanwhile(
    tmp_path: Path,
    counters: Counters,
    clock: Callable[[float], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its wait for the lock does not look like a reboot, which empties the bucket."""
    limits, real = Limits(requests_per_minute=2), counters.entry
    other = Counters(tmp_path / "keys")
    assert _enters(Limiter(other), limits)
    assert _enters(Limiter(other), limits)

    @contextmanager
    def waiting(key_id: str) -> Iterator[Any]:
        clock(0.001)
        assert not _enters(Limiter(other), limits)
        with real(key_id) as found:
            yield found

    monkeypatch.setattr(counters, "entry", waiting)
    assert not _enters(Limiter(counters), limits)
    other.close()


def test_more_keys_than_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The table never grows; the key that was idle longest makes room."""
    monkeypatch.setattr(counters_module, "_PROBES", 4)
    counters = Counters(tmp_path / "keys")
    size = (tmp_path / "keys" / "counters").stat().st_size
    for number in range(3000):
        with counters.entry(f"key-{number}") as (entry, _):
            entry.used_at = float(number + 1)
    uses = last_uses(tmp_path / "keys", ["key-2999", "nobody"])
    counters.close()

    assert (tmp_path / "keys" / "counters").stat().st_size == size < 4 * 1024 * 1024
    assert uses == {"key-2999": 3000.0}
    assert (tmp_path / "keys" / "counters").stat().st_mode & 0o077 == 0
