"""`lethegate bench provenance`: what the provenance index costs to build, open and search."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import Progress

from detectors import normaliser
from server.bench.figures import spread
from server.bench.provenance_cold import cold_figures
from server.bench.provenance_rival import ShortWords, compare
from server.bench.provenance_texts import Library, corpus, library, outputs
from server.bench.veto_step import veto_step
from tracing.document import Document
from tracing.index import Index, View
from tracing.matching import maximal_spans, occurrences, streamed_lengths
from tracing.successors import compile_successors
from tracing.words import Folding, WordView

METHOD = (
    "One thread, CPU time, medians with extremes. The texts are source, documentation and licence "
    "files of the installed packages, each content once, and beyond those new texts spliced from "
    "their lines. Build: fold, hash, sort, write and flush, from files to a durable index that "
    "keeps no text; peak is the process's growth meanwhile. Open maps the files; verify reads all "
    "of them. Outputs have 1,000 words of files that were not indexed, two tenths replaced by "
    "copied passages; spans are all maximal ones of at least 8 words with counts and up to 10 "
    "sources each; `fold_ms` is the way from text to symbols. A step brings one new word to each "
    "of 64 rows. Veto: n = 8, logits of 131,072 tokens, a tenth of the rows inside a registered "
    "text, other rows at every step; a worker's step is its whole `Steering.apply` with one "
    "phrase, by turns with and without the table. Cold: wall time of an output's spans and "
    "sources, and of one step of 64 rows, each with the index's files dropped from the page cache "
    "before it; reads are the page faults that waited for the disk. infini-gram: the same words as "
    "16-bit tokens, its index in memory, one core, spans of at most 10 occurrences."
)
_DEPTH = 8
_BATCH = 64
_WIDTH = 64
_VOCABULARY = 131_072


@dataclass(frozen=True, slots=True)
class ProvenancePlan:
    """What to measure; `python` is an interpreter that has the infini-gram package."""

    megabytes: tuple[float, ...] = (1, 10, 100)
    outputs: int = 32
    steps: int = 400
    ngrams: int = 10_000_000
    cold: int = 32
    rival_megabytes: float = 100
    python: Path | None = None


def bench_provenance(plan: ProvenancePlan, progress: Progress) -> dict[str, Any]:
    """Measure everything; gives the report's flat figures.

    Raises:
        BenchError: too few texts, or infini-gram was asked for and does not run.
    """
    texts = library()
    queries = outputs(texts, plan.outputs, int(1e6 * min(plan.megabytes)))
    words = WordView(
        Folding(
            normaliser.NORMALISER_VERSION,
            normaliser.fold,
            normaliser.fold_with_origins,
            normaliser.is_word_char,
        )
    )
    figures: dict[str, Any] = {"documents_available": len(texts.indexed)}
    task = progress.add_task("indexes", total=len(plan.megabytes))
    for megabytes in plan.megabytes:
        with tempfile.TemporaryDirectory(prefix="lethegate-bench-") as directory:
            found = _size(Path(directory) / "index", plan, megabytes, texts, queries, words)
        figures |= {_key(key, _label(megabytes)): value for key, value in found.items()}
        progress.advance(task)
    small, large = _label(min(plan.megabytes)), _label(max(plan.megabytes))
    growth = figures[f"spans_ms_{large}"] / figures[f"spans_ms_{small}"]
    figures["spans_growth"] = round(growth, 2)
    figures |= _veto(plan, texts, ShortWords(words))
    figures |= _rival(plan, texts, queries, words)
    return figures | {"batch": _BATCH, "method": METHOD}


def _size(
    directory: Path,
    plan: ProvenancePlan,
    megabytes: float,
    texts: Library,
    queries: Sequence[str],
    words: WordView,
) -> dict[str, Any]:
    size = int(1e6 * megabytes)
    _warm(directory.with_name("warm"), words, queries[0])
    before = _reset_peak()
    begin = time.process_time()
    index = Index(directory, words, depth=_DEPTH, keep_text=False, verify=False)
    index.add(map(Document, corpus(texts, size)))
    seconds = time.process_time() - begin
    figures: dict[str, Any] = {
        "build_mb_per_s": round(size / 1e6 / seconds, 3),
        "build_peak_mb": round((_memory("VmHWM") - before) / 1e6, 1),
        "index_bytes_per_byte": round(
            sum(s.container.bytes for s in index.view.segments) / size, 3
        ),
        "words": sum(s.words for s in index.view.segments),
        "segments": len(index.view.segments),
    }
    index.close()
    figures |= spread("open_ms", [_open(directory, words, verify=False) for _ in range(9)])
    figures["verify_ms"] = round(_open(directory, words, verify=True), 1)
    index = Index(directory, words, read_only=True, verify=True)
    figures |= _spans(index.view, queries, words)
    figures |= _steps(index.view, plan, queries, words)
    del index
    return figures | cold_figures(directory, queries[: plan.cold], words, _DEPTH)


def _spans(view: View, queries: Sequence[str], words: WordView) -> dict[str, Any]:
    folds, spans, number = [], [], 0
    for query in [queries[0], *queries]:
        begin = time.thread_time()
        symbols = words.symbols(query)
        middle = time.thread_time()
        found = maximal_spans(view, symbols[:1000], _DEPTH)
        for span in found:
            occurrences(view, symbols[:1000], span)
        spans.append(1000 * (time.thread_time() - middle))
        folds.append(1000 * (middle - begin))
        number += len(found)
    per_output = round(number / len(queries), 1)
    return {**spread("fold_ms", folds[1:]), **spread("spans_ms", spans[1:]), "spans": per_output}


def _steps(
    view: View, plan: ProvenancePlan, queries: Sequence[str], words: WordView
) -> dict[str, Any]:
    streams = [words.symbols(query) for query in queries]
    rows = np.zeros((_BATCH, _WIDTH), np.uint32)
    sizes = np.full(_BATCH, _WIDTH, np.int64)
    costs = []
    for step in range(plan.steps + 1):
        for i in range(_BATCH):
            stream = streams[i % len(streams)]
            # Rows stand at different places, and come back to none within a run.
            at = (step + 331 * i) % (len(stream) - _WIDTH)
            rows[i] = stream[at : at + _WIDTH]
        begin = time.thread_time()
        streamed_lengths(view, rows, sizes, _DEPTH)
        costs.append(1e6 * (time.thread_time() - begin))
    per_row = {"step_us_per_row": round(float(np.median(costs[1:])) / _BATCH, 4)}
    return spread("step_us", costs[1:]) | per_row


def _veto(plan: ProvenancePlan, texts: Library, encoder: ShortWords) -> dict[str, Any]:
    documents, left = [], plan.ngrams
    for text in corpus(texts, 1 << 62):
        documents.append(encoder.symbols(text))
        left -= len(documents[-1])
        if left <= 0:
            break
    begin = time.process_time()
    table = compile_successors(documents, _DEPTH, _VOCABULARY)
    seconds = time.process_time() - begin
    chosen = np.random.default_rng(3)
    logits = np.zeros((_BATCH, _VOCABULARY), np.float32)
    sizes = np.full(_BATCH, _DEPTH, np.int64)
    long = [document for document in documents if len(document) > 2 * _DEPTH]
    costs, forbidden = [], 0
    for _ in range(plan.steps + 1):
        rows = chosen.integers(1, _VOCABULARY, (_BATCH, _DEPTH))
        for i in range(0, _BATCH, 10):
            document = long[int(chosen.integers(len(long)))]
            at = int(chosen.integers(len(document) - _DEPTH))
            rows[i] = document[at : at + _DEPTH]
        begin = time.thread_time()
        forbidden += table.forbid(rows, sizes, logits)
        costs.append(1e6 * (time.thread_time() - begin))
    return {
        **spread("veto_us", costs[1:]),
        "veto_ngrams": sum(max(0, len(d) - _DEPTH + 1) for d in documents),
        "veto_bytes_per_ngram": round(table.bytes / max(1, plan.ngrams), 2),
        "veto_compile_s": round(seconds, 2),
        "veto_forbidden_per_step": round(forbidden / (plan.steps + 1), 2),
        **veto_step(table, documents, _BATCH, max(20, plan.steps)),
    }


def _rival(
    plan: ProvenancePlan, texts: Library, queries: Sequence[str], words: WordView
) -> dict[str, Any]:
    if plan.python is None:
        return {"infini_gram": "not measured: no interpreter with the package was named"}
    indexed = list(corpus(texts, int(1e6 * plan.rival_megabytes)))
    with tempfile.TemporaryDirectory(prefix="lethegate-bench-") as directory:
        return compare(plan.python, Path(directory), indexed, queries, ShortWords(words))


def _warm(directory: Path, words: WordView, query: str) -> None:
    """Compile the loops, so that no figure holds that."""
    index = Index(directory, words, depth=_DEPTH, keep_text=False)
    index.add([Document(query), Document(query[:2000])])
    maximal_spans(index.view, words.symbols(query), _DEPTH)
    index.close()


def _open(directory: Path, words: WordView, *, verify: bool) -> float:
    """Milliseconds until an index can be searched."""
    begin = time.process_time()
    Index(directory, words, read_only=True, verify=verify)
    return 1000 * (time.process_time() - begin)


def _reset_peak() -> int:
    Path("/proc/self/clear_refs").write_text("5")
    return _memory("VmRSS")


def _memory(field: str) -> int:
    """A line of the kernel's account of this process, in bytes."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(field))


def _key(key: str, label: str) -> str:
    """The label goes before the ending of an extreme: `spans_ms_100mb_max`."""
    stem, dot, end = key.rpartition("_")
    return f"{stem}_{label}_{end}" if dot and end in ("min", "max") else f"{key}_{label}"


def _label(megabytes: float) -> str:
    return f"{megabytes:g}mb"
