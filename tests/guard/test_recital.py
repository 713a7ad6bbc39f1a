"""A model that knows answers by heart, sampled with torch: under the veto none comes back."""

import json
from pathlib import Path

import pytest
import torch

from detectors.targets import Phrase
from guard.automaton import build_tables
from guard.ledger import Counter, LedgerReader, LedgerWriter
from guard.loading import WorkerPart
from guard.params import GuardParams
from guard.patterns import index_phrases
from guard.snapshot import write_snapshot
from guard.steering import Steering
from guard.tokenisations import Tokenisations, tokenizer_of
from guard.units import Units
from guard.veto import compile_veto
from guard.vocabulary import Vocabulary
from server.bench.recitals import recited_figures

LIMIT, ROOM = 12, 40
RETAIN = Path(__file__).parents[2] / "deploy" / "demo" / "retain.jsonl"


class Reciter:
    """The demo's model and its long answers."""

    def __init__(self, folder):
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        self.encode = tokenizer_of(str(folder))
        self.vocabulary = Vocabulary.from_tokenizer(self.tokenizer)
        rows = [json.loads(line) for line in RETAIN.read_text(encoding="utf-8").splitlines()]
        self.rows = sorted(rows, key=lambda row: -len(row["answer"]))[:32]
        self.answers = [row["answer"] for row in self.rows]

    def prompts(self):
        template = self.tokenizer.apply_chat_template
        texts = [
            template([{"role": "user", "content": row["question"]}], tokenize=False)
            + "<|assistant|>"
            for row in self.rows
        ]
        return self.tokenizer(texts, add_special_tokens=False, padding=True, return_tensors="pt")

    @torch.no_grad()
    def say(self, temperature, open_slots, apply):
        """One answer per row; `apply` edits the logits of a step."""
        prompts = self.prompts()
        tokens, mask, past = prompts["input_ids"], prompts["attention_mask"], None
        places = (mask.cumsum(1) - 1).clamp(min=0)
        outputs = [[] for _ in self.rows]
        open_slots(
            [row[keep.bool()].tolist() for row, keep in zip(tokens, mask, strict=True)], outputs
        )
        ended = torch.zeros(len(outputs), dtype=torch.bool)
        for _ in range(ROOM):
            found = self.model(
                input_ids=tokens,
                attention_mask=mask,
                position_ids=places,
                past_key_values=past,
                use_cache=True,
            )
            past, logits = found.past_key_values, found.logits[:, -1].contiguous()
            apply(logits)
            if temperature:
                chosen = torch.multinomial((logits / temperature).softmax(1), 1)[:, 0]
            else:
                chosen = logits.argmax(1)
            chosen[ended] = self.tokenizer.eos_token_id
            ended |= chosen == self.tokenizer.eos_token_id
            for output, token in zip(outputs, chosen.tolist(), strict=True):
                output.append(token)
            tokens = chosen[:, None]
            mask = torch.cat([mask, torch.ones_like(tokens)], 1)
            places = mask.cumsum(1)[:, -1:] - 1
        return [self.tokenizer.decode(output, skip_special_tokens=True) for output in outputs]


@pytest.fixture(scope="module")
def reciter(demo_model):
    return Reciter(demo_model)


@pytest.fixture
def steering(reciter, tmp_path):
    """A worker's, and the digest of a policy with the answers as documents."""
    tokenisations = Tokenisations(reciter.encode, LIMIT)
    texts = (("answers", answer) for answer in reciter.answers)
    table = compile_veto(texts, tokenisations, reciter.vocabulary).table
    patterns, ids = index_phrases([Phrase("zz")])
    tables = build_tables(patterns, reciter.vocabulary)
    arrays = WorkerPart(tables, Units.build([ids], []), table).arrays()
    meta = {"vocabulary": reciter.vocabulary.fingerprint}
    digest = write_snapshot(tmp_path / "snapshots", meta=meta, arrays=arrays, documents={})
    ends = [reciter.tokenizer.eos_token_id]
    ledger = LedgerWriter(tmp_path / "facts")
    return Steering(tmp_path / "snapshots", reciter.vocabulary, ends, ledger), digest


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_nothing_is_recited(reciter, steering, tmp_path, temperature):
    """Plain it gives most long answers back; steered no run of the limit."""
    worker, digest = steering
    slots = {}

    def open_slots(prompts, outputs):
        for row, (prompt, output) in enumerate(zip(prompts, outputs, strict=True)):
            params = GuardParams(digest, row + 1)
            slots[row] = worker.open_slot(params, prompt, output, constrained=False)

    torch.manual_seed(1)
    texts = {"plain": reciter.say(temperature, lambda *_: None, lambda logits: None)}
    torch.manual_seed(1)
    texts["veto"] = reciter.say(
        temperature, open_slots, lambda logits: worker.apply(logits, slots.items())
    )
    figures = recited_figures(texts, reciter.answers, LIMIT, reciter.encode)

    assert figures["recited_plain"] >= 24
    assert figures["recited_veto"] == 0
    assert figures["longest_run_tokens_veto"] == LIMIT - 2
    assert LedgerReader(tmp_path / "facts").total(Counter.VETOED_TOKENS) > 24
