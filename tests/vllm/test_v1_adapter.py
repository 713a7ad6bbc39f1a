"""The V1 adapter on vLLM's real interface classes."""

import pytest

pytest.importorskip("vllm", reason="vLLM is not installed")

from vllm import SamplingParams
from vllm.sampling_params import StructuredOutputsParams
from vllm.v1.sample.logits_processor.interface import BatchUpdate, MoveDirectionality

from guard.params import GuardParams
from guard.vllm_plugin.v1 import GuardLogitsProcessor

pytestmark = pytest.mark.vllm
DIGEST = "a" * 64


class RecordingSteering:
    """Stands for `guard.steering.Steering`: slots are the nonces, calls are noted."""

    def __init__(self):
        self.opened, self.released, self.applied = [], [], []

    def open_slot(self, params, prompt, output, *, constrained):
        self.opened.append((params.nonce, list(prompt), list(output), constrained))
        return params.nonce

    def release(self, slot):
        self.released.append(slot)

    def apply(self, logits, slots, visible):
        self.applied.append(dict(slots))
        self.visible = visible


@pytest.fixture
def processor():
    made = GuardLogitsProcessor.__new__(GuardLogitsProcessor)
    made._steering, made._slots, made._visible = RecordingSteering(), {}, lambda: None
    return made


def params(nonce=None, **more):
    extra = GuardParams(DIGEST, nonce, (0,), ()).to_xargs() if nonce else None
    return SamplingParams(extra_args=extra, **more)


def update(processor, *, removed=(), added=(), moved=()):
    rows = [(row, p, [1, 2], []) for row, p in added]
    processor.update_state(BatchUpdate(8, list(removed), rows, list(moved)))
    return processor._slots


def test_only_steered_requests_get_slots(processor):
    """Requests without our parameters leave no trace and cost no call."""
    assert {1: 11} == update(processor, added=[(0, params()), (1, params(11))])
    assert processor.apply("logits") == "logits"
    assert [{1: 11}] == processor._steering.applied

    update(processor, removed=[1])
    processor.apply("logits")

    assert 1 == len(processor._steering.applied)


def test_batch_updates_follow_vllm_order(processor):
    """Removed, then added, then moved; replaced and removed slots are released."""
    update(processor, added=[(0, params(10)), (1, params(11)), (2, params(12))])
    slots = update(
        processor,
        removed=[0],
        added=[(0, params()), (1, params(21))],
        moved=[(2, 0, MoveDirectionality.UNIDIRECTIONAL)],
    )

    assert {0: 12, 1: 21} == slots
    assert [10, 11] == processor._steering.released


def test_swaps_and_moves(processor):
    """A swap exchanges rows, also with a row that has no slot; a move overwrites."""
    update(processor, added=[(0, params(10)), (1, params(11))])

    assert {0: 11, 1: 10} == update(processor, moved=[(0, 1, MoveDirectionality.SWAP)])
    assert {0: 11, 5: 10} == update(processor, moved=[(1, 5, MoveDirectionality.SWAP)])
    assert {5: 11} == update(processor, moved=[(0, 5, MoveDirectionality.UNIDIRECTIONAL)])
    assert [10] == processor._steering.released


def test_no_update_changes_nothing(processor):
    """A step without changes is None."""
    update(processor, added=[(0, params(10))])
    processor.update_state(None)

    assert {0: 10} == processor._slots


@pytest.mark.parametrize(
    ("more", "constrained"),
    [
        ({}, False),
        ({"allowed_token_ids": [1]}, True),
        ({"logit_bias": {1: 2.0}}, True),
        ({"bad_words": ["x"]}, True),
        ({"structured_outputs": StructuredOutputsParams(regex="a")}, True),
    ],
)
def test_rows_that_other_rules_narrow_are_watched(processor, more, constrained):
    """A row can run out of tokens only where something else forbids too."""
    update(processor, added=[(0, params(10, **more))])

    assert [(10, [1, 2], [], constrained)] == processor._steering.opened


def test_malformed_parameters_are_refused_at_admission():
    """vLLM turns the error into a 400 before the request reaches a batch."""
    GuardLogitsProcessor.validate_params(params())
    GuardLogitsProcessor.validate_params(params(5))
    with pytest.raises(ValueError, match="digest"):
        GuardLogitsProcessor.validate_params(
            SamplingParams(extra_args=params(5).extra_args | {"lethegate_digest": "x"})
        )


def test_it_changes_the_greedy_choice(processor):
    """vLLM must not skip it for greedy requests."""
    assert processor.is_argmax_invariant() is False
