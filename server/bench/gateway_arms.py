"""Plain engine, Lethegate and LiteLLM side by side: one round of all three, and its figures."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from server.bench.answers import Answer, read_answer
from server.bench.errors import ArmInvalid
from server.bench.figures import spread
from server.bench.load import Workload, run_load, send_all
from server.bench.servers import SERVED_NAME, Launch

ARMS = ("plain", "lethegate", "litellm")
# Asked last of each prompt: the guarded server once more.
KNOWN = "lethegate_known"
_ADDED = (*ARMS[1:], KNOWN)
# Answers of the guarded server that may say a name although plain vLLM's did not.
MAX_CUT = 0.03


@dataclass(frozen=True, slots=True)
class RoundLoad:
    """What a round asks of each arm: `requests` one by one, and `burst` from many at once.

    Answers have `max_tokens` tokens on average, those of bursts `burst_tokens`.
    """

    requests: int
    max_tokens: int
    burst: int
    burst_tokens: int
    concurrency: int


@dataclass(frozen=True, slots=True)
class Timed:
    """One streamed answer: time to its first text in ms, and time per further chunk in µs."""

    ttft_ms: float
    chunk_us: float

    @classmethod
    def of(cls, answer: Answer) -> Timed:
        """From an answer with two chunks or more."""
        first, last = answer.arrivals[0], answer.arrivals[-1]
        chunks = len(answer.arrivals) - 1
        return cls(1e3 * answer.first_token_seconds, 1e6 * (last - first) / chunks)


@dataclass(frozen=True, slots=True)
class Round:
    """What one round measured: a row per prompt of each arm's times, and each arm's requests/s."""

    times: Sequence[Mapping[str, Timed]]
    requests_per_s: Mapping[str, float]


def measure_round(
    load: RoundLoad,
    launches: Mapping[str, Launch],
    turn: int,
    alone: Sequence[str],
    bursts: Sequence[str],
) -> Round:
    """One round; `alone` and `bursts` are the prompts of all rounds.

    Raises:
        ArmInvalid: a request failed, or the guard ended more than a few answers.
    """
    return Round(
        asyncio.run(_one_by_one(load, launches, turn, alone)),
        _saturated(load, launches, turn, bursts),
    )


def arm_order(turn: int) -> tuple[str, ...]:
    """The arms in an order in which each comes first, second and last equally often."""
    start = turn % len(ARMS)
    return (*ARMS[start:], *ARMS[:start])


def gateway_figures(rounds: Sequence[Round], prefix: str = "") -> dict[str, Any]:
    """What each arm adds to the plain engine, against each other, then every arm by itself."""
    found: dict[str, Any] = {}
    added = {arm: [_added(one.times, arm, "ttft_ms") for one in rounds] for arm in _ADDED}
    for arm in _ADDED:
        found |= spread(f"{prefix}added_ttft_ms_{arm}", added[arm])
    for arm in (ARMS[1], KNOWN):
        # Of the medians: a round in which LiteLLM adds next to nothing would decide a ratio.
        suffix = arm.removeprefix(ARMS[1])
        ratio = median(added[arm]) / median(added["litellm"])
        found[f"{prefix}added_ttft_ratio_vs_litellm{suffix}"] = round(ratio, 4)
    for arm in ARMS[1:]:
        chunks = [_added(one.times, arm, "chunk_us") for one in rounds]
        found |= spread(f"{prefix}added_chunk_us_{arm}", chunks, digits=1)
    for arm in ARMS:
        rates = [one.requests_per_s[arm] for one in rounds]
        found |= spread(f"{prefix}requests_per_s_{arm}", rates, digits=2)
    for arm in (*ARMS, KNOWN):
        for key in ("ttft_ms", "chunk_us"):
            own = [median(getattr(times[arm], key) for times in one.times) for one in rounds]
            found |= spread(f"{prefix}{key}_{arm}", own, digits=3)
    return found


def check_whole(arm: str, answers: Sequence[Answer]) -> None:
    """Make sure that answers are whole.

    Raises:
        ArmInvalid: one failed, or has other tokens than were asked for.
    """
    wrong = [a.failure or "missing tokens" for a in answers if a.failure or a.tokens != a.asked]
    if wrong:
        raise ArmInvalid(f"{arm}: {len(wrong)} of {len(answers)} failed: {', '.join(set(wrong))}")


def _added(times: Sequence[Mapping[str, Timed]], arm: str, key: str) -> float:
    return float(median(getattr(row[arm], key) - getattr(row["plain"], key) for row in times))


async def _one_by_one(
    load: RoundLoad, launches: Mapping[str, Launch], turn: int, prompts: Sequence[str]
) -> list[dict[str, Timed]]:
    """Every prompt of a round by all arms, one request at a time."""
    found = []
    own = prompts[turn * load.requests : (turn + 1) * load.requests]
    for number, prompt in enumerate(own, turn):
        times = {}
        for arm in (*arm_order(number), KNOWN):
            url = launches[arm if arm in launches else "lethegate"].base_url
            workload = Workload(url, SERVED_NAME, 1, load.max_tokens)
            answer = read_answer((await send_all(workload, [prompt]))[0])
            if answer.finish_reason != "content_filter":
                check_whole(arm, [answer])
                times[arm] = Timed.of(answer)
        if len(times) == len(ARMS) + 1:
            found.append(times)
    if len(found) < (1 - MAX_CUT) * len(own) - 1:
        raise ArmInvalid(f"{len(own) - len(found)} of {len(own)} answers were ended by the guard")
    return found


def _saturated(
    load: RoundLoad, launches: Mapping[str, Launch], turn: int, prompts: Sequence[str]
) -> dict[str, float]:
    """Each arm's requests/s in a closed loop."""
    found = {}
    own = prompts[turn * load.burst : (turn + 1) * load.burst]
    for arm in arm_order(turn):
        url = launches[arm].base_url
        workload = Workload(url, SERVED_NAME, load.concurrency, load.burst_tokens)
        answers = [read_answer(exchange) for exchange in run_load(workload, own)]
        whole = [answer for answer in answers if answer.finish_reason != "content_filter"]
        if arm != "lethegate" or len(whole) < (1 - MAX_CUT) * len(answers):
            whole = answers
        check_whole(arm, whole)
        seconds = max(a.ended for a in answers) - min(a.sent for a in answers)
        found[arm] = len(answers) / seconds
    return found
