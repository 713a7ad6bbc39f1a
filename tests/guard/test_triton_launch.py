"""A kernel is looked up by the types of its tensors; numbers and addresses make no difference."""

import pytest
import torch

pytest.importorskip("triton", reason="Triton is not installed")

from guard.triton_launch import kernel


@kernel("number", warps=2)
def example(out, number, table):
    """Never run."""


class Jit:
    """Stands for Triton's function: compiles one that notes with what it was launched."""

    def __init__(self, compiles=True):
        self.compiles = compiles
        self.calls, self.launches = [], []

    def __getitem__(self, grid):
        def call(*arguments, num_warps):
            self.calls.append((grid, num_warps))
            return Compiled(self.launches) if self.compiles else None

        return call


class Compiled:
    def __init__(self, launches):
        self._launches = launches

    def __getitem__(self, grid):
        return lambda *arguments: self._launches.append((grid, arguments))


@pytest.fixture
def jit(monkeypatch):
    made = Jit()
    monkeypatch.setattr(example, "jit", made)
    monkeypatch.setattr(example, "_compiled", {})
    return made


def test_nothing_is_specialised_but_types() -> None:
    """Else a compiled kernel could be launched with what it was not compiled for."""
    specialised = {p.name for p in example.jit.params if not p.do_not_specialize}
    aligned = {p.name for p in example.jit.params if not p.do_not_specialize_on_alignment}

    assert specialised == {"out", "table"}
    assert aligned == {"number"}


def test_it_is_compiled_once_for_each_set_of_types(jit) -> None:
    """The first launch goes through Triton, later ones do not."""
    floats, bytes_ = torch.zeros(4), torch.zeros(4, dtype=torch.uint8)
    example.launch(7, 3, floats, 5, bytes_)
    example.launch(2, 1, floats[1:], 1, bytes_[3:])
    example.launch(2, 1, floats, 1, floats)
    example.launch(4, 8, floats, 6, floats)

    assert jit.calls == [((7, 3), 2), ((2, 1), 2)]
    assert [grid for grid, _ in jit.launches] == [(2, 1, 1), (4, 8, 1)]
    assert jit.launches[1][1][1] == 6


def test_the_interpreter_is_always_asked(jit) -> None:
    """It gives nothing to keep."""
    jit.compiles = False
    for _ in range(3):
        example.launch(1, 1, torch.zeros(1), 1, torch.zeros(1))

    assert len(jit.calls) == 3
