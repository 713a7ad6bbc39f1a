"""Questions whose answers are known: plain vLLM's, where no batch can turn them into others.

vLLM is not batch-invariant: beside other requests logits differ by rounding, and where two tokens
are nearly as likely the greedy answer differs. So a question is taken only if every token of its
answer is ahead of the next best by a margin that rounding does not reach.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import httpx

from server.attack.shapes import MAX_TOKENS
from server.bench.errors import ArmInvalid

# In bfloat16 the logits of one row were seen to differ by 0.1 to 0.2 nats with the batch.
MARGIN_NATS = 0.5
LEAST_QUESTIONS = 20
_SECONDS = 120.0


@dataclass(frozen=True, slots=True)
class Known:
    """A question with plain vLLM's greedy answers; None: no certain one as a completion."""

    question: str
    chat: str
    completion: str | None


def known_questions(
    base_url: str,
    model: str,
    questions: Sequence[str],
    on_answer: Callable[[], None] = lambda: None,
) -> list[Known]:
    """Ask plain vLLM each question as chat and as completion, and keep those that are certain.

    Raises:
        ArmInvalid: a request failed, or too few are certain.
    """
    found = []
    with httpx.Client(base_url=base_url, timeout=_SECONDS, trust_env=False) as http:
        for question in questions:
            chat = _certain(_asked_as_chat(http, model, question))
            if chat is not None:
                completion = _certain(_asked_as_completion(http, model, question))
                found.append(Known(question, chat, completion))
            on_answer()
    if len(found) < LEAST_QUESTIONS:
        raise ArmInvalid(f"plain vLLM is certain of {len(found)} of {len(questions)} answers only")
    return found


@dataclass(frozen=True, slots=True)
class _Said:
    text: str
    margins: Sequence[float]


def _certain(said: _Said) -> str | None:
    return said.text if said.text and min(said.margins, default=0.0) >= MARGIN_NATS else None


def _asked_as_chat(http: httpx.Client, model: str, question: str) -> _Said:
    fields = {"messages": [{"role": "user", "content": question}]}
    choice = _choice(http, "/v1/chat/completions", model, fields | {"logprobs": True}, 2)
    entries = choice["logprobs"]["content"]
    margins = [_margin([top["logprob"] for top in entry["top_logprobs"]]) for entry in entries]
    return _Said(choice["message"]["content"] or "", margins)


def _asked_as_completion(http: httpx.Client, model: str, question: str) -> _Said:
    choice = _choice(http, "/v1/completions", model, {"prompt": question, "logprobs": 2})
    tops = choice["logprobs"]["top_logprobs"]
    return _Said(choice["text"], [_margin(list(top.values())) for top in tops])


def _margin(logprobs: Sequence[float]) -> float:
    # Two tokens of the same text are one entry of a completion's log-probabilities.
    best, second = [*sorted(logprobs, reverse=True), max(logprobs)][:2]
    return best - second


def _choice(
    http: httpx.Client, path: str, model: str, fields: dict[str, Any], top: int | None = None
) -> dict[str, Any]:
    body = {"model": model, "max_tokens": MAX_TOKENS, "temperature": 0, **fields}
    if top is not None:
        body["top_logprobs"] = top
    try:
        answer = http.post(path, json=body).raise_for_status()
        choice: dict[str, Any] = answer.json()["choices"][0]
    except (httpx.HTTPError, ValueError, LookupError) as error:
        raise ArmInvalid(f"plain vLLM could not be asked: {type(error).__name__}") from None
    return choice
