"""Where an answer whose texts are shown piece by piece is cut once something is caught."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from server.choice_shield import ChoiceShield, ShieldPolicy, Span


def allowed(shield: ChoiceShield, spans: Iterable[Span], text: str) -> str:
    """The beginning of a text up to what was caught.

    Of one text's surfaces only the one that caught something knows: the others were closed before
    they had read as far, as if the text had ended there.
    """
    spans = list(spans)
    caught = [span for span in spans if span.path == shield.blocked_at]
    return text[: min(map(shield.cleared_of, caught or spans), default=0)]


def shown_to_the_end(policy: ShieldPolicy, before: Sequence[str], kept: str) -> str:
    """What of an answer's last text may be shown: its end is a word border on every surface.

    `before` is what each surface has shown already.
    """
    length = -1
    while len(kept) != length:
        length = len(kept)
        for shown in before:
            chain = policy.chain()
            clear = chain.feed(shown + kept).text + chain.finish().text
            kept = kept[: max(0, len(clear) - len(shown))]
    return kept
