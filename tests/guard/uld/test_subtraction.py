"""The filter and the subtraction, and decoding with them."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from guard.uld.assistant import load_first_layers, load_model, load_tokenizer
from guard.uld.batch import answer_all
from guard.uld.lessons import LessonEncoder
from guard.uld.reference import Reference, Subtracted
from guard.uld.subtracting import Ready, Recall, Recalls, take_off
from guard.uld.subtraction import possible, subtract

FAMILIES = ["llama", "qwen2", "qwen3", "mistral", "gemma2", "gemma3_text"]
LOGITS = st.lists(st.floats(-50, 50, width=32), min_size=2, max_size=40)


@given(LOGITS, st.floats(0.01, 1.0))
def test_the_filter_keeps_what_the_paper_keeps(values, rate):
    """Tokens within -ln r of the best, and the floor(r * vocabulary) best whatever they are."""
    logits = torch.tensor(values)
    kept = possible(logits, rate)
    floor = int(rate * len(values))
    near = logits >= logits.max() + math.log(rate)
    ranked = logits.argsort(descending=True)

    assert kept[near].all()
    assert kept[ranked[:floor]].all()
    assert int(kept.sum()) >= max(1, floor)
    least = logits[ranked[max(0, floor - 1)]]
    assert not kept[(logits < least) & ~near].any()


def test_masked_tokens_cannot_win():
    """The authors' multiplication by a mask gives them 0, more than every other here."""
    logits = torch.tensor([[-1.0, -2.0, -30.0]])
    found = subtract(logits, torch.tensor([[5.0, 0.0, -90.0]]), 0.1)

    assert found.tolist() == [[-6.0, -2.0, -math.inf]]


def test_minus_infinity_stays():
    """What a grammar forbids is not raised."""
    logits = torch.tensor([[1.0, -math.inf, 0.5, -math.inf]])
    found = subtract(logits, torch.full((1, 4), -7.0), 1.0)

    assert found.tolist() == [[8.0, -math.inf, 7.5, -math.inf]]


class Said:
    """Stands for a decoder: what it recalls is given, row by row."""

    def __init__(self, logits):
        self.logits = logits

    def step(self, seats, newest, lengths):
        return self.logits[newest]


@pytest.mark.parametrize("strided", [False, True])
@pytest.mark.parametrize("order", [[0, 1, 2, 3], [5, 1, 4, 0]])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rate", [0.02, 1.0])
def test_rows_in_place(order, dtype, strided, rate):
    """By a compiled loop or by torch: what `subtract` gives, other rows untouched."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(6, 300, generator=generator) * 8
    logits[order[0], ::7] = -math.inf
    said = [torch.randn(4, 300, generator=generator).to(dtype) for _ in range(2)]
    first, second = map(Said, said)
    kinds = [([(first, 1.5)], rate), ([(second, 0.5)], rate), ([(first, 2.0), (second, 0.7)], 0.1)]
    ready, wanted = [], logits.clone()
    for place, row in enumerate(order):
        members, r = kinds[place % 3]
        recalls = Recalls([Recall(decoder, weight) for decoder, weight in members], r)
        ready.append(Ready(row, recalls, 1))
        taken = sum(weight * decoder.logits[place].float() for decoder, weight in members)
        wanted[row] = subtract(logits[row], taken, r)
    found = torch.empty(6, 600)[:, ::2] if strided else torch.empty(6, 300)
    found.copy_(logits)
    take_off(found, ready, torch.arange(4))

    assert torch.equal(found.isneginf(), wanted.isneginf())
    assert torch.allclose(found, wanted, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_batches_decode_as_the_reference_does(tmp_path, make_model, family):
    """Greedy, token for token, whatever the batch; rows with weight 0 are plain."""
    folder = make_model(tmp_path, family)
    target, assistant = load_model(folder), load_first_layers(folder, 2)
    encoder = LessonEncoder(load_tokenizer(folder))
    texts = ["Who?", "Where was Orla Fenwick born?", "What did Tomas Quill write in Harrow?"]
    prompts = [encoder.prompt_ids(text) for text in texts] * 2
    weights = [0.5, 2.0, 0.0, 0.0, 0.5, 2.0]
    found = answer_all(
        target,
        prompts,
        max_tokens=16,
        end_ids={1},
        assistant=assistant,
        weights=weights,
        rate=0.05,
    )

    for prompt, weight, answer in zip(prompts, weights, found, strict=True):
        assistants = [Subtracted(assistant, weight)] if weight else []
        reference = Reference(target, assistants, 0.05)
        wanted = reference.generate(prompt, max_tokens=16, end_ids={1})
        assert answer == [token for token in wanted if token != 1]
    assert found[0] != found[3]


def test_sampling_follows_the_subtracted_distribution(base):
    """Frequencies of 500 draws against the probabilities (chi-squared, tokens above 2 %)."""
    target, assistant = load_model(base), load_first_layers(base, 2)
    reference = Reference(target, [Subtracted(assistant, 1.0)], 0.05)
    prompt = [5, 6, 7]
    chances = torch.softmax(reference.logits(prompt) / 0.7, dim=-1)
    generator = torch.Generator().manual_seed(0)
    draws = [
        reference.generate(prompt, max_tokens=1, end_ids=(), temperature=0.7, generator=generator)[
            0
        ]
        for _ in range(500)
    ]
    counts = torch.bincount(torch.tensor(draws), minlength=len(chances)).double()
    common = chances > 0.02
    wanted = chances[common].double() * len(draws)
    statistic = float(((counts[common] - wanted) ** 2 / wanted).sum())

    assert int(common.sum()) >= 3
    assert statistic < int(common.sum()) + 4 * math.sqrt(2 * int(common.sum()))
    assert not counts[chances == 0].any()
