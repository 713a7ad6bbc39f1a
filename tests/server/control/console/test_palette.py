"""The console's colours and texts can be read: contrast as WCAG 2.2 counts it."""

from __future__ import annotations

import re

import pytest

from server.console.render import static

STYLE = static("console.css").decode()
LIGHT, DARK = (
    dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6});", block))
    for block in re.findall(r":root \{(.*?)\}", STYLE, re.DOTALL)
)
# Text on what it stands on (1.4.3: 4.5), and edges and marks beside it (1.4.11: 3).
TEXT = [
    *[(ink, ground) for ink in ("text", "muted", "link") for ground in ("page", "raised")],
    *[(ink, "page") for ink in ("good", "warn", "danger")],
    ("on-accent", "accent"),
    ("on-danger", "danger"),
    ("text", "matched"),
    ("text", "refused"),
]
EDGES = [(ink, ground) for ink in ("line", "focus", "accent") for ground in ("page", "raised")]


def _luminance(colour: str) -> float:
    parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _contrast(one: str, other: str) -> float:
    dark, light = sorted((_luminance(one), _luminance(other)))
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("palette", [LIGHT, DARK], ids=["light", "dark"])
def test_contrast(palette: dict[str, str]) -> None:
    """In both schemes, of every pair that is used."""
    for wanted, pairs in ((4.5, TEXT), (3.0, EDGES)):
        for ink, ground in pairs:
            assert _contrast(palette[ink], palette[ground]) >= wanted, (ink, ground)


def test_every_colour_is_of_the_palette() -> None:
    """And the palette has the same names in both schemes, each used."""
    rules = re.sub(r":root \{.*?\}", "", STYLE, flags=re.DOTALL)
    used = set(re.findall(r"var\(--([\w-]+)\)", rules))

    assert LIGHT.keys() == DARK.keys() == used
    assert not re.search(r"#[0-9a-fA-F]{3,8}\b|rgb|hsl", rules)
    assert _contrast("#000000", "#ffffff") == pytest.approx(21)
