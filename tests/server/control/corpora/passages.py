"""What the corpora of the tests hold, where they are asked for, and how their files are damaged."""

from __future__ import annotations

from pathlib import Path

CORPORA = "/admin/v1/corpora"
SECRET = "the lighthouse keeper counted eleven copper kettles before the fog took Port Sorrel"
OTHER = "nobody in the valley remembered who had painted the seventh door a deep marine green"


def flip_bit(segment: Path) -> None:
    """Change a bit near the end of a file; done again, the file is what it was."""
    with segment.open("r+b") as file:
        file.seek(-5, 2)
        byte = file.read(1)[0]
        file.seek(-5, 2)
        file.write(bytes([byte ^ 1]))
