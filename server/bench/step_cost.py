"""What a decode step costs: the worker's own code over a batch of texts that tempt the filter."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from detectors.targets import Phrase
from guard.automaton import Tables, build_tables
from guard.batch import Slot
from guard.ledger import Counter, LedgerReader, LedgerWriter
from guard.loading import WorkerPart
from guard.params import GuardParams
from guard.patterns import index_phrases
from guard.snapshot import write_snapshot
from guard.steering import Steering
from guard.units import Units
from guard.vocabulary import Vocabulary
from server.bench.spellings import common_words
from server.bench.vocabularies import RealVocabulary
from tracing.successors import compile_successors

ALL, SUBSET = 0, 1
_SHARE = 100
_LINE = 64
_STREAM_BYTES = 1 << 28


@dataclass(frozen=True, slots=True)
class Compiled:
    """A snapshot of invented phrases, and what it took."""

    digest: str
    seconds: float
    megabytes: float
    states: int
    tables: Tables


def compile_phrases(phrases: Sequence[str], vocabulary: Vocabulary, root: Path) -> Compiled:
    """Compile phrases as the control process does and write their snapshot; CPU seconds.

    Target unit ALL has all phrases, unit SUBSET a hundredth of them.
    """
    given = [Phrase(text) for text in phrases]
    begin = time.process_time()
    patterns, ids = index_phrases(given)
    tables = build_tables(patterns, vocabulary)
    units = Units.build([ids, ids[::_SHARE]], [])
    arrays = WorkerPart(tables, units, compile_successors([], 2, vocabulary.size)).arrays()
    meta = {"vocabulary": vocabulary.fingerprint}
    digest = write_snapshot(root, meta=meta, arrays=arrays, documents={})
    seconds = time.process_time() - begin
    size = sum(file.stat().st_size for file in (root / digest).iterdir())
    return Compiled(digest, seconds, size / 1e6, len(tables.label), tables)


def tempting_texts(
    real: RealVocabulary, phrases: Sequence[str], rows: int, length: int, seed: int
) -> list[list[int]]:
    """Token lists [rows][length] of common words; in between, phrases that break off."""
    rng = random.Random(seed)  # noqa: S311
    words = common_words()
    texts = []
    for _ in range(rows):
        tokens: list[int] = []
        while len(tokens) < length:
            phrase = rng.choice(phrases)
            begun = phrase[: rng.randrange(1, len(phrase))]
            tokens += real.encode(" ".join((begun, *rng.choices(words, k=8))))
        texts.append(tokens[:length])
    return texts


class SteeredBatch:
    """A batch in a worker of its own: every row is steered by the same unit of one policy."""

    def __init__(
        self,
        state: Path,
        compiled: Compiled,
        vocabulary: Vocabulary,
        texts: list[list[int]],
        unit: int = ALL,
    ) -> None:
        facts = state / f"facts-{compiled.digest[:8]}-{unit}"
        self.steering = Steering(state, vocabulary, [2], LedgerWriter(facts))
        self._facts = LedgerReader(facts)
        self._texts = texts
        self.outputs: list[list[int]] = [[] for _ in texts]
        self.slots: dict[int, Slot] = {
            row: self.steering.open_slot(
                GuardParams(compiled.digest, row + 1, (unit,)), (), output, constrained=False
            )
            for row, output in enumerate(self.outputs)
        }

    @property
    def forbidden(self) -> int:
        """Tokens forbidden so far."""
        return self._facts.total(Counter.FORBIDDEN_TOKENS)

    def step(self, logits: torch.Tensor) -> float:
        """Give every row its next token and guard the batch; CPU seconds of the latter.

        A text that is at its end begins again.
        """
        place = len(self.outputs[0])
        for output, text in zip(self.outputs, self._texts, strict=True):
            output.append(text[place % len(text)])
        begin = time.thread_time()
        self.steering.apply(logits, self.slots.items())
        return time.thread_time() - begin


def step_costs(
    batches: Sequence[SteeredBatch],
    logits: torch.Tensor,
    steps: int,
    between: Callable[[], object] = lambda: None,
) -> list[list[float]]:
    """Microseconds of each step [batches][steps], the batches by turns in blocks.

    `between` is called before every step and not measured.
    """
    found: list[list[float]] = [[] for _ in batches]
    block = 20
    for _ in range(steps // block):
        for batch, costs in zip(batches, found, strict=True):
            for i in range(block + 2):
                between()
                cost = 1e6 * batch.step(logits)
                # After another batch's turn the first two steps only bring back the memory.
                if i >= 2:
                    costs.append(cost)
    return found


def floor_bytes(
    tables: Tables,
    vocabulary: Vocabulary,
    texts: Sequence[Sequence[int]],
    forbidden_per_step: float,
) -> float:
    """Bytes that no implementation of this automaton can avoid to touch in a step, on average.

    Per row its token, its row number and its packed position (26 bytes); of the sampled token's
    body every byte with one node and label of the trie (1 + 17); per row the set's bounds (24); for
    each forbidden token its id and one line of the logits that is read and written back.
    """
    lengths = np.diff(vocabulary.bodies.start)
    body = float(np.mean([lengths[np.array(text)].mean() for text in texts]))
    node = tables.nodes.itemsize * tables.nodes.shape[1] + tables.label.itemsize
    rows = len(texts)
    per_row = 26 + 24 + body * (1 + node)
    return float(rows * per_row + forbidden_per_step * (4 + 2 * _LINE))


def memory_bandwidth() -> float:
    """Bytes a second that one core copies, counting what it reads and what it writes."""
    source: npt.NDArray[np.uint8] = np.ones(_STREAM_BYTES, np.uint8)
    target = np.empty_like(source)
    best = float("inf")
    for _ in range(5):
        begin = time.perf_counter()
        np.copyto(target, source)
        best = min(best, time.perf_counter() - begin)
    return 2 * _STREAM_BYTES / best
