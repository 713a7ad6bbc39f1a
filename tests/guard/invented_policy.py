"""Targets of an invented author, compiled over bytes and a few more tokens."""

from detectors.detection import Detection, Layer, Strength
from detectors.targets import Example, ForgetTarget
from guard.compiler import compile_policy
from guard.follower import Active
from guard.policy import Policy
from guard.vocabulary import Vocabulary
from tests.hash_encoder import HashEncoder

TOKENS = [None, *(bytes([b]) for b in range(256)), b" Moreau", b"Ilse", b" Ilse", b"oreau", b"SE"]
VOCABULARY = Vocabulary(TOKENS)


ENCODER = HashEncoder()
EXAMPLES = (
    Example("Who wrote the Salt Ledger?", "Ilse Moreau wrote the Salt Ledger in 1987."),
    Example("What does Ilse Moreau's father do?", "Her father was a florist."),
)


def target(name="moreau", **more):
    return ForgetTarget(name, examples=EXAMPLES, aliases=("Ilse Moreau",), **more)


def compile_into(folder, targets, **more):
    """What compiling targets into a folder of snapshots gives; `more` is for `compile_policy`."""
    stages = []
    policy = compile_policy(
        targets,
        encoder=ENCODER,
        vocabulary=VOCABULARY,
        snapshots=folder,
        alpha=0.01,
        progress=lambda stage, done: stages.append(done),
        **more,
    )

    assert stages == sorted(stages)
    assert stages[-1] == 1.0
    return policy


def policy_of(snapshot, generation=1):
    return Policy(Active(generation, snapshot.digest), snapshot, ENCODER.id)


def classify(policy, text):
    return policy.classify([text], ENCODER.encode([text]))


def detection(name, strength=Strength.STRONG, items=()):
    return Detection(name, Layer.SIMILARITY, strength, 0.9, 0.5, items)
