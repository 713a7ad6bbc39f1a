"""The veto on a device: what the kernels forbid, against the plain definition.

`test_triton_interpreter` runs this file again in Triton's interpreter.
"""

import random
from functools import cache

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from detectors.targets import Phrase
from guard.active_sets import ActiveSets
from guard.automaton import build_tables
from guard.device_filter import NUM_COUNTERS, DeviceFilter
from guard.device_policy import DevicePolicy, DeviceSets, DeviceTables, DeviceVeto
from guard.device_vocabulary import DeviceVocabulary
from guard.ledger import CloseReason, Counter
from guard.patterns import index_phrases
from guard.units import Units
from guard.vocabulary import Vocabulary
from tests.guard.device_engine import CPU, INTERPRETED
from tracing.successors import compile_successors

SPECIAL, PADDING, END, SIZE = 0, 8, 5, 9
VOCABULARY = Vocabulary([None, b"a", b"ab", b"c", b"abc", b".", b"c"])
TOKENS = st.lists(st.integers(1, 4), max_size=14)
HISTORY = st.lists(st.integers(0, 4) | st.just(PADDING), max_size=10)


def examples(number):
    if INTERPRETED:
        return settings(max_examples=max(3, number // 10), deadline=None, phases=[Phase.generate])
    return settings(max_examples=number, deadline=None)


@cache
def device_vocabulary(vocabulary=VOCABULARY):
    return DeviceVocabulary.build(vocabulary)


def make_policy(documents, n, id=1, vocabulary=VOCABULARY):
    patterns, ids = index_phrases([Phrase("zz")])
    tables = build_tables(patterns, vocabulary)
    sets = ActiveSets(tables, Units.build([ids], []), vocabulary)
    table = compile_successors(documents, n, vocabulary.size)
    veto = DeviceVeto.upload(table, vocabulary.prefixes([END]), CPU) if len(table.keys) else None
    on_device = DeviceTables.upload(tables, CPU), DeviceSets(sets, CPU)
    return DevicePolicy(id, int(tables.longest[0]), *on_device, veto)


class Engine:
    """Slots and histories; `step` is one of the engine's, with drafts."""

    def __init__(self, texts, policies, vocabulary=VOCABULARY, width=SIZE):
        kernels = None
        if INTERPRETED:
            from guard import device_kernels as kernels
        self.width = width
        self.filter = DeviceFilter(device_vocabulary(vocabulary), len(texts), END, kernels)
        self.tokens = torch.zeros(len(texts), 512, dtype=torch.int32)
        self.prompt_len = torch.zeros(len(texts), dtype=torch.int32)
        self.total_len = torch.zeros(len(texts), dtype=torch.int32)
        self.policies = list(dict.fromkeys(policies))
        for slot, ((prompt, output), policy) in enumerate(zip(texts, policies, strict=True)):
            self.prompt_len[slot] = len(prompt)
            self.commit(slot, *prompt, *output)
            self.filter.open_slot(slot, policy, policy.sets.acquire((0,), ()).index, slot + 1)
            policy.sets.upload()
        self.filter.flush()

    def commit(self, slot, *tokens):
        for token in tokens:
            self.tokens[slot, self.total_len[slot]] = token
            self.total_len[slot] += 1

    def step(self, batch, logits=None):
        """Forbidden tokens per row; `batch` has slots and their drafts, in the rows' order."""
        rows = [(slot, i, t) for slot, drafts in batch for i, t in enumerate([0, *drafts])]
        slot_of, local, inputs = (torch.tensor(column) for column in zip(*rows, strict=True))
        logits = torch.zeros(len(rows), self.width) if logits is None else logits
        self.filter.apply(
            logits,
            self.policies,
            slot_of=slot_of,
            local=local.int(),
            inputs=inputs.int(),
            tokens=self.tokens,
            prompt_len=self.prompt_len,
            total_len=self.total_len,
        )
        return [set(row.isneginf().nonzero().flatten().tolist()) for row in logits]


@examples(150)
@given(
    st.lists(st.tuples(st.lists(TOKENS, max_size=4), st.integers(2, 5)), min_size=2, max_size=2),
    st.lists(st.tuples(HISTORY, HISTORY, HISTORY, st.booleans()), min_size=1, max_size=4),
    st.randoms(use_true_random=False),
)
def test_rows_forbid_what_the_definition_does(plain_veto, registered, texts, rng):
    """Rows in any order, drafts that are taken or rejected, two policies in one batch."""
    policies = [make_policy(*one, id=number) for number, one in enumerate(registered, 1)]
    engine = Engine([t[:2] for t in texts], [policies[t[3]] for t in texts])
    histories = [list(output) for _, output, _, _ in texts]
    for _ in range(3):
        order = rng.sample(range(len(texts)), rng.randint(1, len(texts)))
        batch = [(slot, texts[slot][2][: rng.randrange(4)]) for slot in order]
        expected = [
            plain_veto(
                *registered[texts[slot][3]],
                VOCABULARY,
                texts[slot][0],
                [*histories[slot], *drafts[:k]],
            )
            for slot, drafts in batch
            for k in range(len(drafts) + 1)
        ]

        assert expected == engine.step(batch)

        for slot, drafts in batch:
            taken = [*drafts[: rng.randint(0, len(drafts))], rng.randint(0, 4)]
            engine.commit(slot, *taken)
            histories[slot] += taken
    assert engine.filter.report[Counter.FORBIDDEN_TOKENS] == 0


def test_long_histories_and_many_special_tokens(plain_veto):
    """A run is found behind more special tokens than are read at once."""
    rng = random.Random(0)
    document = [rng.randint(1, 4) for _ in range(60)]
    output = [t for token in document[:30] for t in (*[SPECIAL] * 9, token)]
    policy = make_policy([document], 20)
    engine = Engine(
        [([1, 2], output), ([SPECIAL, *document[:30]], []), ([], output[:40])], [policy] * 3
    )
    expected = plain_veto([document], 20, VOCABULARY, [1, 2], output)

    assert document[30] in expected
    assert [expected, expected, set()] == engine.step([(0, ()), (1, ()), (2, ())])
    assert 2 * len(expected) == engine.filter.report[Counter.VETOED_TOKENS]


def test_many_successors_and_lengths(plain_veto):
    """Bitmasks, long lists, runs of several lengths at once, and a narrow row."""
    vocabulary = Vocabulary([None, *(f"{i};".encode() for i in range(1, 3000))])
    many = [[1, 2, 3, 4, t] for t in range(5, 2500)]
    some = [[6, 2, 3, 4, t] for t in range(5, 60)]
    short = [[3, 4, 9], [4, 8]]
    documents = [*many, *some, *short]
    policy = make_policy(documents, 5, vocabulary=vocabulary)
    texts = [([SPECIAL], [1, 2, 3, 4]), ([6, 2], [3, 4]), ([3], [4]), ([4, SPECIAL], [])]
    engine = Engine(texts, [policy] * 4, vocabulary, width=2000)
    expected = [
        {t for t in plain_veto(documents, 5, vocabulary, *text) if t < 2000} for text in texts
    ]

    assert expected == engine.step([(slot, ()) for slot in range(4)])
    assert len(expected[0]) > 1900


def test_what_is_not_vetoed_keeps_its_bits():
    """And a row in which only vetoed tokens were left is closed when its token is committed."""
    policy = make_policy([[1, 2, 3]], 3)
    engine = Engine([([SPECIAL], [1, 2]), ([SPECIAL], [1, 2])], [policy] * 2)
    logits = torch.randn(2, SIZE)
    logits[1] = float("-inf")
    logits[1, 3] = 1.0
    before = logits.clone()
    found = engine.step([(0, ()), (1, ())], logits)

    assert [[0, 3], [0, 6]] == (logits != before)[:1].nonzero().tolist()
    assert found[1] == set(range(SIZE)) - {END}
    assert divmod(int(engine.filter.report[NUM_COUNTERS + 1]), 8) == (2, CloseReason.NOTHING_LEFT)

    engine.commit(1, END)

    assert set(range(SIZE)) - {END} == engine.step([(1, ())])[0]


@pytest.mark.skipif(INTERPRETED, reason="no kernel takes part")
def test_no_documents_no_table():
    """Then a step has nothing more to do than before."""
    assert make_policy([], 3).veto is None
