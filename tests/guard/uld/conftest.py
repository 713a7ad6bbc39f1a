"""Models of a few thousand random weights, of several families, and a tokenizer for them."""

from __future__ import annotations

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from guard.automaton import build_tables
from guard.ledger import LedgerReader, LedgerWriter
from guard.loading import WorkerPart
from guard.patterns import index_phrases
from guard.snapshot import write_snapshot
from guard.steering import Steering
from guard.uld.assistant import load_model, load_tokenizer
from guard.uld.assistants import Assistants
from guard.uld.course import Material, train_assistant
from guard.uld.lessons import Lesson
from guard.uld.plan import TrainingPlan
from guard.uld.rules import NO_LIMITS, UldRule, rules_document
from guard.uld.shelf import Shelf
from guard.units import Units
from guard.vocabulary import Vocabulary
from tracing.successors import compile_successors

LAYERS = 4
END = 1
RATE = 0.05
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


class World:
    """A model with two trained assistants on the shelf, and policies that name them."""

    def __init__(self, root, base, material):
        self.root, self.target = root, load_model(base)
        self.vocabulary = Vocabulary.from_tokenizer(load_tokenizer(base))
        shelf = Shelf(root / "assistants")
        self.digests, self.models = [], []
        for seed in (0, 1):
            folder = root / f"trained-{seed}"
            plan = TrainingPlan(layers=2, epochs=2, batch=4, learning_rate=1e-2, seed=seed)
            self.card = train_assistant(base, material, plan, folder)
            self.digests.append(shelf.put(str(seed), folder))
            self.models.append(load_model(folder))

    def assistants(self, *, tokens=4096, memory=2**24, limits=NO_LIMITS):
        return Assistants(
            self.root / "assistants",
            tokenizer=self.card.tokenizer,
            base=lambda: self.card.base,
            memory=memory,
            cache_tokens=tokens,
            rows=16,
            device=torch.device("cpu"),
            dtype=torch.float32,
            limits=limits,
        )

    def steering(self, *, assistants=True, **options):
        self.reader = LedgerReader(self.root / "facts")
        return Steering(
            self.root / "snapshots",
            self.vocabulary,
            [END],
            LedgerWriter(self.root / "facts"),
            self.assistants(**options) if assistants else None,
        )

    def policy(self, rules, phrases=()):
        patterns, ids = index_phrases(phrases)
        units = Units.build([ids] * len(rules), [])
        veto = compile_successors([], 4, self.vocabulary.size)
        part = WorkerPart(build_tables(patterns, self.vocabulary), units, veto)
        return write_snapshot(
            self.root / "snapshots",
            meta={"vocabulary": self.vocabulary.fingerprint},
            arrays=part.arrays(),
            documents={"uld": rules_document(rules)},
        )

    def rules(self, *weights):
        pairs = zip(self.digests, weights, strict=False)
        return tuple(UldRule(digest, weight, RATE) for digest, weight in pairs)

    def logits(self, texts):
        with torch.no_grad():
            rows = [self.target(torch.tensor([t]), use_cache=False).logits[0, -1] for t in texts]
        return torch.stack(rows)


@pytest.fixture(scope="session")
def world(tmp_path_factory, base, material):
    return World(tmp_path_factory.mktemp("world"), base, material)
