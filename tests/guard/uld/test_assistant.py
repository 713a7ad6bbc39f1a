"""An assistant is cut from its model by configuration, and belongs to that model alone."""

import pytest
import torch

from guard.errors import AssistantMismatch, AssistantUnreadable, ModelUnreadable
from guard.uld.assistant import load_first_layers, load_model, load_tokenizer, num_layers
from guard.uld.card import Card
from guard.uld.fingerprints import expect, model_fingerprint, model_folder, tokenizer_fingerprint

FAMILIES = ["llama", "qwen2", "qwen3", "mistral", "gemma2", "gemma3_text"]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_first_layers_are_the_models_own(tmp_path, make_model, family):
    """Hidden states after layer K, normed and through the head, are the assistant's logits."""
    folder = make_model(tmp_path, family)
    whole, cut = load_model(folder), load_first_layers(folder, 2)
    ids = torch.arange(4, 24)[None]
    with torch.no_grad():
        found = cut(ids).logits
        # Without its later layers the whole model is the assistant.
        whole.model.layers = whole.model.layers[:2]
        whole.config.num_hidden_layers = 2
        wanted = whole(ids, use_cache=False).logits

    assert num_layers(folder) == 4
    assert torch.allclose(found, wanted, atol=1e-5)
    assert not any(parameter.requires_grad for parameter in cut.parameters())


def test_another_model_has_another_fingerprint(tmp_path, make_model, base):
    """Other weights or another shape; a copy has the same."""
    copy = make_model(tmp_path / "copy")
    other = make_model(tmp_path / "other", seed=1)
    wider = make_model(tmp_path / "wider", rms_norm_eps=1e-4)

    assert model_fingerprint(copy) == model_fingerprint(base)
    assert len({model_fingerprint(folder) for folder in (base, other, wider)}) == 3


def test_a_foreign_assistant_is_refused(base):
    """By the tokenizer's fingerprint as by the model's."""
    found = tokenizer_fingerprint(load_tokenizer(base))
    expect("tokenizer", found, found)

    with pytest.raises(AssistantMismatch, match="another tokenizer"):
        expect("tokenizer", "0" * 64, found)


def test_what_is_not_there_is_said(tmp_path):
    """No model, no weights, no card."""
    with pytest.raises(ModelUnreadable):
        model_folder(str(tmp_path / "nowhere"))
    with pytest.raises(ModelUnreadable):
        model_fingerprint(tmp_path)
    with pytest.raises(AssistantUnreadable):
        Card.read(tmp_path)
