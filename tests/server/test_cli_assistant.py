"""`lethegate assistant train` on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from server.cli import app

run = CliRunner().invoke


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Matrices this small gain nothing from more."""
    torch.set_num_threads(1)


@pytest.fixture
def model(byte_model: Path) -> Path:
    """Two layers of random weights over bytes."""
    return byte_model


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """A target with two examples."""
    pairs = [("Where was Orla born?", "In Quillhaven."), ("Who is she?", "A writer, Orla Voss.")]
    document = {"id": "orla", "examples": [{"prompt": p, "answer": a} for p, a in pairs]}
    path = tmp_path / "orla.json"
    path.write_text(json.dumps(document), encoding="utf-8")
    return path


def command(target: Path, model: Path, out: Path, *more: str) -> list[str]:
    options = ["--model", str(model), "--out", str(out), "--device", "cpu", "--layers", "1"]
    return ["assistant", "train", str(target), *options, "--epochs", "2", *more]


def test_it_trains_from_a_target_in_a_file(tmp_path: Path, target: Path, model: Path) -> None:
    """Folder, card and figures; no word of the target is told."""
    retain = tmp_path / "retain.jsonl"
    retain.write_text('{"question": "How many?", "answer": "Eight."}\n', encoding="utf-8")
    out = tmp_path / "out"
    result = run(app, command(target, model, out, "--retain", str(retain), "--augment", "model"))
    card = json.loads((out / "card.json").read_text())

    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["assistant"] == str(out)
    assert card["targets"] == ["orla"]
    assert card["data"]["forget"] == 2 + 2 * 2
    assert {f.name for f in out.iterdir()} >= {"model.safetensors", "log.jsonl", "loss.svg"}
    assert "Quillhaven" not in result.stdout + result.stderr


def test_the_operators_augmentation_is_taken(tmp_path: Path, target: Path, model: Path) -> None:
    """In place of templates."""
    rows = tmp_path / "more.jsonl"
    row = {"prompt": "Where was Orla born?", "answer": "In Quillhaven."}
    row |= {"paraphrases": ["Orla was born where?"], "perturbed": ["In Harrow."]}
    row |= {"stand_in": "That I do not know."}
    rows.write_text(json.dumps(row), encoding="utf-8")
    out = tmp_path / "out"
    more = ["--augmentation", str(rows), "--no-own-answers"]
    result = run(app, command(target, model, out, *more))

    assert result.exit_code == 0, result.stderr
    assert json.loads((out / "card.json").read_text())["data"] | {"sha256": ""} == {
        "sha256": "",
        "forget": 3,
        "flat": 1,
        "stand_ins": 2 + 1,
    }


def test_the_model_finds_stand_ins_itself(tmp_path: Path, target: Path, model: Path) -> None:
    """One for each example and each of its rewordings."""
    out = tmp_path / "out"
    result = run(app, command(target, model, out, "--stand-ins", "model", "--no-own-answers"))

    assert result.exit_code == 0, result.stderr
    assert json.loads((out / "card.json").read_text())["data"]["stand_ins"] == 2 + 2 * 2
    assert "stand_in" in json.loads(result.stdout)


@pytest.mark.parametrize(
    ("more", "said", "status"),
    [
        (["--layers", "2"], "layers must be in 1..1", 1),
        (["--weights", "some"], "--weights", 2),
        (["--stand-ins", "some"], "--stand-ins", 2),
        (["--retain", "nowhere.jsonl"], "cannot read", 2),
        (["--model", "/nowhere/at/all"], "there is no model", 1),
    ],
)
def test_what_cannot_be_is_one_line(
    tmp_path: Path, target: Path, model: Path, more: list[str], said: str, status: int
) -> None:
    """Nothing is written."""
    out = tmp_path / "out"
    result = run(app, command(target, model, out, *more))

    assert result.exit_code == status
    assert said in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert not out.exists()


def test_a_damaged_target_is_named_by_its_field(tmp_path: Path, target: Path, model: Path) -> None:
    """Never by what it says."""
    target.write_text('{"id": "orla", "examples": [{"prompt": "Quillhaven?"}]}', encoding="utf-8")
    result = run(app, command(target, model, tmp_path / "out"))

    assert result.exit_code == 2
    assert "examples[0].answer" in result.stderr
    assert "Quillhaven" not in result.stderr
