"""Registered assistants: immutable, verified, the owner's only, loaded within their memory."""

import shutil
from dataclasses import replace

import pytest
import torch

from guard.errors import AssistantError, AssistantFull, AssistantMismatch, AssistantUnreadable
from guard.uld.assistants import Assistants
from guard.uld.card import Card
from guard.uld.course import train_assistant
from guard.uld.plan import TrainingPlan
from guard.uld.rules import Registered
from guard.uld.shelf import Shelf

MIB = 2**20


@pytest.fixture(scope="module")
def trained(tmp_path_factory, base, material):
    """Folder of an assistant that was hardly trained."""
    folder = tmp_path_factory.mktemp("assistant")
    train_assistant(base, material, TrainingPlan(layers=2, epochs=1), folder)
    return folder


def assistants(folder, card, *, memory=MIB, base=None, tokens=256):
    return Assistants(
        folder,
        tokenizer=card.tokenizer,
        base=lambda: base or card.base,
        memory=memory,
        cache_tokens=tokens,
        rows=16,
        device=torch.device("cpu"),
        dtype=torch.float32,
    )


def test_a_copy_is_kept_under_its_digest(tmp_path, trained):
    """Readable by its owner only; two names may share one; the last takes it away."""
    shelf = Shelf(tmp_path / "shelf")
    digest = shelf.put("a", trained)

    assert shelf.put("b", trained) == digest
    assert shelf.names() == {"a": digest, "b": digest}
    assert {f.stat().st_mode & 0o077 for f in shelf.folder(digest).iterdir()} == {0}
    assert shelf.card(digest) == Card.read(trained)
    shelf.remove("a")
    assert shelf.folder(digest).is_dir()
    shelf.remove("b")
    with pytest.raises(AssistantUnreadable):
        shelf.folder(digest)
    assert [f.name for f in (tmp_path / "shelf").iterdir()] == ["names.json"]


def test_how_it_is_served_is_what_it_was_taught(tmp_path, trained):
    """With stand-ins as they were taught, else as without; of a damaged card nothing is known."""
    shelf = Shelf(tmp_path / "shelf")
    digest = shelf.put("a", trained)
    card = Card.read(trained)
    taught = tmp_path / "taught"
    shutil.copytree(trained, taught)
    replace(card, data={**card.data, "stand_ins": 3}).write(taught)
    other = shelf.put("b", taught)

    assert shelf.registered() == {"a": Registered(digest), "b": Registered(other, 1.0, 1.0)}
    (shelf.folder(other) / "card.json").write_text("{")
    assert shelf.registered()["b"] == Registered(other)


def test_damage_and_absence_are_found(tmp_path, trained):
    """Before a weight is used."""
    shelf = Shelf(tmp_path)
    digest = shelf.put("a", trained)
    weights = shelf.folder(digest) / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(AssistantUnreadable, match="damaged"):
        shelf.folder(digest)
    with pytest.raises(AssistantUnreadable):
        shelf.put("c", tmp_path)
    assert shelf.names() == {"a": digest}


def test_only_what_fits_is_loaded(tmp_path, trained):
    """No memory, too little, another base model: each is an error of its own."""
    card = Card.read(trained)
    digest = Shelf(tmp_path).put("a", trained)

    with pytest.raises(AssistantError, match="assistant_memory_gib"):
        assistants(tmp_path, card, memory=0).get(digest)
    with pytest.raises(AssistantFull, match="GiB"):
        assistants(tmp_path, card, memory=MIB // 16).get(digest)
    with pytest.raises(AssistantMismatch, match="base model"):
        assistants(tmp_path, card, base="0" * 64).get(digest)
    found = assistants(tmp_path, card)
    assert found.get(digest) is found.get(digest)


def test_a_new_policy_takes_the_memory_of_the_old(tmp_path, trained, base, material):
    """As soon as no request holds it."""
    card = Card.read(trained)
    second = tmp_path / "second"
    train_assistant(base, material, TrainingPlan(layers=2, epochs=1, seed=1), second)
    shelf = Shelf(tmp_path / "shelf")
    first, other = shelf.put("a", trained), shelf.put("b", second)
    both = assistants(tmp_path / "shelf", card)
    both.switch([first])
    held = both.get(first)
    both.switch([first, other])
    assert both.get(first) is held
    tight = assistants(tmp_path / "shelf", card, memory=int(0.3 * MIB))
    tight.switch([first])
    held = tight.get(first)
    with pytest.raises(AssistantFull):
        tight.switch([other])
    del held
    tight.switch([other])
