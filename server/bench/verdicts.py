"""Verdicts: what the guarded server decided about the bench's requests, as it says itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import httpx
from prometheus_client.parser import text_string_to_metric_families

from guard.decision import Verdict
from server.bench.errors import ArmInvalid
from server.bench.load import Workload
from server.bench.servers import GuardedLaunch, Launch
from server.metrics.gateway import REQUESTS

MAX_UNMATCHED_STEERED = 0.02
MIN_MATCHED_STEERED = 0.95
# Above this the questions are not what they are called, and choosing among them would hide it.
MAX_LEFT_OUT = 0.1
_DECISION_HEADER = "x-lethegate-decision"

Counts = dict[str, float]


def count_verdicts(launch: Launch) -> Counts:
    """Requests by verdict since the guarded server started.

    Raises:
        ArmInvalid: its metrics cannot be read.
    """
    try:
        response = httpx.get(f"{launch.base_url}/metrics", timeout=60, trust_env=False)
        response.raise_for_status()
    except httpx.HTTPError as error:
        raise ArmInvalid(f"cannot read the guarded server's metrics: {error}") from None
    return verdicts_in(response.text)


def verdicts_in(exposition: str) -> Counts:
    """Requests by verdict, from metrics in Prometheus's text form."""
    return {
        sample.labels["verdict"]: sample.value
        for family in text_string_to_metric_families(exposition)
        for sample in family.samples
        if sample.name == REQUESTS
    }


def check_steered(traffic: str, before: Counts, after: Counts, sent: int) -> float:
    """The share of an arm's requests that were not simply allowed, from the server's counters.

    Raises:
        ArmInvalid: the counters miss requests or count others, or the traffic is not what its name
            says.
    """
    counted = {name: count - before.get(name, 0) for name, count in after.items()}
    if sum(counted.values()) != sent:
        raise ArmInvalid(f"{sent} requests were sent, {sum(counted.values()):.0f} were screened")
    touched = 1 - counted.get(Verdict.ALLOW.value, 0) / sent
    steered = counted.get(Verdict.STEER.value, 0) / sent
    if traffic == "unmatched" and touched > MAX_UNMATCHED_STEERED:
        raise ArmInvalid(
            f"{touched:.1%} of the unmatched requests were steered or refused, "
            f"more than {MAX_UNMATCHED_STEERED:.0%}"
        )
    if traffic == "matched" and steered < MIN_MATCHED_STEERED:
        raise ArmInvalid(
            f"{steered:.1%} of the matched requests were steered, "
            f"less than {MIN_MATCHED_STEERED:.0%}: choose others with --matched"
        )
    return touched


def leave_out_matched(
    launch: GuardedLaunch,
    workload: Workload,
    prompts: Sequence[str],
    on_answer: Callable[[], None] = lambda: None,
) -> list[str]:
    """The prompts that the guard allows, each asked once with the admin key, which is told so.

    A false positive among them would be measured as unmatched while it is steered.

    Raises:
        ArmInvalid: a request failed, or more than a tenth of the prompts are not allowed.
    """
    allowed = []
    headers = {"authorization": f"Bearer {launch.admin_key}"}
    with httpx.Client(base_url=launch.base_url, headers=headers, trust_env=False) as http:
        for prompt in prompts:
            if _verdict(http, workload, prompt) == Verdict.ALLOW.value:
                allowed.append(prompt)
            on_answer()
    left_out = 1 - len(allowed) / len(prompts)
    if left_out > MAX_LEFT_OUT:
        raise ArmInvalid(
            f"{left_out:.1%} of the unmatched questions are steered or refused: "
            "choose others with --unmatched"
        )
    return allowed


def _verdict(http: httpx.Client, workload: Workload, prompt: str) -> str | None:
    body = {**workload.body(prompt), "max_tokens": 1}
    try:
        response = http.post("/v1/chat/completions", json=body, timeout=120)
        response.raise_for_status()
    except httpx.HTTPError as error:
        raise ArmInvalid(f"a question could not be asked: {type(error).__name__}") from None
    verdict: str | None = response.headers.get(_DECISION_HEADER)
    return verdict
