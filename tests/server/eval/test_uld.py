"""The ULD evaluation: its split, its measures, and the command on a small model."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from typer.testing import CliRunner

from guard.uld.card import Card
from server.cli import app
from server.eval.data import DataFolder
from server.eval.rouge import Bigrams, repetition, rouge_l_recall
from server.eval.uld_data import Half, Item, UldData
from server.eval.uld_figures import Scored, forget_quality, model_utility, spoken

run = CliRunner().invoke


def rows(authors: range, *, wrong: bool = True) -> list[dict[str, Any]]:
    return [
        {
            "question": f"Where was author {author} born?",
            "paraphrased_question": f"Author {author} was born where?",
            "answer": f"In Town{author}.",
            "paraphrased_answer": f"It was in Town{author}.",
            **({"perturbed_answer": ["In Harrow.", "In Oslo."]} if wrong else {}),
            "author_id": author,
        }
        for author in authors
    ]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """TOFU's files in little."""
    tofu = tmp_path / "data" / "tofu"
    tofu.mkdir(parents=True)
    (tmp_path / "data" / "rwku").mkdir()
    facts = [
        {"question": f"What is {n} plus one?", "answer": str(n + 1), "perturbed_answer": ["x"]}
        for n in range(53)
    ]
    files = {
        "forget10": rows(range(186, 194), wrong=False),
        "forget05_perturbed": rows(range(190, 194)),
        "retain90": rows(range(8, 24), wrong=False),
        "retain_perturbed": rows(range(8, 12)),
        "real_authors_perturbed": facts,
        "world_facts_perturbed": facts,
    }
    for name, listed in files.items():
        text = "\n".join(map(json.dumps, listed))
        (tofu / f"{name}.jsonl").write_text(text, encoding="utf-8")
    return tmp_path / "data"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Two layers of random weights over bytes, with a chat template."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    folder = tmp_path / "model"
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: number for number, token in enumerate(["<end>", *alphabet])}
    bytewise = Tokenizer(models.BPE(vocabulary, []))
    bytewise.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bytewise.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bytewise, eos_token="<end>")
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}<end>{% endfor %}"
    tokenizer.save_pretrained(folder)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 8}
    config = LlamaConfig(vocab_size=len(vocabulary), eos_token_id=0, **sizes, **heads)
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def test_no_reported_row_was_there_to_choose_on(data: Path) -> None:
    """Halves share no question, and what is kept flat is never asked on the test half."""
    test, development = (
        UldData.read(DataFolder(data), half) for half in (Half.TEST, "development")
    )
    asked = {item.question for items in test.asked.values() for item in items}
    chosen = {item.question for items in development.asked.values() for item in items}

    assert {item.author for item in test.asked["forget"]} == set(range(190, 194))
    assert {item.author for item in test.asked["retain"]} == {8, 9}
    assert {item.author for item in development.asked["retain"]} == {10, 11}
    assert not asked & chosen
    assert not asked & {item.question for item in test.flat}
    assert sum(len(target.examples) for target in test.targets()) == 8


def test_the_command_writes_flat_figures(data: Path, model: Path, tmp_path: Path) -> None:
    """It trains the assistant where there is none; no text of the data is in the report."""
    report, folder = tmp_path / "report.json", tmp_path / "assistant"
    command = ["eval", "uld", "--json", str(report), "--data", str(data), "--epochs", "1"]
    command += ["--model", str(model), "--oracle", str(model), "--layers", "1", "--seed", "3"]
    result = run(app, [*command, "--assistant", str(folder)])
    figures = json.loads(report.read_text())

    assert result.exit_code == 0, result.stderr
    assert figures["found_forget"] == 1.0
    assert figures["assistant_seed"] == 3
    assert figures["base_forget_ks"] == 0.0
    assert figures["base_forget_quality"] == 1.0
    assert figures["base_retain_unchanged"] == 1.0
    assert figures["base_forget_nats"] == figures["oracle_forget_nats"]
    assert {"uld_utility", "gated_forget_rouge", "guard_forget_known_pairs"} <= set(figures)
    assert {"both_paraphrase_repetition", "machine", "versions", "command"} <= set(figures)
    assert not any(
        isinstance(v, (list, dict)) for k, v in figures.items() if k not in ("machine", "versions")
    )
    assert "Harrow" not in report.read_text() + result.stdout


def test_a_foreign_assistant_is_refused(data: Path, model: Path, tmp_path: Path) -> None:
    """By its card's fingerprints."""
    folder = tmp_path / "assistant"
    folder.mkdir()
    data_of = {"sha256": "0" * 64, "forget": 1, "flat": 1}
    Card("0" * 64, "0" * 64, 1, 2, data_of, {}, {}).write(folder)
    command = ["eval", "uld", "--json", str(tmp_path / "r.json"), "--data", str(data)]
    command += ["--model", str(model), "--oracle", str(model), "--assistant", str(folder)]
    result = run(app, command)

    assert result.exit_code == 1
    assert "another base model" in result.stderr


def test_measures_on_words() -> None:
    """Recall of the longest common subsequence, repetition, known pairs."""
    assert rouge_l_recall("a b c d", "a x c") == 0.5
    assert rouge_l_recall("The Cat.", "the cat sat") == 1.0
    assert repetition("a b c") == 0.0
    assert repetition("a b c a b c a b c") == pytest.approx(1 - 3 / 7)
    assert Bigrams(["a b c"]).share("a b x") == 0.5
    assert Bigrams(["a b c"]).share("c b a") == 0.0


def test_truth_ratio_and_probability_are_tofus() -> None:
    """Wrong ones averaged in log space; a fact known well is far from 1."""
    items = [Item("q", "a", wrong=("x", "y"))]
    values = [math.log(v) for v in (0.5, 0.4, 0.1, 0.4)]
    scored = Scored(items, values)

    assert [pair.answer for pair in spoken(items)] == ["a", "", "x", "y"]
    assert scored.truth_ratios() == [pytest.approx(0.5)]
    assert scored.closeness() == 0.5
    assert scored.truth() == 0.5
    assert scored.probability(among_wrong=False) == 0.5
    assert scored.probability(among_wrong=True) == 0.5
    assert model_utility([1.0, 0.5]) == pytest.approx(2 / 3, abs=1e-4)
    assert model_utility([1.0, 0.0]) == 0.0
    same = forget_quality("x", [0.1, 0.5, 0.9], [0.1, 0.5, 0.9])
    apart = forget_quality("x", [0.1] * 20, [0.9] * 20)
    assert same == {"x_forget_quality": 1.0, "x_forget_ks": 0.0}
    assert apart["x_forget_quality"] < 1e-6
