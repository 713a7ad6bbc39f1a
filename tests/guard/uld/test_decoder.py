"""The decoder in slots gives what the models themselves give, whoever else is in the batch."""

import random

import pytest
import torch

from guard.errors import AssistantFull, AssistantUnreadable
from guard.uld.assistant import load_first_layers
from guard.uld.decoder import CHUNK, Decoder
from guard.uld.graphs import doubled, padded
from guard.uld.slots import BLOCK, Seat
from guard.uld.texts import HostText

FAMILIES = ["llama", "qwen2", "qwen3", "mistral", "gemma2", "gemma3_text"]


def plain(model, text):
    with torch.no_grad():
        return model(torch.tensor([text]), use_cache=False).logits[0, -1]


def step(decoder, seats, texts):
    for seat, text in zip(seats, texts, strict=True):
        decoder.read(seat, HostText(text), len(text))
    newest = torch.tensor([text[-1] for text in texts])
    return decoder.step(seats, newest, list(map(len, texts)))


@pytest.mark.parametrize("family", FAMILIES)
def test_rows_of_any_length_decode_as_if_alone(tmp_path, make_model, family):
    """Texts longer than the sliding window, entering and leaving, over used blocks."""
    model = load_first_layers(make_model(tmp_path, family), 2)
    decoder = Decoder(model, 1024)
    rng = random.Random(0)
    texts = [[rng.randrange(4, 300) for _ in range(length)] for length in (1, 37, 9, 20)]
    seats = [Seat() for _ in texts]
    for number in range(24):
        here = [row for row in range(4) if row != 2 or number < 8 or number > 12]
        rng.shuffle(here)
        found = step(decoder, [seats[row] for row in here], [texts[row] for row in here])
        for row, logits in zip(here, found, strict=True):
            assert torch.allclose(logits, plain(model, texts[row]), atol=1e-4)
            texts[row].append(rng.randrange(4, 300))
        if number == 8:
            decoder.release(seats[2])


def test_a_step_may_be_repeated(base):
    """While a prompt is prefilled in pieces, the same text is asked for more than once."""
    decoder = Decoder(load_first_layers(base, 2), 256)
    seat, text = Seat(), [5, 6, 7]

    assert torch.equal(step(decoder, [seat], [text]), step(decoder, [seat], [text]))


def test_long_prompts_are_read_in_chunks(tmp_path, make_model):
    """More than a chunk, at once or in parts: the same."""
    folder = make_model(tmp_path, max_position_embeddings=4 * CHUNK)
    model = load_first_layers(folder, 1)
    decoder = Decoder(model, 4 * CHUNK)
    text = [random.Random(1).randrange(4, 300) for _ in range(2 * CHUNK + 3)]

    assert torch.allclose(step(decoder, [Seat()], [text])[0], plain(model, text), atol=1e-4)


@pytest.fixture
def pieces(monkeypatch):
    """Lengths of the pieces that are read ahead of a step."""
    found = []
    original = Decoder._read_piece

    def read(self, seat, tokens, start):
        found.append(tokens.shape[1])
        original(self, seat, tokens, start)

    monkeypatch.setattr(Decoder, "_read_piece", read)
    return found


def test_what_was_read_once_is_not_read_again(base, pieces):
    """By another choice of a request, one resumed, one with the same system prompt."""
    model = load_first_layers(base, 2)
    decoder = Decoder(model, 256)
    pieces.clear()
    rng = random.Random(0)
    text = [rng.randrange(4, 300) for _ in range(3 * BLOCK + 5)]
    other = [*text[: 2 * BLOCK], 7, 8, 9]
    first, second, third = Seat(), Seat(), Seat()
    found = step(decoder, [first, second, third], [text, text, other])

    assert pieces == [3 * BLOCK + 4, 4, 2]
    assert torch.equal(found[0], found[1])
    assert torch.allclose(found[0], plain(model, text), atol=1e-4)
    assert torch.allclose(found[2], plain(model, other), atol=1e-4)

    decoder.release(first)
    decoder.release(second)
    text += [5] * BLOCK
    assert torch.allclose(step(decoder, [first], [text])[0], plain(model, text), atol=1e-4)
    assert pieces[3:] == [BLOCK + 4]


def test_shared_blocks_take_no_room_and_are_never_overwritten(base):
    """Five choices of a prompt where three would not fit; each goes its own way."""
    model = load_first_layers(base, 2)
    decoder = Decoder(model, 9 * BLOCK)
    rng = random.Random(0)
    prompt = [rng.randrange(4, 300) for _ in range(3 * BLOCK + 1)]
    texts, seats = [list(prompt) for _ in range(5)], [Seat() for _ in range(5)]
    for _ in range(BLOCK - 1):
        found = step(decoder, seats, texts)
        for text, logits in zip(texts, found, strict=True):
            assert torch.allclose(logits, plain(model, text), atol=1e-4)
            text.append(rng.randrange(4, 300))
    for seat in seats[1:]:
        decoder.release(seat)
    other = [rng.randrange(4, 300) for _ in range(4 * BLOCK)]
    found = step(decoder, [Seat(), seats[0]], [other, texts[0]])

    assert torch.allclose(found[0], plain(model, other), atol=1e-4)
    assert torch.allclose(found[1], plain(model, texts[0]), atol=1e-4)
    # What was freed has been taken for the other text, so the prompt's blocks are the first one's.
    assert torch.allclose(step(decoder, [Seat()], [prompt])[0], plain(model, prompt), atol=1e-4)


def test_rows_of_very_different_lengths(base):
    """Not all as wide as the longest: that could take more memory than the cache itself."""
    model = load_first_layers(base, 2)
    decoder = Decoder(model, 16 * BLOCK)
    rng = random.Random(0)
    lengths = (3, 9 * BLOCK, 5, BLOCK + 1, 2)
    texts = [[rng.randrange(4, 300) for _ in range(length)] for length in lengths]
    widths = []
    arrange = decoder._arrange

    def arranged(seats, width):
        widths.append(len(seats) * width)
        return arrange(seats, width)

    decoder._arrange = arranged
    found = step(decoder, [Seat() for _ in texts], texts)

    assert max(widths) <= 16
    for text, logits in zip(texts, found, strict=True):
        assert torch.allclose(logits, plain(model, text), atol=1e-4)


def test_a_batch_is_padded_to_the_next_graph():
    """Rows and widths of graphs are powers of two."""
    assert doubled(1, 33) == [1, 2, 4, 8, 16, 32, 64]
    assert [padded(size, 8) for size in (1, 8, 9, 33)] == [8, 8, 16, 64]


class WrongGraphs:
    """Graphs that give other logits than the pass."""

    def width(self, rows, blocks):
        return blocks

    def run(self, tokens, positions, table):
        return torch.zeros(len(tokens), 320)


def test_graphs_that_are_wrong_are_not_used(base, monkeypatch, caplog):
    """Found out when the assistant is loaded; it is served without them."""
    monkeypatch.setattr(Decoder, "_captured", lambda self, rows: WrongGraphs())
    model = load_first_layers(base, 2)
    decoder = Decoder(model, 256, rows=8)

    assert "without CUDA graphs" in caplog.text
    assert torch.allclose(step(decoder, [Seat()], [[5, 6]])[0], plain(model, [5, 6]), atol=1e-4)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("family", ["llama", "gemma3_text"])
def test_graphs_decode_as_the_model_does(tmp_path, make_model, family):
    """Captured, padded in both directions; a batch without a graph goes the other way."""
    model = load_first_layers(make_model(tmp_path, family), 2, device="cuda")
    decoder = Decoder(model, 80 * BLOCK, rows=8)
    assert decoder._graphs is not None
    assert decoder._graphs.width(3, 9) == 16
    assert decoder._graphs.width(8, 9) is None
    rng = random.Random(0)
    for rows, length in ((1, 5), (3, 9 * BLOCK), (5, 30), (8, 130)):
        texts = [[rng.randrange(4, 300) for _ in range(length - row)] for row in range(rows)]
        seats = [Seat() for _ in texts]
        for seat, text in zip(seats, texts, strict=True):
            decoder.read(seat, HostText(text), len(text))
        newest = torch.tensor([text[-1] for text in texts], device="cuda")
        torch.cuda.set_sync_debug_mode("error")
        try:
            found = decoder.step(seats, newest, list(map(len, texts))).clone()
        finally:
            torch.cuda.set_sync_debug_mode("default")
        for seat, text, logits in zip(seats, texts, found, strict=True):
            with torch.no_grad():
                ids = torch.tensor([text], device="cuda")
                wanted = model(ids, use_cache=False).logits[0, -1]
            assert torch.allclose(logits, wanted, atol=1e-3)
            decoder.release(seat)


def test_memory_is_given_back_and_no_more_is_taken(base):
    """A text without room is refused; one that fits afterwards is not."""
    decoder = Decoder(load_first_layers(base, 1), 64)
    first, second = Seat(), Seat()
    step(decoder, [first], [[5] * 40])
    with pytest.raises(AssistantFull):
        step(decoder, [second], [[6] * 40])
    decoder.release(first)
    decoder.release(second)
    step(decoder, [second], [[6] * 60])


def test_an_architecture_that_decodes_otherwise_is_refused(base):
    """Found out when it is loaded, not while it serves."""
    model = load_first_layers(base, 2)
    forward = model.forward

    def other(**arguments):
        return forward(**{**arguments, "position_ids": arguments["position_ids"] * 0})

    model.forward = lambda *a, **k: other(**k) if "past_key_values" in k else forward(*a, **k)
    with pytest.raises(AssistantUnreadable, match="differently"):
        Decoder(model, 64)
