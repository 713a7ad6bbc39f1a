"""Subtraction in the worker's steering: token for token what the slow reference gives."""

import random

import numpy as np
import pytest
import torch

from detectors.targets import ForgetTarget, Phrase, Uld
from guard.errors import AssistantError, CompileError
from guard.follower import Active
from guard.ledger import CloseReason, Counter
from guard.params import GuardParams
from guard.uld.card import Card
from guard.uld.decoder import Decoder
from guard.uld.reference import Reference, Subtracted
from guard.uld.rules import Registered, UldRule, WeightLimits, rules_of
from guard.uld.shelf import Shelf

END = 1
RATE = 0.05
LENGTH = 10


def test_two_hundred_requests_decode_as_the_reference_does(world):
    """Entering and leaving at random, preempted and resumed, with one, both or no assistant."""
    steering, rng = world.steering(), random.Random(0)
    digest = world.policy((*world.rules(1.5, 0.8), None))
    prompts = [[rng.randrange(4, 300) for _ in range(rng.randrange(1, 24))] for _ in range(200)]
    choices = [rng.choice([(0,), (1,), (0, 1), (2,)]) for _ in prompts]
    outputs = [[] for _ in prompts]
    waiting, running, slots = list(range(200)), [], {}
    preempted = 0
    while waiting or running:
        while waiting and len(running) < 16 and rng.random() < 0.7:
            one = waiting.pop(rng.randrange(len(waiting)))
            params = GuardParams(digest, one + 1, choices[one])
            slots[one] = steering.open_slot(params, prompts[one], outputs[one], constrained=False)
            running.insert(rng.randrange(len(running) + 1), one)
        if not running:
            continue
        logits = world.logits([prompts[one] + outputs[one] for one in running])
        steering.apply(logits, [(row, slots[one]) for row, one in enumerate(running)])
        for one, token in zip(list(running), logits.argmax(1).tolist(), strict=True):
            outputs[one].append(token)
            ended = token == END or len(outputs[one]) == LENGTH
            if ended or rng.random() < 0.03:
                running.remove(one)
                steering.release(slots.pop(one))
                if not ended:
                    waiting.append(one)
                    preempted += 1

    assert preempted > 20
    assert world.reader.total(Counter.SUBTRACTED_STEPS) > 1000
    changed = 0
    for prompt, choice, output in zip(prompts, choices, outputs, strict=True):
        weights = [(1.5, 0.8)[unit] if unit < 2 else 0 for unit in choice]
        used = [
            Subtracted(world.models[unit], weight)
            for unit, weight in zip(choice, weights, strict=True)
            if weight
        ]
        wanted = Reference(world.target, used, RATE).generate(
            prompt, max_tokens=LENGTH, end_ids={END}
        )
        assert output == wanted
        changed += bool(used)
    assert changed > 100


def test_a_prompt_is_read_as_the_target_reads_it(world, monkeypatch):
    """A chunk per step, nobody's sample changed meanwhile; the end is the same."""
    read = []
    original = Decoder._read_piece

    def recorded(self, seat, tokens, start):
        read.append((start, tokens.shape[1]))
        original(self, seat, tokens, start)

    monkeypatch.setattr(Decoder, "_read_piece", recorded)
    steering = world.steering()
    digest = world.policy(world.rules(1.5))
    rng = random.Random(3)
    prompt = [rng.randrange(4, 300) for _ in range(50)]
    slot = steering.open_slot(GuardParams(digest, 1, (0,)), prompt, [], constrained=False)
    read.clear()
    before = world.reader.total(Counter.SUBTRACTED_STEPS)
    for visible in (20, 40):
        logits = world.logits([prompt[:visible]] * 2)
        plain = logits.clone()
        steering.apply(logits, [(1, slot)], [0, visible])

        assert torch.equal(logits, plain)
    assert before == world.reader.total(Counter.SUBTRACTED_STEPS)
    assert read == [(0, 19), (19, 20)]

    logits = world.logits([prompt] * 2)
    steering.apply(logits, [(1, slot)], [0, 50])
    wanted = Reference(world.target, [Subtracted(world.models[0], 1.5)], RATE).logits(prompt)

    assert read[2:] == [(39, 10)]
    assert torch.equal(logits[1].isneginf(), wanted.isneginf())
    assert torch.allclose(torch.softmax(logits[1], 0), torch.softmax(wanted, 0), atol=1e-5)


def test_sampled_distributions_are_the_references(world):
    """The logits that a sampler sees, at every temperature alike, and minus infinity elsewhere."""
    steering = world.steering()
    digest = world.policy(world.rules(1.0))
    prompt = [9, 30, 7]
    slot = steering.open_slot(GuardParams(digest, 1, (0,)), prompt, [], constrained=False)
    logits = world.logits([prompt, prompt])
    before = logits[0].clone()
    steering.apply(logits, [(1, slot)])
    wanted = Reference(world.target, [Subtracted(world.models[0], 1.0)], RATE).logits(prompt)

    assert torch.equal(logits[0], before)
    assert torch.equal(logits[1].isneginf(), wanted.isneginf())
    assert torch.allclose(torch.softmax(logits[1], 0), torch.softmax(wanted, 0), atol=1e-5)


def test_vetoes_have_the_last_word(world):
    """What is forbidden stays so, whatever the assistant says."""
    steering = world.steering()
    letter = next(i for i in range(world.vocabulary.size) if world.vocabulary.raw(i) == b"q")
    digest = world.policy(world.rules(3.0), [Phrase("q")])
    slot = steering.open_slot(GuardParams(digest, 1, (0,)), [9], [], constrained=False)
    logits = torch.zeros(1, world.vocabulary.size)
    logits[0, letter] = 50.0
    steering.apply(logits, [(0, slot)])

    assert logits[0, letter].isneginf()
    assert np.isfinite(logits.max().item())


def test_a_row_without_room_is_closed_and_the_others_go_on(world):
    """One request too many ends; it is not served unsubtracted."""
    steering = world.steering(tokens=64)
    digest = world.policy(world.rules(1.0))
    slots = [
        steering.open_slot(GuardParams(digest, n, (0,)), [n] * 40, [], constrained=False)
        for n in (101, 102)
    ]
    logits = world.logits([[9] * 40] * 2)
    steering.apply(logits, list(enumerate(slots)))

    assert world.reader.closed(101) is None
    assert world.reader.closed(102) is CloseReason.ASSISTANT_UNAVAILABLE
    assert logits[1].isneginf().sum() == logits.shape[1] - 1
    assert logits[1, END] == 0
    steering.release(slots[0])
    third = steering.open_slot(GuardParams(digest, 103, (0,)), [103] * 40, [], constrained=False)
    steering.release(slots[1])
    steering.apply(world.logits([[9] * 40]), [(0, third)])
    assert world.reader.closed(103) is None


@pytest.mark.parametrize("options", [{"memory": 0}, {"assistants": False}])
def test_a_request_whose_assistant_is_not_loaded_is_closed(world, options):
    """And a policy that needs it is rejected when it is published."""
    steering = world.steering(**options)
    digest = world.policy(world.rules(1.0))
    slot = steering.open_slot(GuardParams(digest, 201, (0,)), [9], [], constrained=False)

    assert slot.closed is CloseReason.ASSISTANT_UNAVAILABLE
    with pytest.raises(AssistantError):
        steering.preload(Active(1, digest))


def test_a_retired_assistant_is_missed(world):
    """A digest that is on no shelf."""
    steering = world.steering()
    digest = world.policy((UldRule("0" * 64, 1.0, RATE),))
    with pytest.raises(AssistantError, match="missing"):
        steering.preload(Active(1, digest))


@pytest.mark.parametrize(
    ("own", "limits", "meant"),
    [
        ((2.5, 0.2), WeightLimits(), (2.5, 0.2)),
        ((2.5, None), WeightLimits(), (2.5, RATE)),
        ((None, 0.2), WeightLimits(1.2, 2.0), (1.0, 0.2)),
        ((2.5, None), WeightLimits(0.5, 1.5), (1.5, RATE)),
        ((0.1, None), WeightLimits(0.5, 1.5), (0.5, RATE)),
    ],
)
def test_a_key_has_its_own_weight_within_the_operators_limits(world, own, limits, meant):
    """In place of the target's, which other requests of the batch keep."""
    steering = world.steering(limits=limits)
    digest = world.policy(world.rules(1.0))
    prompt = [9, 30, 7]
    slots = [
        steering.open_slot(GuardParams(digest, n, (0,), (), *given), prompt, [], constrained=False)
        for n, given in ((301, own), (302, ()))
    ]
    logits = world.logits([prompt, prompt])
    steering.apply(logits, list(enumerate(slots)))
    for row, (weight, rate) in zip(logits, (meant, (1.0, RATE)), strict=True):
        used = [Subtracted(world.models[0], weight)]
        wanted = Reference(world.target, used, rate).logits(prompt)
        assert torch.equal(row.isneginf(), wanted.isneginf())
        assert torch.allclose(torch.softmax(row, 0), torch.softmax(wanted, 0), atol=1e-5)


def test_rules_come_from_targets():
    """By digest; an unknown name cannot be compiled."""
    targets = [ForgetTarget("a"), ForgetTarget("b", uld=Uld("x", 1.5, 0.1))]

    assert rules_of(targets, {"x": Registered("d")}) == (None, UldRule("d", 1.5, 0.1))
    # What a target does not say is as the assistant was trained.
    unsaid = [ForgetTarget("a", uld=Uld("x")), ForgetTarget("b", uld=Uld("x", rate=0.1))]
    ours = Registered("d", 1.0, 1.0)
    assert rules_of(unsaid, {"x": ours}) == (UldRule("d", 1.0, 1.0), UldRule("d", 1.0, 0.1))
    with pytest.raises(CompileError, match="b names"):
        rules_of(targets, {})


def test_the_card_fits(world):
    """What is loaded is what was trained."""
    assert Card.read(Shelf(world.root / "assistants").folder(world.digests[1])) == world.card
