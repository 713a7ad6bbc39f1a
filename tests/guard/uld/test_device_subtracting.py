"""Subtraction by engine slots: token for token the reference, and the host never waits."""

import random

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from guard.device_steering import DeviceSteering
from guard.errors import AssistantError, GuardError
from guard.follower import Active
from guard.ledger import CloseReason, Counter, LedgerReader, LedgerWriter
from guard.params import GuardParams
from guard.uld.decoder import Decoder
from guard.uld.device_subtracting import DeviceSubtraction, Lengths
from guard.uld.reference import Reference, Subtracted
from guard.uld.rules import UldRule

END, RATE, LENGTH = 1, 0.05, 10
SLOTS, LONGEST = 12, 64
WAITS = {
    torch.ops.aten._local_scalar_dense.default,
    torch.ops.aten.nonzero.default,
    torch.ops.aten.masked_select.default,
    torch.ops.aten.equal.default,
}


class NoWaiting(TorchDispatchMode):
    """Refuses what would bring a value from a GPU to the host."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        assert function not in WAITS, f"{function} waits for the device"
        return function(*args, **(kwargs or {}))


class Engine:
    """Slots as vLLM's V2 runner keeps them: chunked prompts, preempted and resumed requests."""

    def __init__(self, world, *, memory=2**24, tokens=4096, chunk=16, assistants=True):
        self.world, self.chunk = world, chunk
        self.reader = LedgerReader(world.root / "facts")
        self.steering = DeviceSteering(
            world.root / "snapshots",
            world.vocabulary,
            [END],
            LedgerWriter(world.root / "facts"),
            num_slots=SLOTS,
            device=torch.device("cpu"),
            assistants=world.assistants(memory=memory, tokens=tokens) if assistants else None,
        )
        self.tokens = torch.zeros(SLOTS, LONGEST, dtype=torch.int32)
        self.total = torch.zeros(SLOTS, dtype=torch.int32)
        self.prompt = torch.zeros(SLOTS, dtype=torch.int32)
        self.prefill, self.visible = np.zeros(SLOTS, np.int32), np.zeros(SLOTS, np.int32)

    def add(self, slot, params, prompt, output=(), *, told=False):
        text = [*prompt, *output]
        self.tokens[slot, : len(text)] = torch.tensor(text, dtype=torch.int32)
        self.total[slot], self.prompt[slot] = len(text), len(prompt)
        self.prefill[slot], self.visible[slot] = len(text), 0
        if params is None:
            self.steering.leave_slot(slot)
        else:
            self.steering.open_slot(slot, params, text if told else ())

    def step(self, slots):
        """The tokens that are sampled, None where a prompt is still read."""
        for slot in slots:
            ahead = int(self.total[slot]) - self.visible[slot]
            self.visible[slot] += min(self.chunk, ahead)
        self.steering.flush()
        texts = [self.tokens[slot, : self.visible[slot]].tolist() for slot in slots]
        self.logits = self.world.logits(texts)
        with NoWaiting():
            self.steering._subtraction.apply(
                torch.zeros_like(self.logits),
                list(slots),
                Lengths(self.visible[slots], self.prefill),
                self.tokens,
                self._fail,
            )
        self.steering.apply(
            self.logits,
            np.array(slots),
            Lengths(self.visible[slots], self.prefill),
            slot_of=torch.tensor(slots),
            local=torch.zeros(len(slots), dtype=torch.int32),
            inputs=torch.zeros(len(slots), dtype=torch.int32),
            tokens=self.tokens,
            prompt_len=self.prompt,
            total_len=self.total,
        )
        sampled = []
        for slot, token in zip(slots, self.logits.argmax(1).tolist(), strict=True):
            ready = self.visible[slot] == self.total[slot]
            sampled.append(token if ready else None)
            if ready:
                self.tokens[slot, self.total[slot]] = token
                self.total[slot] += 1
        return sampled

    def _fail(self, slot, error):
        """What cannot be read is found out again, and closed, by the step itself."""


def wanted(world, prompt, choice):
    weights = (1.5, 0.8, 0)
    used = [Subtracted(world.models[unit], weights[unit]) for unit in choice if weights[unit]]
    reference = Reference(world.target, used, RATE)
    return reference.generate(prompt, max_tokens=LENGTH, end_ids={END})


@pytest.mark.parametrize("told", [False, True])
def test_requests_decode_as_the_reference_does(world, told):
    """Reordered, in chunks, preempted and resumed in other slots, with too little memory for all.

    A request that leaves says nothing; one that enters its slot finds nothing of it. Told what
    texts begin with, the assistants share what they have read.
    """
    engine, rng = Engine(world, tokens=160), random.Random(0)
    digest = world.policy((*world.rules(1.5, 0.8), None))
    prompts = [[rng.randrange(4, 300) for _ in range(rng.randrange(1, 40))] for _ in range(40)]
    choices = [rng.choice([(0,), (1,), (0, 1), (2,), None]) for _ in prompts]
    outputs = [[] for _ in prompts]
    free, waiting, running = list(range(SLOTS)), list(range(len(prompts))), {}
    preempted = 0
    while waiting or running:
        while waiting and len(running) < 3 and rng.random() < 0.8:
            one = waiting.pop(rng.randrange(len(waiting)))
            running[one] = slot = free.pop(rng.randrange(len(free)))
            choice = choices[one]
            params = None if choice is None else GuardParams(digest, one + 500, choice)
            engine.add(slot, params, prompts[one], outputs[one], told=told)
        if not running:
            continue
        batch = rng.sample(sorted(running), len(running))
        for one, token in zip(batch, engine.step([running[b] for b in batch]), strict=True):
            if token is not None:
                outputs[one].append(token)
            ended = token == END or len(outputs[one]) == LENGTH
            if ended or rng.random() < 0.05:
                free.append(running.pop(one))
                if not ended:
                    waiting.append(one)
                    preempted += 1

    assert preempted > 10
    for one, (prompt, choice, output) in enumerate(zip(prompts, choices, outputs, strict=True)):
        assert engine.reader.closed(one + 500) is None
        assert output == wanted(world, prompt, choice or ())


def test_a_prompt_is_read_as_the_target_reads_it(world, monkeypatch):
    """A chunk per step; rows whose samples are discarded are left alone."""
    engine = Engine(world, chunk=20)
    digest = world.policy(world.rules(1.5))
    params = GuardParams(digest, 700, (0,))
    prompt = [random.Random(1).randrange(4, 300) for _ in range(50)]
    engine.steering.preload(Active(1, digest))
    read = []
    original = Decoder._read_piece

    def recorded(self, seat, tokens, start):
        read.append((start, tokens.shape[1]))
        original(self, seat, tokens, start)

    monkeypatch.setattr(Decoder, "_read_piece", recorded)
    engine.add(2, params, prompt)
    before = engine.reader.total(Counter.SUBTRACTED_STEPS)
    for visible in (20, 40):
        assert engine.step([2]) == [None]
        assert torch.equal(engine.logits[0], world.logits([prompt[:visible]])[0])
    assert before == engine.reader.total(Counter.SUBTRACTED_STEPS)
    assert engine.step([2]) != [None]
    assert read == [(0, 19), (19, 20), (39, 10)]
    assert before + 1 == engine.reader.total(Counter.SUBTRACTED_STEPS)


def test_a_known_beginning_is_read_once(world, monkeypatch):
    """By a second request with the same prompt, and by one that is resumed in another slot."""
    engine = Engine(world, chunk=64)
    params = GuardParams(world.policy(world.rules(1.5)), 740, (0,))
    prompt = [random.Random(2).randrange(4, 300) for _ in range(40)]
    engine.steering.preload(Active(1, params.digest))
    read = []
    original = Decoder._read_piece

    def recorded(self, seat, tokens, start):
        read.append((start, tokens.shape[1]))
        original(self, seat, tokens, start)

    monkeypatch.setattr(Decoder, "_read_piece", recorded)
    for slot in (0, 1):
        engine.add(slot, params, prompt, told=True)
    first, second = engine.step([0, 1])
    engine.add(5, params, prompt, [first], told=True)
    (third,) = engine.step([5])

    assert first == second
    assert [first, third] == wanted(world, prompt, (0,))[:2]
    assert read == [(0, 39), (32, 7), (32, 8)]


def test_a_row_without_room_is_closed_and_the_others_go_on(world):
    """Both are in the batch, so neither can make room for the other."""
    engine = Engine(world, tokens=64, chunk=64)
    digest = world.policy(world.rules(1.0))
    for slot in (0, 1):
        engine.add(slot, GuardParams(digest, 710 + slot, (0,)), [9] * 40)
    sampled = engine.step([0, 1])

    assert engine.reader.closed(710) is None
    assert engine.reader.closed(711) is CloseReason.ASSISTANT_UNAVAILABLE
    assert sampled[1] == END
    assert engine.logits[1].isneginf().sum() == engine.logits.shape[1] - 1

    engine.add(1, GuardParams(digest, 712, (0,)), [9] * 40)
    engine.step([1])  # what slot 0 holds is taken: it is not in the batch

    assert engine.reader.closed(712) is None
    assert engine.step([0]) != [None]  # and read again
    assert engine.reader.closed(710) is None


@pytest.mark.parametrize("options", [{"memory": 0}, {"assistants": False}])
def test_a_request_whose_assistant_is_not_loaded_is_closed(world, options):
    """It is not served unsubtracted."""
    engine = Engine(world, **options)
    engine.add(0, GuardParams(world.policy(world.rules(1.0)), 720, (0,)), [9, 8])

    assert engine.step([0]) == [END]
    assert engine.reader.closed(720) is CloseReason.ASSISTANT_UNAVAILABLE


def test_assistants_follow_the_policy(world):
    """One that is on no shelf is missed when the policy is published."""
    engine = Engine(world)
    with pytest.raises(AssistantError, match="missing"):
        engine.steering.preload(Active(1, world.policy((UldRule("0" * 64, 1.0, RATE),))))


def test_drafted_tokens_are_refused(world):
    """More rows than requests: what the assistant recalls of a draft is not known."""
    steering = Engine(world).steering
    digest = world.policy(world.rules(1.0))
    steering.open_slot(0, GuardParams(digest, 730, (0,)))
    lengths = Lengths(np.array([4]), np.zeros(SLOTS, np.int32))
    tokens = torch.zeros(SLOTS, LONGEST, dtype=torch.int32)
    with pytest.raises(GuardError, match="drafted"):
        steering._subtraction.apply(torch.zeros(2, 8), [0], lengths, tokens, lambda *_: None)
    assert DeviceSubtraction().apply(torch.zeros(2, 8), [0], None, tokens, lambda *_: None) == 0
