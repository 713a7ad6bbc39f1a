"""The V1 adapter behind vLLM's real batch: placeholders of asynchronous scheduling, rows that move.

Asynchronous scheduling runs on GPUs only; what it does to the batch is done here by its own code.
"""

import warnings

import pytest

pytest.importorskip("vllm", reason="vLLM is not installed")

import torch
from vllm import SamplingParams
from vllm.v1.sample.logits_processor import LogitsProcessors

from detectors.targets import Phrase
from guard.automaton import build_tables
from guard.ledger import CloseReason, LedgerReader, LedgerWriter
from guard.loading import WorkerPart
from guard.params import GuardParams
from guard.patterns import index_phrases
from guard.snapshot import write_snapshot
from guard.steering import Steering
from guard.units import Units
from guard.vllm_plugin.v1 import GuardLogitsProcessor
from guard.vocabulary import Vocabulary
from tracing.successors import compile_successors

with warnings.catch_warnings():
    # torch's own, of what vLLM compiles when it is imported.
    warnings.simplefilter("ignore")
    from vllm.v1.worker.gpu_input_batch import CachedRequestState, InputBatch

pytestmark = pytest.mark.vllm
VOCABULARY = Vocabulary((None, b"a", b"b", b" ", b"c"))
END, A, B, SPACE, C = range(VOCABULARY.size)
EVERYTHING_BUT_END = {A, B, SPACE, C}


class CopyIsDone:
    """Stands for the event that tells when sampled tokens are on the host."""

    def synchronize(self):
        pass


@pytest.fixture
def digest(tmp_path):
    patterns, ids = index_phrases([Phrase("a b")])
    successors = compile_successors([], 2, VOCABULARY.size)
    part = WorkerPart(build_tables(patterns, VOCABULARY), Units.build([ids], []), successors)
    meta = {"vocabulary": VOCABULARY.fingerprint}
    return write_snapshot(tmp_path / "snapshots", meta=meta, arrays=part.arrays(), documents={})


@pytest.fixture
def runner(tmp_path, digest):
    ledger = LedgerWriter(tmp_path / "facts")
    processor = GuardLogitsProcessor.__new__(GuardLogitsProcessor)
    processor._steering = Steering(tmp_path / "snapshots", VOCABULARY, [END], ledger)
    processor._slots, processor._visible = {}, lambda: None
    return Runner(processor, digest, LedgerReader(tmp_path / "facts"))


class Runner:
    """Does to the batch what vLLM's V1 runner does, in its order."""

    def __init__(self, processor, digest, facts):
        self.digest, self.facts = digest, facts
        self.requests = {}
        self.batch = InputBatch(
            max_num_reqs=4,
            max_model_len=32,
            max_num_batched_tokens=64,
            device=torch.device("cpu"),
            vocab_size=VOCABULARY.size,
            block_sizes=[16],
            max_num_blocks_per_req=[2],
            logitsprocs=LogitsProcessors([processor]),
            logitsprocs_need_output_token_ids=True,
        )
        self.processor = processor

    def enter(self, name, nonce, output=()):
        """A request that is new, or comes back with what it has said."""
        extra = GuardParams(self.digest, nonce, (0,)).to_xargs()
        params = SamplingParams(temperature=0, extra_args=extra)
        self.requests[name] = CachedRequestState(
            name, [END], [], params, None, ([0],), 0, list(output)
        )
        self.batch.add_request(self.requests[name])

    def leave(self, name):
        self.batch.remove_request(name)

    def step(self, sampled, *, asynchronous=True):
        """One step; returns what each request may not take. `sampled` are its tokens by name."""
        self.batch.condense()
        self.batch.refresh_metadata()
        self.batch.update_async_output_token_ids()
        names = list(self.batch.req_ids)
        logits = torch.zeros(len(names), VOCABULARY.size)
        self.processor.apply(logits)
        tokens = [sampled[name] for name in names]
        for name, token in zip(names, tokens, strict=True):
            self.requests[name].output_token_ids.append(-1 if asynchronous else token)
        if asynchronous:
            self.batch.set_async_sampled_token_ids(torch.tensor(tokens)[:, None], CopyIsDone())
            self.batch.prev_req_id_to_index = dict(self.batch.req_id_to_index)
        rows = (set(row.isneginf().nonzero().flatten().tolist()) for row in logits)
        return dict(zip(names, rows, strict=True))


@pytest.mark.parametrize("asynchronous", [True, False])
def test_tokens_that_come_a_step_late(runner, asynchronous):
    """What was sampled is a placeholder until the next step, whose row is judged by it."""
    runner.enter("x", 1)
    runner.enter("y", 2)

    steps = [
        runner.step({"x": token, "y": other}, asynchronous=asynchronous)
        for token, other in zip([A, SPACE, A, SPACE, C], [C, A, SPACE, A, SPACE], strict=True)
    ]

    assert [step["x"] for step in steps] == [set(), set(), {B}, set(), {B}]
    assert [step["y"] for step in steps] == [set()] * 5
    assert runner.step({"x": C, "y": C}, asynchronous=asynchronous) == {"x": set(), "y": {B}}
    assert runner.facts.closed(1) is None


def test_rows_that_move_keep_their_late_tokens(runner):
    """A request that takes another's row in the batch is judged by its own text."""
    for nonce, name in enumerate(("x", "y", "z"), start=1):
        runner.enter(name, nonce)
    runner.step({"x": C, "y": SPACE, "z": A})
    runner.leave("x")
    runner.step({"y": A, "z": SPACE})

    assert runner.step({"y": SPACE, "z": C}) == {"z": {B}, "y": set()}
    assert runner.step({"y": C, "z": C}) == {"z": set(), "y": {B}}


def test_a_request_that_comes_back(runner):
    """A preempted request enters with what it has said, which vLLM then knows."""
    runner.enter("x", 1)
    runner.enter("y", 2)
    runner.step({"x": A, "y": C})
    runner.leave("x")
    runner.step({"y": C})
    runner.enter("x", 1, [A, SPACE])

    assert runner.step({"x": C, "y": C}) == {"x": {B}, "y": set()}


def test_a_token_that_is_not_known_when_a_request_comes_back(runner):
    """It is read when it is known, and nothing is judged without it."""
    runner.enter("x", 1, [A, -1])
    runner.batch.refresh_metadata()
    slot = runner.processor._slots[0]
    runner.requests["x"].output_token_ids[-1] = SPACE

    assert runner.step({"x": C}) == {"x": {B}}
    assert slot.closed is None

    runner.leave("x")
    runner.enter("y", 2, [A, -1])

    assert runner.step({"y": C}) == {"y": EVERYTHING_BUT_END}
    assert runner.facts.closed(2) is CloseReason.INTERNAL_ERROR


def test_tokens_that_are_taken_back(runner):
    """Where the engine discards what it said, the row cannot be followed and ends."""
    runner.enter("x", 1)
    for token in (A, SPACE, C, A):
        runner.step({"x": token}, asynchronous=False)
    del runner.requests["x"].output_token_ids[-2:]

    assert runner.step({"x": C}, asynchronous=False) == {"x": EVERYTHING_BUT_END}
    assert runner.facts.closed(1) is CloseReason.INTERNAL_ERROR
