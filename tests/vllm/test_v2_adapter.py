"""The V2 adapter on vLLM's real interface, loader and request states, with CPU tensors."""

from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("vllm", reason="vLLM is not installed")

import torch
from vllm import SamplingParams
from vllm.exceptions import VLLMValidationError
from vllm.v1.worker.gpu import buffer_utils
from vllm.v1.worker.gpu.sample.logits_processor import (
    LogitsContext,
    build_custom_logits_processors,
    build_custom_logits_processors_params_validator,
)
from vllm.v1.worker.gpu.states import RequestState

from detectors.targets import Phrase
from guard.automaton import build_tables
from guard.follower import ActivePointer, followers
from guard.ledger import CloseReason, LedgerReader
from guard.loading import WorkerPart
from guard.params import GuardParams
from guard.patterns import index_phrases
from guard.snapshot import write_snapshot
from guard.units import Units
from guard.vocabulary import Vocabulary
from tracing.successors import compile_successors

pytestmark = pytest.mark.vllm
PROCESSOR = "guard.vllm_plugin.v2:GuardLogitsProcessor"
PIECES = (None, b"a", b"b", b" ", b"ab", b" a", b"c", "é".encode()[:1], "é".encode()[1:], b"\xc3b")
VOCABULARY = Vocabulary(PIECES)
END, A, B, SPACE, AB, SPACE_A, C, E_FIRST, E_LAST, _ = range(len(PIECES))
ALL_BUT_END = set(range(1, len(PIECES)))


class CopyingKernel:
    """Stands for vLLM's `_apply_write_kernel`, which needs a GPU."""

    def __getitem__(self, grid):
        return self.write

    def write(self, out, stride, rows, starts, contents, ends, groups, **constants):
        begin = 0
        for row, start, end in zip(rows.tolist(), starts.tolist(), ends.tolist(), strict=True):
            place = row * stride + start
            out.view(-1)[place : place + end - begin] = contents[begin:end]
            begin = end


@pytest.fixture
def states(monkeypatch):
    monkeypatch.setattr(buffer_utils, "is_uva_available", lambda: False)
    monkeypatch.setattr(buffer_utils, "_apply_write_kernel", CopyingKernel())
    return RequestState(4, 32, 64, 2, VOCABULARY.size, torch.device("cpu"))


@pytest.fixture
def processor(states, tmp_path, monkeypatch):
    monkeypatch.setenv("LETHEGATE_STATE_DIR", str(tmp_path))
    monkeypatch.setattr("guard.vllm_plugin.v2.vocabulary_of", lambda model: VOCABULARY)
    monkeypatch.setattr("guard.vllm_plugin.v2.end_ids_of", lambda model: [END])
    monkeypatch.setattr("guard.vllm_plugin.assistants.assistants_of", lambda *_: None)
    config = SimpleNamespace(model_config=None)
    (made,) = build_custom_logits_processors(config, states, False, [PROCESSOR])
    yield made
    made._follower.stop()


@pytest.fixture
def digest(tmp_path):
    phrases = [Phrase("a b"), Phrase("éb", whole_word=False)]
    patterns, ids = index_phrases(phrases)
    tables = build_tables(patterns, VOCABULARY)
    successors = compile_successors([], 2, VOCABULARY.size)
    arrays = WorkerPart(tables, Units.build([ids], []), successors).arrays()
    meta = {"vocabulary": VOCABULARY.fingerprint}
    return write_snapshot(tmp_path / "snapshots", meta=meta, arrays=arrays, documents={})


@pytest.fixture
def runner(states, processor, digest):
    return Runner(states, processor, digest)


class Runner:
    """Calls states and processor in the order of vLLM's V2 model runner."""

    def __init__(self, states, processor, digest):
        self.states, self.processor, self.digest = states, processor, digest

    def add(self, name, prompt, output=(), *, nonce=None, digest=None):
        """A new or resumed request, as `add_requests`."""
        self.states.remove_request(name)
        self.states.add_request(name, len(prompt), [*prompt, *output], 0, 16)
        slot = self.states.req_id_to_index[name]
        extra = GuardParams(digest or self.digest, nonce, (0,)).to_xargs() if nonce else None
        wants = self.processor.add_request(slot, SamplingParams(extra_args=extra))
        self.states.apply_staged_writes()
        self.processor.apply_staged_writes()
        return wants

    def step(self, *batch, logits=None):
        """Forbidden tokens per row; `batch` holds names, or (name, drafts)."""
        batch = [(b, ()) if isinstance(b, str) else b for b in batch]
        slots = [self.states.req_id_to_index[name] for name, _ in batch]
        rows = [
            (slot, i, token)
            for slot, (_, drafts) in zip(slots, batch, strict=True)
            for i, token in enumerate([0, *drafts])
        ]
        mapping, local, inputs = (torch.tensor(column) for column in zip(*rows, strict=True))
        context = LogitsContext(
            expanded_idx_mapping=mapping,
            idx_mapping=torch.tensor(slots),
            idx_mapping_np=np.array(slots, np.intp),
            expanded_local_pos=local.int(),
            input_ids=inputs.int(),
            pos=torch.zeros(len(rows), dtype=torch.int64),
            seq_lens_upper_bound_np=np.zeros(len(batch), np.int32),
        )
        self.logits = torch.zeros(len(rows), VOCABULARY.size) if logits is None else logits
        self.processor.apply_staged_writes()

        assert self.processor.apply(self.logits, context) is self.logits

        return [set(row.isneginf().nonzero().flatten().tolist()) for row in self.logits]

    def commit(self, name, *tokens):
        """What vLLM's `post_update` kernel does with sampled tokens."""
        slot = self.states.req_id_to_index[name]
        for token in tokens:
            self.states.all_token_ids.gpu[slot, self.states.total_len.gpu[slot]] = token
            self.states.total_len.gpu[slot] += 1


def test_only_steered_requests_are_touched(runner):
    """The runner skips a batch in which no processor wants a row; others lose nothing."""
    assert runner.add("plain", [END, A, SPACE]) is False
    assert runner.add("steered", [END, A, SPACE], nonce=5) is True
    assert [set(), {B}] == runner.step("plain", "steered")
    assert [{B}, set()] == runner.step("steered", "plain")


def test_tokens_that_only_the_device_knows(runner):
    """What was sampled in the last step is read from the device, split characters too."""
    runner.add("r", [END], nonce=5)
    after = []
    for token in (A, SPACE, C, E_FIRST, E_LAST):
        runner.commit("r", token)
        after += runner.step("r")

    assert [set(), {B}, set(), set(), {B}] == after


def test_drafts_are_judged_by_the_drafts_before_them(runner):
    """One row per draft token; what is rejected leaves no trace."""
    runner.add("r", [END], nonce=5)
    runner.add("plain", [END])

    assert [set()] * 2 + [set(), set(), {B}] == runner.step(("plain", [A]), ("r", [A, SPACE]))

    runner.commit("r", C)

    assert [set()] == runner.step("r")

    runner.commit("r", SPACE, A, SPACE)

    assert [{B}, set()] == runner.step(("r", [C]))


def test_a_resumed_request_goes_on_where_it_was(runner):
    """Preempted requests come back in another slot, with their output as part of the prefill."""
    runner.add("r", [END, C, SPACE], nonce=5)
    runner.commit("r", A)
    runner.states.remove_request("r")
    runner.add("other", [END, C])
    runner.add("r", [END, C, SPACE], [A, SPACE], nonce=5)

    assert [set(), {B}] == runner.step("other", "r")


def test_chunks_of_a_prompt(runner):
    """While a prompt is prefilled the row is judged at its end and nothing runs ahead."""
    runner.add("r", [A, END, C, SPACE_A], nonce=5)
    for _ in range(3):
        assert [set()] == runner.step("r")

    runner.commit("r", SPACE)

    assert [{B}] == runner.step("r")


def test_a_prompt_counts_from_its_last_special_token(runner):
    """What a user said does not run into the answer."""
    runner.add("asked", [A, SPACE, END], nonce=5)
    runner.add("begun", [END, A, SPACE], nonce=6)

    assert [set(), {B}] == runner.step("asked", "begun")


def test_a_slot_is_used_again(runner):
    """The next request in a slot is steered by its own parameters only."""
    runner.add("first", [END, A, SPACE], nonce=5)
    runner.step("first")
    runner.states.remove_request("first")
    runner.add("second", [END, A, SPACE])

    assert [set()] == runner.step("second")

    runner.states.remove_request("second")
    runner.add("third", [END, C], nonce=6)

    assert [set()] == runner.step("third")


def test_a_row_with_nothing_left_ends(runner, tmp_path):
    """The gateway finds out why under the request's nonce."""
    runner.add("r", [END, A, SPACE], nonce=5)
    logits = torch.full((1, VOCABULARY.size), float("-inf"))
    logits[0, B] = 1

    assert [ALL_BUT_END] == runner.step("r", logits=logits)
    assert CloseReason.NOTHING_LEFT is LedgerReader(tmp_path / "facts").closed(5)
    assert not runner.logits.isnan().any()


def test_an_unknown_policy_ends_the_row(runner, tmp_path):
    """A request pinned to a policy that is not here is never served unguarded."""
    runner.add("r", [END], nonce=5, digest="0" * 64)

    assert [ALL_BUT_END] == runner.step("r")
    assert CloseReason.SNAPSHOT_UNAVAILABLE is LedgerReader(tmp_path / "facts").closed(5)


def test_it_follows_the_policy_in_force(processor, digest, tmp_path):
    """The worker acknowledges a new policy before a request asks for it."""
    import time

    ActivePointer(tmp_path).publish(1, digest)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        found = followers(tmp_path)
        if found and found[0].generation == 1:
            break
        time.sleep(0.02)

    assert ["worker"] == [f.kind for f in found]
    assert digest == found[0].digest


def test_what_is_known_of_a_prompt_goes_to_its_slot(processor, digest, monkeypatch):
    """By the request's own parameters, of the step in which it enters; a copy."""
    opened = []
    monkeypatch.setattr(
        processor._steering, "open_slot", lambda *given: opened.append((given[0], given[2]))
    )
    extra = GuardParams(digest, 5, (0,)).to_xargs()
    first, second = (SamplingParams(extra_args=extra) for _ in range(2))
    live = [A, B]
    processor.announce([(second, [C]), (first, live)])
    processor.add_request(1, first)
    live.append(C)
    processor.announce([])
    processor.add_request(2, second)

    assert opened == [(1, (A, B)), (2, ())]


def test_malformed_parameters_are_refused_at_admission():
    """vLLM's validator turns the error into a 400 before the request reaches a batch."""
    validate = build_custom_logits_processors_params_validator([PROCESSOR])
    good = GuardParams("a" * 64, 5, (0,)).to_xargs()
    validate(SamplingParams())
    validate(SamplingParams(extra_args=good))
    with pytest.raises(VLLMValidationError, match="digest"):
        validate(SamplingParams(extra_args=good | {"lethegate_digest": "x"}))
