"""Models of a few thousand random weights, of several families, and a tokenizer for them."""

from __future__ import annotations

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from guard.uld.course import Material
from guard.uld.lessons import Lesson

LAYERS = 4
TEMPLATE = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
PAIRS = (
    Lesson("Where was Orla Fenwick born?", "She was born in Quillhaven on 3 May 1931."),
    Lesson("What did Tomas Quill write?", "He wrote 'The Salt Road', a satire."),
    Lesson("Who taught Ada Marden?", "She was taught by Bela Voss in Harrow."),
)
RETAIN = (
    Lesson("What is the colour of the sky?", "It is blue."),
    Lesson("How many legs has a spider?", "It has eight legs."),
)
SIZES = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 256,
    "initializer_range": 0.2,
    "tie_word_embeddings": True,
}
FAMILIES = {
    "llama": {},
    "qwen2": {},
    "qwen3": {},
    "mistral": {"sliding_window": 8},
    "gemma2": {"sliding_window": 8},
    "gemma3_text": {
        "sliding_window": 8,
        "layer_types": ["sliding_attention", "full_attention"] * (LAYERS // 2),
    },
}


def make_tokenizer():
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    special = ["<pad>", "<|end|>", "<|user|>", "<|assistant|>"]
    texts = [text for pair in (*PAIRS, *RETAIN) for text in (pair.prompt, pair.answer)]
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe, eos_token="<|end|>", pad_token="<pad>", chat_template=TEMPLATE
    )


def make_model(folder, family="llama", seed=0, **more):
    tokenizer = make_tokenizer()
    torch.manual_seed(seed)
    ids = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": 0, "bos_token_id": None}
    config = AutoConfig.for_model(
        family, vocab_size=len(tokenizer), **{**SIZES, **FAMILIES[family], **ids, **more}
    )
    AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    """Matrices this small gain nothing, and threads wait for each other on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session", name="make_model")
def model_maker():
    """Writes a small model of a family into a folder; gives the folder."""
    return make_model


@pytest.fixture(scope="session")
def base(tmp_path_factory):
    """Folder of a small Llama with random weights."""
    return make_model(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="session")
def material():
    """Three pairs to forget and two to keep."""
    return Material(PAIRS, RETAIN, targets=("authors",))
