"""What a client may not ask for.

Some request features would carry text past the detectors or likelihoods past the logits processor.
They are refused rather than half guarded, and only while a target is enforced: with nothing to
forget the server is plain vLLM.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from guard.errors import GuardParamsError
from guard.params import PREFIX
from server.errors import InvalidRequest, UnsupportedFeature
from server.media import is_media

# No set: a client may send in its place what cannot be hashed.
_TEXT_PARTS = ("text", "input_text", "output_text", "refusal", "thinking")
_TEXT_PART_KEYS = frozenset({"type", "text", "refusal", "thinking", "cache_control"})

_REASONS = {
    "prompt_embeds": "prompt embeddings cannot be read",
    "use_beam_search": "beam search bypasses logits processors",
    "prompt_logprobs": "prompt log-probabilities are taken before logits processors",
    "logprob_token_ids": "chosen log-probabilities would tell which tokens are forbidden",
    "kv_transfer_params": "transferred prompts cannot be read",
    "ec_transfer_params": "transferred prompts cannot be read",
    "chat_template": "a template can spell text that cannot be read",
}


def reject_reserved(body: dict[str, Any]) -> None:
    """Refuse a client's attempt to write the guard's own parameters.

    Raises:
        GuardParamsError: a key of ours is in the body.
        InvalidRequest: `vllm_xargs` is not an object.
    """
    extra = body.get("vllm_xargs")
    if extra is not None and not isinstance(extra, dict):
        raise InvalidRequest("vllm_xargs must be an object.", param="vllm_xargs")
    if any(key.lower().startswith(PREFIX) for key in (*body, *(extra or ()))):
        raise GuardParamsError("a client may not set the guard's parameters")


def reject_fields(body: dict[str, Any], reasons: Mapping[str, str] = _REASONS) -> None:
    """Refuse the fields that cannot be guarded; by default those that no API may set.

    Raises:
        UnsupportedFeature: naming the field.
    """
    if body.get("truncation_side") == "right":
        raise UnsupportedFeature(
            "truncation_side is not supported on the right: it hides what an answer goes on with.",
            param="truncation_side",
        )
    for field, reason in reasons.items():
        if _is_set(body.get(field)):
            raise UnsupportedFeature(f"{field} is not supported: {reason}.", param=field)


def reject_completion(body: dict[str, Any]) -> None:
    """Refuse what cannot be guarded in a completion.

    Raises:
        UnsupportedFeature: naming the field.
    """
    reject_fields(body)
    if _is_set(body.get("echo")):
        # It would be judged as an answer, and so say of any text whether it is registered.
        raise UnsupportedFeature("echo is not supported.", param="echo")


def reject_template(body: dict[str, Any]) -> None:
    """Refuse a template among the template's variables.

    Raises:
        UnsupportedFeature: there is one.
    """
    variables = body.get("chat_template_kwargs")
    if isinstance(variables, dict) and "chat_template" in variables:
        raise UnsupportedFeature(
            "chat_template is not supported: a template can spell text that cannot be read.",
            param="chat_template_kwargs",
        )


def reject_chat(
    body: dict[str, Any], messages: Iterable[dict[str, Any]], *, media: bool = False
) -> None:
    """Refuse what cannot be guarded in a chat with these messages; `media` may pass.

    Raises:
        UnsupportedFeature: naming the field.
    """
    reject_fields(body)
    if _is_set(body.get("echo")):
        # In chat, echo alone makes the engine return prompt log-probabilities.
        raise UnsupportedFeature("echo is not supported in chat.", param="echo")
    reject_template(body)
    for message in messages:
        content = message.get("content")
        if isinstance(content, dict) or (
            isinstance(content, list)
            and not all(_is_text_part(part) or (media and is_media(part)) for part in content)
        ):
            raise UnsupportedFeature("Only text content is supported.", param="messages")


def _is_text_part(part: Any) -> bool:
    if isinstance(part, str):
        return True
    return (
        isinstance(part, dict)
        and part.get("type") in _TEXT_PARTS
        and part.keys() <= _TEXT_PART_KEYS
    )


def _is_set(value: Any) -> bool:
    return value is not None and value is not False and value != [] and value != {}
