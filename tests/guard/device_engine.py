"""Slots, histories and batches before the token filter on a device, over a few telling tokens."""

import os
from functools import cache

import torch
from hypothesis import Phase, settings
from hypothesis import strategies as st

from detectors.targets import Phrase
from guard.active_sets import ActiveSets
from guard.automaton import build_tables
from guard.device_filter import NUM_COUNTERS, DeviceFilter
from guard.device_policy import DevicePolicy, DeviceSets, DeviceTables
from guard.device_vocabulary import DeviceVocabulary
from guard.patterns import index_phrases
from guard.units import Units
from guard.vocabulary import Vocabulary
from tests.guard.folded_text import decode, spells

CPU = torch.device("cpu")
# Triton decides when it is imported whether kernels are compiled or interpreted, so the interpreter
# has a process of its own, which `test_triton_interpreter` starts.
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
PIECES = (
    *"abAB -'.é日",
    *(bytes([b]) for b in "éа日\u200b🦊".encode()),  # characters split over tokens; Cyrillic a
    b"\xa9 b",
    "日".encode()[1:] + b"a",
    "日".encode()[1:],
    " 日".encode()[:3],
    b"\x81b",
    b"\xff",
    b"\xe0",
    b"\xf4\x90",
    "ab",
    " a",
    " b",
    "  ",
    "\n",
    "a b",
    "bab",
    "b'",
    "\u200b",
    "\u0301",
    "e",
    "日a",
    "аb",
    "Ａ",
    "ﬁ",
    "fi",
    None,
    "e",
)
RAW = [p.encode() if isinstance(p, str) else p for p in PIECES]
LIKELY = [
    RAW.index(p.encode())
    for p in ("a", "b", "é", "日", " ", " a", "  ", "f", "\u0301")
    if p.encode() in RAW
]
SPLIT = [i for i, raw in enumerate(RAW) if raw and (raw[0] & 0xC0 == 0x80 or raw[-1] >= 0xC0)]
SPECIAL = PIECES.index(None)
END = len(PIECES) - 1  # any token will do; this one is in no phrase at its place
VOCABULARY = Vocabulary(RAW)
PHRASES = st.lists(
    st.builds(
        Phrase,
        st.sampled_from(
            ["a b", "ab", "ab a", "b'a", "éb", "日a", "fi a", "b é", "a  -b", "e日", "🦊b"]
        )
        | st.text("abé日 '-fi", min_size=1, max_size=5).filter(lambda t: t.strip()),
        st.booleans(),
    ),
    min_size=1,
    max_size=6,
)


def examples(number):
    if INTERPRETED:
        return settings(max_examples=max(3, number // 50), deadline=None, phases=[Phase.generate])
    return settings(max_examples=number, deadline=None)


@cache
def device_vocabulary():
    return DeviceVocabulary.build(VOCABULARY)


def kernels():
    if not INTERPRETED:
        return None
    import triton.language as tl

    from guard import device_kernels, triton_forbid

    triton_forbid.PARTS = tl.constexpr(2)
    return device_kernels


def make_policy(phrases, id=1, vocabulary=VOCABULARY):
    patterns, ids = index_phrases(phrases)
    tables = build_tables(patterns, vocabulary)
    sets = ActiveSets(tables, Units.build([ids], [[i] for i in ids]), vocabulary)
    return DevicePolicy(
        id, int(tables.longest[0]), DeviceTables.upload(tables, CPU), DeviceSets(sets, CPU)
    )


def text_of(tokens):
    """Folded text without the bytes of an unfinished last character."""
    return decode(b"".join(RAW[t] or b"" for t in tokens))


def oracle(phrases, tokens):
    """The tokens that finish a phrase behind these, by decoding and searching."""
    before = text_of(tokens)
    return {
        t
        for t in range(len(RAW))
        if RAW[t] is not None and any(spells(p, before, text_of([*tokens, t])) for p in phrases)
    }


class Engine:
    """Slots, histories and batches as vLLM's V2 runner has them."""

    def __init__(self, slots=4, longest=64):
        self.filter = DeviceFilter(device_vocabulary(), slots, END, kernels())
        self.tokens = torch.zeros(slots, longest, dtype=torch.int32)
        self.prompt_len = torch.zeros(slots, dtype=torch.int32)
        self.total_len = torch.zeros(slots, dtype=torch.int32)

    def add(self, slot, prompt, output=()):
        history = [*prompt, *output]
        self.tokens[slot, : len(history)] = torch.tensor(history, dtype=torch.int32)
        self.prompt_len[slot], self.total_len[slot] = len(prompt), len(history)

    def commit(self, slot, *tokens):
        for token in tokens:
            self.tokens[slot, self.total_len[slot]] = token
            self.total_len[slot] += 1

    def step(self, policies, batch, logits=None):
        """`batch` maps slots, in the order of their rows, to their draft tokens."""
        rows = [(slot, i, t) for slot, drafts in batch for i, t in enumerate([0, *drafts])]
        slot_of, local, inputs = (torch.tensor(column) for column in zip(*rows, strict=True))
        logits = torch.zeros(len(rows), len(RAW)) if logits is None else logits
        self.filter.flush()
        for policy in policies:
            policy.sets.upload()
        self.filter.apply(
            logits,
            policies,
            slot_of=slot_of,
            local=local.int(),
            inputs=inputs.int(),
            tokens=self.tokens,
            prompt_len=self.prompt_len,
            total_len=self.total_len,
        )
        self.logits = logits
        return [set(row.isneginf().nonzero().flatten().tolist()) for row in logits]

    def fact(self, slot):
        return divmod(int(self.filter.report[NUM_COUNTERS + slot]), 8)


def likely(rng, allowed, pending):
    """A token that goes on towards a phrase more often than not."""
    wanted = [t for t in allowed if t in (SPLIT if pending or rng.random() < 0.3 else LIKELY)]
    return rng.choice(wanted if wanted and rng.random() < 0.8 else allowed)
