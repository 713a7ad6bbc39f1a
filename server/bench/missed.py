"""How many spellings of a phrase each filter lets through, token by token."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import torch

from detectors.targets import Phrase
from guard.token_filter import Position
from guard.vocabulary import Vocabulary
from server.bench.rivals import Rival, TransformersBadWords, VllmBadWords
from server.bench.spellings import Segmenter, spellings
from server.bench.token_paths import TextOracle, make_filter
from server.bench.vocabularies import RealVocabulary


def count_missed(
    real: RealVocabulary, phrases: Sequence[str], seed: int, advance: Callable[[int], None]
) -> dict[str, int]:
    """Spell each phrase in every declared way, as the tokenizer cuts it and cut at random.

    A spelling is missed when every one of its tokens is allowed after those before it. Only
    spellings count in whose text the oracle finds the phrase.
    """
    rng = random.Random(seed)  # noqa: S311
    segmenter = Segmenter(real.tokens)
    vocabulary = Vocabulary(real.tokens)
    missed = dict.fromkeys(("ours", "vllm", "transformers"), 0)
    sampled = 0
    for phrase in phrases:
        oracle = TextOracle([Phrase(phrase)])
        ours = _Ours(vocabulary, phrase)
        rivals = [_Theirs(kind(real, [phrase], 1), len(real.tokens)) for kind in _RIVALS]
        for text in spellings(phrase):
            cuts = (real.encode(text), segmenter.segment(text.encode(), rng))
            for tokens in cuts:
                if not oracle.finds(b"".join(real.tokens[t] or b"" for t in tokens)):
                    continue
                sampled += 1
                missed["ours"] += ours.lets_through(tokens)
                for rival in rivals:
                    missed[rival.name] += rival.lets_through(tokens)
        advance(1)
    return {"sampled_spellings": sampled} | {f"missed_spellings_{k}": n for k, n in missed.items()}


_RIVALS: tuple[Callable[[RealVocabulary, Sequence[str], int], Rival], ...] = (
    VllmBadWords,
    TransformersBadWords,
)


class _Ours:
    def __init__(self, vocabulary: Vocabulary, phrase: str) -> None:
        self._filter = make_filter(vocabulary, [Phrase(phrase)])
        self._active = self._filter.sets.acquire((0,), ())
        self._width = vocabulary.size

    def lets_through(self, tokens: Sequence[int]) -> bool:
        position = Position()
        for token in tokens:
            found = self._filter.forbidden([position], [self._active], [0], self._width)
            if token in found:
                return False
            self._filter.advance([position], [token])
        return True


class _Theirs:
    def __init__(self, rival: Rival, width: int) -> None:
        self.name = rival.name
        self._rival = rival
        self._logits = torch.zeros(1, width)

    def lets_through(self, tokens: Sequence[int]) -> bool:
        for i, token in enumerate(tokens):
            self._logits.zero_()
            if self._rival.apply(self._logits, [tokens[:i]])[0, token].isneginf():
                return False
        return True
