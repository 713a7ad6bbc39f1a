"""From detections to decisions, by policies that were compiled."""

import random
import re
from dataclasses import replace

import numpy as np

from detectors.detection import Strength
from detectors.normaliser import fold
from detectors.targets import Action, Enforcement, Example, ForgetTarget, Phrase, Scope
from guard.automaton import Tables
from guard.decision import Verdict
from guard.key_scope import ALL_TARGETS, KeyScope
from guard.policy import JOINED_FROM
from guard.token_filter import Position, TokenFilter
from guard.units import Units
from tests.guard.invented_policy import (
    EXAMPLES,
    TOKENS,
    VOCABULARY,
    classify,
    detection,
    policy_of,
    target,
)

# What the name can be put together from.
PIECES = (b" Moreau", b"Ilse", b" Ilse", b"oreau", b"SE", b"I", b"l", b"m", b" ", b"\n")


def test_an_empty_policy_allows_everything(compiled):
    """With no target there is a policy too, and it does nothing."""
    policy = policy_of(compiled()[1])

    assert not policy.applies_to(ALL_TARGETS)
    assert not policy.enforces_for(ALL_TARGETS)
    assert policy.decide(classify(policy, "Who wrote it?")).verdict is Verdict.ALLOW


def test_a_matched_prompt_is_steered_with_its_item(compiled):
    """A registered question switches on its target and its item, and only them."""
    policy = policy_of(compiled(target("first"), target("moreau"))[1], generation=7)
    detections = [d for d in classify(policy, EXAMPLES[1].prompt) if d.target_id == "moreau"]
    decision = policy.decide(detections)

    assert (decision.verdict, decision.generation) == (Verdict.STEER, 7)
    assert decision.targets == (1,)
    assert 3 in decision.items
    assert any(matcher.find("He is a FLORIST.") for matcher in policy.matchers(decision))


def test_unrelated_prompts_are_allowed(compiled):
    """No evidence, no steering."""
    policy = policy_of(compiled(target())[1])
    decision = policy.decide(classify(policy, "How do I cook rice?"))

    assert decision.verdict is Verdict.ALLOW
    assert (decision.targets, decision.items, decision.detections) == ((), (), ())


def test_weak_evidence_forbids_only_the_items(compiled):
    """Graded steering: the target as a whole needs strong evidence."""
    policy = policy_of(compiled(target())[1])
    decision = policy.decide([detection("moreau", Strength.WEAK, (1,))])

    assert (decision.verdict, decision.targets, decision.items) == (Verdict.STEER, (), (1,))


def test_faint_evidence_forbids_what_is_telling(compiled):
    """Of an answer its names and numbers, in the shield as in the worker, and no everyday word."""
    snapshot = compiled(target("other"), target())[1]
    policy = policy_of(snapshot)
    weak, faint = (
        policy.decide([detection("moreau", strength, (0, 1))])
        for strength in (Strength.WEAK, Strength.FAINT)
    )

    def forbids(decision, text):
        return any(matcher.find(text) for matcher in policy.matchers(decision))

    assert (faint.verdict, faint.targets) == (Verdict.STEER, ())
    assert forbids(weak, "a florist")
    assert not forbids(faint, "a florist")
    assert all(forbids(d, "in 1987") and forbids(d, "Ilse Moreau") for d in (weak, faint))
    tables = Tables.load(snapshot.arrays("automaton"))
    token_filter = TokenFilter(tables, Units.load(snapshot.arrays("units")), VOCABULARY)
    active = [token_filter.sets.acquire(d.targets, d.items) for d in (weak, faint)]
    bits = [token_filter.sets.bits[each.index] for each in active]
    assert np.array_equal(bits[0] & bits[1], bits[1])
    assert 0 < np.unpackbits(bits[1]).sum() < np.unpackbits(bits[0]).sum()


def test_many_items_are_searched_for_together(compiled):
    """One matcher finds what theirs find, and nothing of an item that is not on."""
    answers = [f"He collected {word}." for word in ("kettles", "ledgers", "anvils", "corks")]
    examples = tuple(Example(f"Question {n}?", text) for n, text in enumerate(answers * 3))
    many = ForgetTarget("many", examples=(*examples, Example("Another?", "Her father: a florist.")))
    policy = policy_of(compiled(many)[1])
    decision = policy.decide([detection("many", Strength.WEAK, tuple(range(12)))])
    matchers = policy.matchers(decision)

    assert len(decision.items) == 12 >= JOINED_FROM
    assert len(matchers) == 1
    assert all(matchers[0].find(answer) for answer in answers)
    assert matchers[0].find("Her father was a florist.") is None
    assert matchers[0].owners("kettles") == ("many",)


def test_weak_evidence_forbids_the_names_too(compiled):
    """With one item on, shield and token filter agree that its target's name may not be said."""
    snapshot = compiled(target("other"), target())[1]
    decision = policy_of(snapshot).decide([detection("moreau", Strength.WEAK, (1,))])

    assert any(m.find("It was Ilse Moreau.") for m in policy_of(snapshot).matchers(decision))
    assert not any(m.find("The Salt Ledger.") for m in policy_of(snapshot).matchers(decision))

    tables = Tables.load(snapshot.arrays("automaton"))
    token_filter = TokenFilter(tables, Units.load(snapshot.arrays("units")), VOCABULARY)
    active = token_filter.sets.acquire(decision.targets, decision.items)
    tokens = [TOKENS.index(piece) for piece in PIECES]
    rng = random.Random(3)
    stopped = 0
    for _ in range(200):
        position, said = Position(), b""
        for _ in range(12):
            banned = token_filter.forbidden([position], [active], [0], VOCABULARY.size).tolist()
            stopped += bool(set(banned) & set(tokens))
            token = rng.choice([t for t in tokens if t not in banned])
            token_filter.advance([position], [token])
            said += TOKENS[token]

        assert not re.search(r"\bilse moreau\b", fold(said.decode()))
    assert stopped > 200


def test_refusing_needs_strong_evidence(compiled):
    """A target that refuses does so on strong evidence and steers on weak."""
    policy = policy_of(compiled(target(action=Action.REFUSE))[1])

    assert policy.decide([detection("moreau")]).verdict is Verdict.REFUSE
    assert policy.decide([detection("moreau", Strength.WEAK, (0,))]).verdict is Verdict.STEER
    assert policy.decide([detection("moreau")]).refusing == {"moreau"}
    assert policy.decide([detection("moreau", Strength.WEAK, (0,))]).refusing == frozenset()


def test_what_observing_would_have_refused_is_told(compiled):
    """Of a target that observes, and of a key."""
    asked = {"action": Action.REFUSE, "enforcement": Enforcement.OBSERVE}
    decision = policy_of(compiled(target(**asked))[1]).decide([detection("moreau")])
    policy = policy_of(compiled(target(action=Action.REFUSE))[1])
    scope = KeyScope(enforcement=Enforcement.OBSERVE)

    assert (decision.verdict, decision.refusing) == (Verdict.ALLOW, {"moreau"})
    assert policy.decide([detection("moreau")], scope).refusing == {"moreau"}


def test_phrases_tell_whose_they_are(compiled):
    """Units of targets and of items lead back to the target, in whatever order they were built."""
    first, second = target(), replace(target(), id="other", examples=target().examples * 2)
    bare = ForgetTarget("bare", phrases=(Phrase("Port Sorrel"),))
    policy = policy_of(compiled(first, bare, second)[1])
    units = {rule.id: rule for rule in policy._rules.values()}
    owned = {
        (is_target, unit): policy._owner(unit, is_target=is_target)
        for is_target, units_ in ((True, 3), (False, len(policy._item_phrases)))
        for unit in range(units_)
    }

    assert all(owned[True, rule.unit] == name for name, rule in units.items())
    items = [owned[False, n] for n in range(len(policy._item_phrases))]
    # Each item has a unit for weak and one for faint evidence.
    assert items.count(first.id) == 2 * len(first.examples)
    assert items.count("other") == 2 * len(second.examples)
    names = policy.watches(ALL_TARGETS).enforced
    assert set(names.owners("ilse moreau")) == {first.id, "other"}


def test_observed_targets_change_nothing(compiled):
    """Observe mode records what would have happened."""
    policy = policy_of(compiled(target(enforcement=Enforcement.OBSERVE))[1])
    decision = policy.decide([detection("moreau")])

    assert decision.verdict is Verdict.ALLOW
    assert len(decision.observed) == 1
    assert not policy.enforces_for(ALL_TARGETS)


def test_names_of_enforced_targets_are_watched(compiled):
    """Every answer is searched for names; those of observed targets are kept apart."""
    enforced = policy_of(compiled(target())[1])
    observed = policy_of(compiled(target(enforcement=Enforcement.OBSERVE))[1])

    assert enforced.watches(ALL_TARGETS).enforced.find("It was ILSE  MOREAU, of course.")
    assert enforced.watches(ALL_TARGETS).enforced.find("It was a florist.") is None
    assert observed.watches(ALL_TARGETS).observed.find("Ilse Moreau")
    assert not observed.watches(ALL_TARGETS).enforced
    assert not enforced.watches(ALL_TARGETS).observed


def test_always_on_targets_steer_every_request(compiled):
    """Scope always needs no detection."""
    policy = policy_of(compiled(target(scope=Scope.ALWAYS))[1])
    decision = policy.decide(classify(policy, "How do I cook rice?"))

    assert (decision.verdict, decision.targets) == (Verdict.STEER, (0,))
