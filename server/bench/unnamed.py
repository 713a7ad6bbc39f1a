"""Prompts whose whole answers, by plain vLLM, say no registered name: the guard ends the others."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

from detectors.targets import Phrase
from guard.phrase_matcher import PhraseMatcher
from server.bench.answers import read_answer
from server.bench.errors import ArmInvalid
from server.bench.load import Workload, run_load, take_prompts
from server.bench.servers import GuardedLaunch


def numbered(questions: Sequence[str], start: int, count: int) -> list[str]:
    """Questions with a number each, so that none is a prompt whose embedding is remembered."""
    chosen = take_prompts(questions, start, count)
    return [f"{prompt} ({number})" for number, prompt in enumerate(chosen, start + 1)]


def registered_names(guarded: GuardedLaunch, target: bytes) -> PhraseMatcher:
    """The names that no answer of the guarded server says, once the target is in force."""
    with guarded.admin() as admin:
        report = admin.target(str(json.loads(target)["id"]))["report"]
    return PhraseMatcher(Phrase(name["text"]) for name in report["names"])


def unnamed_prompts(
    plain: Workload,
    questions: Sequence[str],
    names: PhraseMatcher,
    wanted: int,
    batch: int,
    on_found: Callable[[int], None],
    first: int = 0,
) -> list[str]:
    """New prompts, numbered from `first` on, whose answers name nobody; asked `batch` at a time.

    A small model says names unasked. `on_found` is told how many there are.

    Raises:
        ArmInvalid: three of four answers do.
    """
    found: list[str] = []
    for start in range(first, first + 4 * wanted, batch):
        prompts = numbered(questions, start, batch)
        exchanges = run_load(plain, prompts)
        found += [
            prompt
            for prompt, exchange in zip(prompts, exchanges, strict=True)
            if not names.find(read_answer(exchange).text)
        ]
        on_found(min(len(found), wanted))
        if len(found) >= wanted:
            return found[:wanted]
    raise ArmInvalid("too many answers to the unmatched questions say a registered name")
