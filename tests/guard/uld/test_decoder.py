"""The decoder in slots gives what the models themselves give, whoever else is in the batch."""

import random

import pytest
import torch

from guard.errors import AssistantFull, AssistantUnreadable
from guard.uld.assistant import load_first_layers
from guard.uld.decoder import CHUNK, Decoder
from guard.uld.slots import Seat

FAMILIES = ["llama", "qwen2", "qwen3", "mistral", "gemma2", "gemma3_text"]


def plain(model, text):
    with torch.no_grad():
        return model(torch.tensor([text]), use_cache=False).logits[0, -1]


@pytest.mark.parametrize("family", FAMILIES)
def test_rows_of_any_length_decode_as_if_alone(tmp_path, make_model, family):
    """Texts longer than the sliding window, entering and leaving, over used blocks."""
    model = load_first_layers(make_model(tmp_path, family), 2)
    decoder = Decoder(model, 1024)
    rng = random.Random(0)
    texts = [[rng.randrange(4, 300) for _ in range(length)] for length in (1, 37, 9, 20)]
    seats = [Seat() for _ in texts]
    for step in range(24):
        here = [row for row in range(4) if row != 2 or step < 8 or step > 12]
        rng.shuffle(here)
        found = decoder.step([seats[row] for row in here], [texts[row] for row in here])
        for row, logits in zip(here, found, strict=True):
            assert torch.allclose(logits, plain(model, texts[row]), atol=1e-4)
            texts[row].append(rng.randrange(4, 300))
        if step == 8:
            decoder.release(seats[2])


def test_a_step_may_be_repeated(base):
    """While a prompt is prefilled in pieces, the same text is asked for more than once."""
    decoder = Decoder(load_first_layers(base, 2), 256)
    seat, text = Seat(), [5, 6, 7]

    assert torch.equal(decoder.step([seat], [text]), decoder.step([seat], [text]))


def test_long_prompts_are_read_in_chunks(tmp_path, make_model):
    """More than a chunk, at once or in parts: the same."""
    folder = make_model(tmp_path, max_position_embeddings=4 * CHUNK)
    model = load_first_layers(folder, 1)
    decoder = Decoder(model, 4 * CHUNK)
    text = [random.Random(1).randrange(4, 300) for _ in range(2 * CHUNK + 3)]

    assert torch.allclose(decoder.step([Seat()], [text])[0], plain(model, text), atol=1e-4)


def test_memory_is_given_back_and_no_more_is_taken(base):
    """A text without room is refused; one that fits afterwards is not."""
    decoder = Decoder(load_first_layers(base, 1), 64)
    first, second = Seat(), Seat()
    decoder.step([first], [[5] * 40])
    with pytest.raises(AssistantFull):
        decoder.step([second], [[5] * 40])
    decoder.release(first)
    decoder.release(second)
    decoder.step([second], [[5] * 60])


def test_an_architecture_that_decodes_otherwise_is_refused(base):
    """Found out when it is loaded, not while it serves."""
    model = load_first_layers(base, 2)
    forward = model.forward

    def other(**arguments):
        return forward(**{**arguments, "position_ids": arguments["position_ids"] * 0})

    model.forward = lambda *a, **k: other(**k) if "past_key_values" in k else forward(*a, **k)
    with pytest.raises(AssistantUnreadable, match="differently"):
        Decoder(model, 64)
