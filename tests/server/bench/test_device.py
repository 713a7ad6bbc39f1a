"""The bench of a GPU: its steps guard as the CPU's do; timing itself needs the device."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from rich.progress import Progress

from guard.vocabulary import Vocabulary
from server.bench.device import DevicePlan, bench_device
from server.bench.device_encoder import cosines, times_us
from server.bench.device_step import DeviceBatch, DeviceWorker
from server.bench.device_time import count_kernels, cuda_device
from server.bench.errors import ArmInvalid, DeviceMissing
from server.bench.spellings import invented_phrases
from server.bench.step_cost import SteeredBatch, compile_phrases, tempting_texts
from server.bench.vocabularies import byte_level

CPU = torch.device("cpu")
# What the bench does is the same on both; only a GPU has events, and kernels to count.
DEVICES = [
    pytest.param(CPU, id="cpu"),
    pytest.param(torch.device("cuda"), id="gpu", marks=pytest.mark.gpu),
]


class Alike:
    """An encoder whose embeddings point almost the same way."""

    id, dimension = "alike", 2

    def __init__(self, turned: float) -> None:
        self.asked: list[int] = []
        self._vector = np.array([np.cos(turned), np.sin(turned)], np.float32)

    def encode(self, texts):
        self.asked.append(len(texts))
        return np.tile(self._vector, (len(texts), 1))


@pytest.fixture
def vocabulary():
    return Vocabulary(byte_level().tokens)


@pytest.mark.parametrize("device", DEVICES)
def test_steps_forbid_what_the_cpu_forbids(tmp_path: Path, vocabulary, device) -> None:
    """Token for token, also in a second batch of the same worker; all rows are accounted for."""
    if device.type == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device here")
    phrases = invented_phrases(60)
    compiled = compile_phrases(phrases, vocabulary, tmp_path)
    worker = DeviceWorker(tmp_path, vocabulary, 8, device)
    for rows in (8, 3):
        texts = tempting_texts(byte_level(), phrases, rows, 40, seed=rows)
        expected = SteeredBatch(tmp_path, compiled, vocabulary, texts)
        batch = DeviceBatch(worker, compiled.digest, texts)
        guarded = worker.guarded
        while batch.left:
            found = [torch.zeros(rows, vocabulary.size, device=d) for d in (CPU, device)]
            expected.step(found[0])
            batch.step(found[1])

            assert torch.equal(found[0], found[1].cpu())

        worker.check(guarded + 40 * rows)

        assert worker.forbidden > 0


def test_a_step_that_was_not_guarded_is_told(tmp_path: Path, vocabulary, monkeypatch) -> None:
    """An error closes rows, and closed rows are not what the bench measures."""
    monkeypatch.setattr("server.bench.device_step._PATIENCE_SECONDS", 0.0)
    worker = DeviceWorker(tmp_path, vocabulary, 2, CPU)
    batch = DeviceBatch(worker, "0" * 64, [[1, 2], [3, 4]])
    batch.step(torch.zeros(2, vocabulary.size))
    with pytest.raises(ArmInvalid, match="0 rows were guarded and 2"):
        worker.check(2)


def test_kernels_are_counted_by_name() -> None:
    """Copies apart; templates and arguments are not part of a name."""
    events = [
        ("_follow", 4.0),
        ("void at::native::fill<int, 4>(int*)", 1.0),
        ("Memcpy DtoH (Device -> Pinned)", 9.0),
    ]
    found = count_kernels(events * 2, times=2)

    assert (found.kernels, found.copies) == (2.0, 1.0)
    assert found.microseconds == {"follow": 4.0, "fill": 1.0}


def test_encoders_are_timed_and_compared() -> None:
    """Every batch once to warm up and once for its time; agreement is the cosine."""
    one, other = Alike(0.0), Alike(0.1)

    assert len(times_us(one, [["a"], ["b", "c"]])) == 2
    assert one.asked == [1, 2, 1, 2]
    assert cosines(one, other, ["a", "b"]) == pytest.approx(np.cos(0.1), abs=1e-6)


def test_without_a_device_it_says_so(monkeypatch) -> None:
    """Before anything is compiled."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with Progress(disable=True) as progress, pytest.raises(DeviceMissing, match="no CUDA device"):
        bench_device(DevicePlan(), progress)


@pytest.mark.gpu
def test_it_measures_a_gpu() -> None:
    """The smallest run gives every figure that the report names."""
    try:
        cuda_device()
    except DeviceMissing:
        pytest.skip("no CUDA device here")
    plan = DevicePlan(batches=(1, 3), steps=5, largest=100)
    with Progress(disable=True) as progress:
        figures = bench_device(plan, progress)

    assert figures["kernels_100_b3"] == 3
    assert figures["copies_100_b3"] == 1
    assert figures["step_us_100_b1_min"] > figures["touched_us_100_b1"]
    assert figures["floor_ratio_100_b3"] > 1
    assert figures["encoder_cosine_min"] > 0.99
