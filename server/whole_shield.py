"""A shielded response that comes in one piece: the same cut as a stream gets, on the whole text."""

from __future__ import annotations

import json

from guard.ledger import CloseReason
from server.choice_shield import ChoiceShield, ShieldPolicy
from server.error_table import error_body
from server.refusals import FINISH_REASON
from server.reply import Reply, unavailable
from server.shielded_events import FAILED, RecordBlock
from server.sse import encode_json
from server.surfaces import metric_label, with_texts, written_texts


def shield_completion(policy: ShieldPolicy, body: bytes, record_block: RecordBlock) -> Reply:
    """Shield a completed (200) response; unchanged bytes if there is nothing to hide."""
    closed = policy.closed()
    # Nothing left to sample is an answer of its own. Any other reason is a fault.
    if closed is not None and closed is not CloseReason.NOTHING_LEFT:
        return unavailable()
    response = json.loads(body)
    changed = False
    for position, choice in enumerate(response["choices"]):
        index = choice.get("index", position)
        shield = ChoiceShield(policy, policy.prefixes.of(index))
        spans = shield.feed(choice)
        if choice.get("finish_reason") is None:
            shield.finish()
        changed |= shield.hide_alternatives(choice)
        if shield.blocked_at is not None:
            record_block(metric_label(shield.blocked_at), shield.caught)
            kept = shield.kept(spans, dict(written_texts(choice)))
            choice = response["choices"][position] = with_texts(choice, kept)
        if shield.blocked_at is not None or closed is not None:
            choice |= {"finish_reason": FINISH_REASON, "stop_reason": None}
            changed = True
    return Reply(200, encode_json(response) if changed else body)


def shield_error(
    policy: ShieldPolicy, status: int, body: bytes, record_block: RecordBlock
) -> Reply:
    """Shield an error of the engine, which may quote the request, and what we wrote into it.

    What the engine says of a fault of its own is never told.
    """
    if status >= 500:
        return Reply(status, encode_json(error_body(FAILED, "server_error", "engine_error")))
    text = body.decode("utf-8", "replace")
    ours = policy.steered and "lethegate_" in text
    if not ours and not policy.tells(text):
        return Reply(status, body)
    record_block("other", None)
    error = error_body(FAILED, "invalid_request_error", "engine_error")
    return Reply(status, encode_json(error))
