"""A whole Anthropic message behind the shield: the same cut as a stream gets."""

from __future__ import annotations

import json
from typing import Any

from guard.ledger import CloseReason
from server.apis.cuts import allowed
from server.apis.message_refusal import STOP_REASON
from server.apis.message_surfaces import Said, block_delta, finish_block
from server.choice_shield import ChoiceShield, ShieldPolicy, Span
from server.reply import Reply, unavailable
from server.shielded_events import RecordBlock
from server.sse import encode_json
from server.surfaces import metric_label


def shield_message(policy: ShieldPolicy, body: bytes, record_block: RecordBlock) -> Reply:
    """Shield a completed (200) message; unchanged bytes if there is nothing to hide."""
    closed = policy.closed()
    if closed is not None and closed is not CloseReason.NOTHING_LEFT:
        return unavailable()
    message = json.loads(body)
    shield = ChoiceShield(policy, policy.prefixes.of(0))
    blocks: list[tuple[dict[str, Any], list[Span]]] = []
    for index, block in enumerate(message["content"]):
        blocks.append((block, shield.feed({"delta": block_delta(index, block)})))
        finish_block(shield, index)
    shield.feed({"finish_reason": "end", "stop_reason": message.get("stop_sequence")})
    if shield.blocked_at is not None:
        record_block(metric_label(shield.blocked_at), shield.caught)
        message["content"] = _shown(shield, blocks) or [{"type": "text", "text": ""}]
    elif closed is None:
        return Reply(200, body)
    message["stop_reason"] = STOP_REASON
    message.pop("stop_sequence", None)
    return Reply(200, encode_json(message))


def _shown(
    shield: ChoiceShield, blocks: list[tuple[dict[str, Any], list[Span]]]
) -> list[dict[str, Any]]:
    """The blocks up to the first that is not clear, and of that one its clear beginning."""
    shown, said = [], Said()
    for block, spans in blocks:
        key = block["type"]
        said.begin()
        if all(map(shield.is_clear, spans)):
            shown.append(block)
            said.add(key, str(block.get(key, "")))
            continue
        if key != "tool_use":
            kept = said.last(shield.policy, key, allowed(shield, spans, block[key]))
            shown += [{**block, key: kept}] if kept else []
        break
    return shown
