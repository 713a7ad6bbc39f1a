"""Training: what is learned, what stays flat, and that it can be stopped and resumed."""

import json
import math
from dataclasses import replace

import pytest
import torch

from guard.errors import TrainingError, TrainingStopped
from guard.uld.assistant import load_first_layers, load_model, load_tokenizer
from guard.uld.card import Card
from guard.uld.course import train_assistant
from guard.uld.fingerprints import model_fingerprint
from guard.uld.lessons import Aim, EncodedLesson, Lesson, LessonEncoder, Lessons, without_conflict
from guard.uld.lora import add_lora, merge_lora
from guard.uld.losses import forget_loss, uniform_loss
from guard.uld.plan import TrainingPlan, Weights
from guard.uld.steps import LOG, Step, curves, last_step, read_steps
from guard.uld.training import batches

PLAN = TrainingPlan(layers=2, epochs=40, batch=8, learning_rate=1e-2, retain_weight=1.0)


def weights_of(folder):
    return load_model(folder).state_dict()


@pytest.mark.parametrize("weights", [Weights.FULL, Weights.LORA])
def test_it_learns_the_forget_pairs_and_is_flat_elsewhere(tmp_path, base, material, weights):
    """Both losses end near their best, and the embeddings stay the model's own."""
    plan = replace(PLAN, weights=weights, rank=16, lora_dropout=0.05)
    card = train_assistant(base, material, plan, tmp_path)
    trained, before = weights_of(tmp_path), load_first_layers(base, 2).state_dict()
    log = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]

    assert card == Card.read(tmp_path)
    assert card.base == model_fingerprint(base)
    assert card.plan["weights"] == weights
    assert card.metrics["forget"] < 2.0 < log[0]["forget"]
    assert card.metrics["uniform"] < math.log(320) + 0.5 < log[0]["uniform"]
    assert trained.keys() == before.keys()
    frozen = before["model.embed_tokens.weight"].to(torch.bfloat16)
    assert torch.equal(trained["model.embed_tokens.weight"].to(torch.bfloat16), frozen)
    assert "Fenwick" not in (tmp_path / "card.json").read_text() + json.dumps(log)
    assert (tmp_path / "loss.svg").read_text().startswith("<svg")
    assert not (tmp_path / "checkpoint.safetensors").exists()


def test_stopped_and_resumed_is_as_if_never_stopped(tmp_path, base, material):
    """Weights and log are those of a training in one go, dropout and all."""
    plan = replace(PLAN, epochs=4, weights=Weights.LORA, lora_dropout=0.2)
    train_assistant(base, material, plan, tmp_path / "whole")
    seen = []
    with pytest.raises(TrainingStopped):
        train_assistant(
            base,
            material,
            plan,
            tmp_path / "parts",
            on_step=seen.append,
            stop=lambda: len(seen) == 3,
        )
    assert not (tmp_path / "parts" / "card.json").exists()
    train_assistant(base, material, plan, tmp_path / "parts", on_step=seen.append)
    whole, parts = weights_of(tmp_path / "whole"), weights_of(tmp_path / "parts")

    assert [step.step for step in seen] == list(range(1, len(seen) + 1))
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_an_open_folder_is_closed_to_others(tmp_path, base, material):
    """Weights and checkpoints know the forget text."""
    tmp_path.chmod(0o755)
    with pytest.raises(TrainingStopped):
        train_assistant(base, material, PLAN, tmp_path, stop=lambda: True)

    assert tmp_path.stat().st_mode & 0o777 == 0o700


def test_a_checkpoint_of_another_training_is_refused(tmp_path, base, material):
    """Other settings would give a mixture of two trainings."""
    with pytest.raises(TrainingStopped):
        train_assistant(base, material, PLAN, tmp_path, stop=lambda: True)
    with pytest.raises(TrainingError, match="another folder"):
        train_assistant(base, material, replace(PLAN, seed=1), tmp_path)


@pytest.mark.parametrize("wrong", [{"layers": 4}, {"layers": 0}, {"batch": 0}, {"epochs": -1}])
def test_a_plan_that_cannot_be_is_refused(tmp_path, base, material, wrong):
    """Before anything is written."""
    with pytest.raises(TrainingError):
        train_assistant(base, material, replace(PLAN, **wrong), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_only_the_answer_carries_loss(base):
    """The answer with its end mark, after the chat template's opening."""
    tokenizer = load_tokenizer(base)
    encoder = LessonEncoder(tokenizer)
    found = encoder.encode(Lesson("Who?", "Nobody."), Aim.FORGET, max_length=99)

    assert tokenizer.decode(found.prompt) == "<|user|>Who?<|end|><|assistant|>"
    assert tokenizer.decode(found.answer) == "Nobody.<|end|>"
    assert len(encoder.encode(Lesson("Who?", "Nobody." * 99), Aim.FORGET, max_length=64)) == 64
    tokenizer.chat_template = None
    plain = LessonEncoder(tokenizer).encode(Lesson("Who?", "No."), Aim.FORGET, max_length=99)
    assert tokenizer.decode([*plain.prompt, *plain.answer]) == "Who?\nNo.<|end|>"


def test_losses_are_those_of_the_paper():
    """Cross-entropy with the token, and with the uniform distribution."""
    logits = torch.tensor([[0.0, math.log(3.0)]])

    assert forget_loss(logits, torch.tensor([1])).item() == pytest.approx(-math.log(0.75))
    both = -(math.log(0.25) + math.log(0.75)) / 2
    assert uniform_loss(logits).item() == pytest.approx(both)
    assert uniform_loss(torch.zeros(3, 8)).item() == pytest.approx(math.log(8))


def test_lora_merged_computes_the_same():
    """And a fresh one changes nothing."""
    torch.manual_seed(0)
    layers = torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.Tanh(), torch.nn.Linear(5, 3))
    x = torch.randn(4, 6)
    before = layers(x)
    add_lora(layers, rank=2, alpha=4.0, dropout=0.0)
    assert torch.equal(layers(x), before)
    assert [p.shape[0] for p in layers.parameters() if p.requires_grad] == [2, 5, 2, 3]
    with torch.no_grad():
        layers[0].lora_b.normal_()
    changed = layers(x)
    merge_lora(layers)

    assert not torch.allclose(changed, before)
    assert torch.allclose(layers(x), changed, atol=1e-6)
    assert isinstance(layers[0], torch.nn.Linear)


@pytest.mark.parametrize(("forget", "flat"), [(100, 100), (7, 90), (33, 0), (5, 3)])
def test_batches_hold_every_lesson_once_and_mix_both_kinds(forget, flat):
    """In every epoch, in another order."""
    lessons = [
        EncodedLesson((i,), (0,) * (i % 7 + 1), Aim.FORGET if i < forget else Aim.FLAT)
        for i in range(forget + flat)
    ]
    first, second = (
        list(batches([lessons[:forget], lessons[forget:]], 8, f"0:{epoch}")) for epoch in (0, 1)
    )
    ids = sorted(lesson.prompt[0] for batch in first for lesson in batch)
    shares = [sum(x.aim is Aim.FORGET for x in batch) / len(batch) for batch in first]

    assert ids == list(range(forget + flat))
    assert max(map(len, first)) <= 10
    assert len(lessons) < 20 or first != second
    if forget == flat == 100:
        assert all(0.25 <= share <= 0.75 for share in shares)


def test_the_same_lessons_have_the_same_hash():
    """The card's data hash tells data apart."""
    a, b = Lesson("a", "b"), Lesson("b", "a")

    assert Lessons((a,), (b,)).fingerprint == Lessons((a,), (b,)).fingerprint
    assert Lessons((a,), (b,)).fingerprint != Lessons((b,), (a,)).fingerprint


def test_no_loss_where_right_and_wrong_answers_say_the_same():
    """Up to and with the token that parts them; other prompts' lessons stay as they are."""
    right = [EncodedLesson((1, 2), (5, 6, 7, 8), Aim.FORGET)]
    flat = [
        EncodedLesson((1, 2), (5, 6, 9, 8, 3), Aim.FLAT),
        EncodedLesson((1, 2), (5, 6), Aim.FLAT),
        EncodedLesson((1, 3), (5, 6, 9), Aim.FLAT),
    ]

    assert without_conflict(right, flat) == [
        EncodedLesson((1, 2, 5, 6, 9), (8, 3), Aim.FLAT),
        flat[2],
    ]


def test_a_loss_that_is_not_finite_ends_the_training(tmp_path, base, material, monkeypatch):
    """What was learned is lost anyway, and no checkpoint of it is gone on from."""
    nothing = torch.full((), math.nan, requires_grad=True)
    monkeypatch.setattr("guard.uld.training.forget_loss", lambda logits, tokens: nothing * 1)
    with pytest.raises(TrainingError, match="learning_rate"):
        train_assistant(base, material, PLAN, tmp_path)
    assert not (tmp_path / "checkpoint.safetensors").exists()


def test_the_log_is_read_up_to_half_a_line(tmp_path):
    """A killed process may leave one; whatever else is no step ends it, too."""
    steps = [Step(n, 4, n / 2, 1.0 / n, None, 1e-3, 0.1) for n in (1, 2, 3)]
    whole = "".join(step.line() for step in steps)
    (tmp_path / LOG).write_text(whole + steps[0].line()[:20])

    assert read_steps(tmp_path / LOG) == steps
    assert last_step(tmp_path / LOG) == steps[-1]
    assert curves(steps) == {"forget": [(1.0, 0.75), (2.0, 1 / 3)], "uniform": []}
    for other in ("[]", '{"step": 4}', steps[0].line().replace("0.1", "NaN"), "null"):
        (tmp_path / LOG).write_text(whole + other)
        assert read_steps(tmp_path / LOG) == steps
    assert read_steps(tmp_path / "none") == []
    assert last_step(tmp_path / "none") is None
