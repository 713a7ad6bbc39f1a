"""The GPU kernels themselves: they compile without a GPU, and on one they agree and never wait."""

import random
import statistics

import numpy as np
import pytest
import torch

from detectors.targets import Phrase
from guard.active_sets import ActiveSets
from guard.automaton import build_tables
from guard.device_filter import DeviceFilter
from guard.device_policy import DevicePolicy, DeviceSets, DeviceTables, DeviceVeto
from guard.device_slots import RowField, Step
from guard.device_vocabulary import DeviceVocabulary
from guard.ledger import Counter
from guard.patterns import index_phrases
from guard.semantic_penalties import Penalties
from guard.units import Units
from guard.vocabulary import Vocabulary
from tests.guard.device_engine import INTERPRETED
from tracing.successors import compile_successors

pytest.importorskip("triton", reason="Triton is not installed")

# Triton tells of a default that will change.
pytestmark = pytest.mark.filterwarnings("ignore:TRITON_DEFAULT_FP_FUSION:UserWarning")
NUMBERS = {
    "num_rows",
    "tokens_stride",
    "policy",
    "reach",
    "size",
    "num_continuing",
    "logits_stride",
    "width",
    "bits_stride",
    "end_id",
    "num_dense",
    "dense_stride",
    "shift",
}
TYPES = {torch.float32: "*fp32", torch.int64: "*i64", torch.int32: "*i32", torch.uint8: "*u8"}


def make_vocabulary(rng, size):
    """Random tokens: letters, spaces, split characters, one special token."""
    pieces = [bytes([b]) for b in range(256)]
    text = "abcdefghijklmnopqrstuvwxyzäé日本語 "
    while len(pieces) < size - 1:
        raw = "".join(rng.choice(text) for _ in range(rng.randrange(1, 8))).encode()
        pieces.append((b" " if rng.random() < 0.4 else b"") + raw[rng.random() < 0.05 :])
    return Vocabulary([None, *pieces[: size - 1]])


def make_policy(rng, vocabulary, count, device, documents):
    """Phrases that the vocabulary can spell in many ways, and documents of tokens."""
    phrases = []
    while len(phrases) < count:
        raw = b"".join(vocabulary.raw(rng.randrange(257, vocabulary.size)) for _ in range(2))
        text = raw.decode(errors="ignore").strip()
        if text:
            phrases.append(Phrase(text))
    patterns, ids = index_phrases(phrases)
    tables = build_tables(patterns, vocabulary)
    amounts = {rng.randrange(vocabulary.size): rng.uniform(0.5, 4) for _ in range(300)}
    units = Units.build([ids], [], Penalties.build([amounts]))
    sets = ActiveSets(tables, units, vocabulary)
    table = compile_successors(documents, 8, vocabulary.size)
    veto = DeviceVeto.upload(table, vocabulary.prefixes([0]), device)
    on_device = DeviceTables.upload(tables, device), DeviceSets(sets, device)
    return DevicePolicy(1, int(tables.longest[0]), *on_device, veto)


class Load:
    """A filter and a batch on a device; `step` is what a decode step asks of it."""

    def __init__(self, vocabulary, seed, rows, device, phrases=200, length=24):
        rng = random.Random(seed)
        self.device, self.rows = device, rows
        tokens = [[rng.randrange(vocabulary.size) for _ in range(length)] for _ in range(rows)]
        # Some of the texts are registered, some only begin like one that is.
        documents = [*tokens[::2], *([*t[: length - 4], 5] for t in tokens[::3])]
        documents += [[*tokens[0][: length - 7], t] for t in range(0, vocabulary.size, 3)]
        self.policy = make_policy(rng, vocabulary, phrases, device, documents)
        self.filter = DeviceFilter(DeviceVocabulary.build(vocabulary).to(device), rows, 0)
        active = self.policy.sets.acquire((0,), ()).index
        self.policy.sets.upload()
        for slot in range(rows):
            self.filter.open_slot(slot, self.policy, active, slot + 1)
        self.filter.flush()
        self.tokens = torch.tensor(tokens, dtype=torch.int32, device=device)
        self.total_len = torch.full((rows,), length - 8, dtype=torch.int32, device=device)
        self.prompt_len = torch.ones_like(self.total_len)
        self.slot_of = torch.arange(rows, device=device)
        self.local = torch.zeros(rows, dtype=torch.int32, device=device)
        self.logits = torch.zeros(rows, vocabulary.size, device=device)

    def step(self):
        self.filter.apply(
            self.logits,
            [self.policy],
            slot_of=self.slot_of,
            local=self.local,
            inputs=self.local,
            tokens=self.tokens,
            prompt_len=self.prompt_len,
            total_len=self.total_len,
        )


@pytest.mark.skipif(INTERPRETED, reason="the interpreter compiles nothing")
def test_they_compile_for_a_gpu():
    """All of them, for the types that the filter passes, without a GPU being there."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from guard.triton_follow import _follow
    from guard.triton_forbid import _forbid
    from guard.triton_penalties import _penalise
    from guard.triton_settle import _settle
    from guard.triton_veto import _veto

    load = Load(make_vocabulary(random.Random(0), 400), 0, 2, torch.device("cpu"), phrases=3)
    rows = torch.zeros(2, len(RowField), dtype=torch.int64)
    batch = (load.slot_of, load.local, load.local, load.tokens, load.prompt_len, load.total_len)
    step = Step(load.logits, *batch, rows, load.filter.slots, load.filter.report)
    policy = load.policy
    parts = (step, policy.tables, policy.sets, policy.veto, load.filter._vocabulary)
    renamed = {"pending_of": "pending", "head_of": "head", "tail_of": "tail"}
    for kernel in (_follow, _forbid, _penalise, _settle, _veto):
        signature = {}
        for argument in kernel.jit.arg_names:
            field = renamed.get(argument, argument)
            found = [
                getattr(p, field) for p in parts if argument not in NUMBERS and hasattr(p, field)
            ]
            signature[argument] = TYPES[found[0].dtype] if found else "i32"
        source = ASTSource(fn=kernel.jit, signature=signature, constexprs={})
        made = triton.compile(
            source, target=GPUTarget("cuda", 90, 32), options={"num_warps": kernel.warps}
        )

        assert made.asm["cubin"]


@pytest.fixture
def gpu():
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device here")
    return torch.device("cuda")


def assert_they_agree(reference, other, steps):
    for _ in range(steps):
        for load in (reference, other):
            load.logits.zero_()
            load.step()
            load.total_len += 1
        expected, found = (load.logits.cpu() for load in (reference, other))

        assert expected.isneginf().any()
        assert ((expected < 0) & expected.isfinite()).any()
        assert torch.equal(expected, found)
        assert torch.equal(reference.filter.slots, other.filter.slots.cpu())
        assert torch.equal(reference.filter.report, other.filter.report.cpu())
    assert reference.filter.report[Counter.VETOED_TOKENS] > steps


@pytest.mark.skipif(not INTERPRETED, reason="run by test_triton_interpreter")
def test_interpreted_they_do_what_the_reference_does():
    """On tables with many entries, long runs and split characters."""
    from guard import device_kernels

    vocabulary, cpu = make_vocabulary(random.Random(1), 3000), torch.device("cpu")
    reference, other = (Load(vocabulary, 1, 6, cpu, phrases=300) for _ in range(2))
    other.filter._kernels = device_kernels
    assert_they_agree(reference, other, steps=6)


@pytest.mark.gpu
def test_on_a_gpu_they_do_what_the_reference_does(gpu):
    """Step by step, over random tokens with split characters."""
    vocabulary = make_vocabulary(random.Random(1), 5000)
    reference, other = (Load(vocabulary, 1, 64, d) for d in (torch.device("cpu"), gpu))
    assert_they_agree(reference, other, steps=8)


@pytest.mark.gpu
@pytest.mark.parametrize("rows", [1, 64, 256])
def test_a_step_never_waits_for_the_gpu(gpu, rows, record_property):
    """No synchronising call in `apply`; its time on the device by CUDA events is recorded."""
    load = Load(make_vocabulary(random.Random(2), 131_072), 2, rows, gpu, phrases=10_000)
    load.step()
    times = []
    for _ in range(50):
        load.total_len.fill_(16)
        load.filter.slots[:, 5] = 15
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")
        try:
            start.record()
            load.step()
            end.record()
        finally:
            torch.cuda.set_sync_debug_mode("default")
        torch.cuda.synchronize()
        times.append(1000 * start.elapsed_time(end))
    record_property("step_us", statistics.median(times))
    print(f"{rows} rows: {statistics.median(times):.0f} us, {np.percentile(times, 95):.0f} at p95")

    assert load.logits.isneginf().any()
