"""Images, audio and video in a request: parts of a message that nobody here can read.

They are no texts, so nothing of them is screened. While a target is enforced they are refused,
unless the operator lets them pass.
"""

from __future__ import annotations

from typing import Any

# By type the keys of a part that holds nothing else: the engine shows the model no text of them.
MEDIA = {
    "image_url": {"image_url", "uuid"},
    "audio_url": {"audio_url", "uuid"},
    "video_url": {"video_url", "uuid"},
    "input_audio": {"input_audio", "uuid"},
    "input_image": {"image_url", "detail", "file_id"},
    "image": {"source"},
}
_EVERYWHERE = {"type", "cache_control"}


def is_media(part: Any) -> bool:
    """Whether a part of a message is an image, audio or video, and nothing else."""
    if not isinstance(part, dict) or not isinstance(part.get("type"), str):
        return False
    keys = MEDIA.get(part["type"])
    return keys is not None and part.keys() <= keys | _EVERYWHERE


def without_media(content: Any) -> Any:
    """A message's content without such parts."""
    if not isinstance(content, list):
        return content
    return [part for part in content if not is_media(part)]
