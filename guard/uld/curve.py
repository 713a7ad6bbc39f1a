"""The loss curves of a training as a picture (SVG)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 640, 320, 56, 120, 16, 40
_COLOURS = ("#1f6feb", "#d1242f", "#1a7f37")


def loss_svg(curves: Mapping[str, Sequence[tuple[float, float]]]) -> str:
    """A picture of named curves of (epoch, loss in nats); at most three."""
    points = [point for curve in curves.values() for point in curve]
    right = max((x for x, _ in points), default=1.0) or 1.0
    top = max((y for _, y in points), default=1.0) or 1.0
    width, height = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM

    def place(x: float, y: float) -> tuple[float, float]:
        return _LEFT + width * x / right, _TOP + height * (1 - y / top)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{_HEIGHT}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="white"/>',
    ]
    for part in range(5):
        x, y = place(right * part / 4, top * part / 4)
        parts += [
            f'<line x1="{_LEFT}" x2="{_LEFT + width}" y1="{y:.1f}" y2="{y:.1f}" stroke="#ddd"/>',
            f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{top * part / 4:.2f}</text>',
            f'<text x="{x:.1f}" y="{_TOP + height + 18}" text-anchor="middle">'
            f"{right * part / 4:.3g}</text>",
        ]
    parts.append(
        f'<text x="{_LEFT + width / 2}" y="{_HEIGHT - 6}" text-anchor="middle">epoch</text>'
    )
    for number, (name, curve) in enumerate(curves.items()):
        colour = _COLOURS[number % len(_COLOURS)]
        line = " ".join("{:.1f},{:.1f}".format(*place(*point)) for point in curve)
        parts += [
            f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="1.5"/>',
            f'<text x="{_LEFT + width + 8}" y="{_TOP + 14 + 18 * number}" fill="{colour}">'
            f"{name}</text>",
        ]
    return "\n".join([*parts, "</svg>"]) + "\n"
