"""The `infini-gram` package beside our index, on one corpus of 16-bit tokens."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import numpy.typing as npt

from server.bench import infini_gram_runner
from server.bench.errors import InputMissing
from tracing.document import Document
from tracing.index import Index
from tracing.matching import maximal_spans, occurrences
from tracing.words import WordView

TOKENS = 65_000
_SEPARATOR = b"\xff\xff"


@dataclass(frozen=True, slots=True)
class ShortWords:
    """Words as 16-bit symbols: a corpus that `infini-gram` can index on any machine."""

    words: WordView

    @property
    def name(self) -> str:
        """Names the encoder."""
        return f"short-{self.words.name}"

    def symbols(self, text: str) -> npt.NDArray[np.uint16]:
        """[n] uint16 in 1 .. `TOKENS`."""
        return (self.words.symbols(text) % np.uint32(TOKENS) + 1).astype(np.uint16)


def compare(
    python: Path, directory: Path, texts: Sequence[str], queries: Sequence[str], encoder: ShortWords
) -> dict[str, Any]:
    """Build both and look the same outputs up in both; CPU time, one core.

    Raises:
        InputMissing: that interpreter cannot run the package.
    """
    corpus = [encoder.symbols(text) for text in texts]
    sought = [encoder.symbols(query) for query in queries]
    theirs = _run(python, directory, corpus, sought)
    begin = time.process_time()
    index = Index(directory / "ours", _Given(encoder.name, corpus), keep_text=False, verify=False)
    index.add(Document(str(number)) for number in range(len(corpus)))
    build_seconds = time.process_time() - begin
    milliseconds, same = [], []
    for query, spans in zip(sought, theirs["spans"], strict=True):
        begin = time.process_time()
        found = maximal_spans(index.view, query, infini_gram_runner.MIN_LENGTH)
        rare = [span for span in found if span.count <= infini_gram_runner.MAX_COUNT]
        for span in rare:
            occurrences(index.view, query, span, infini_gram_runner.MAX_COUNT)
        milliseconds.append(1000 * (time.process_time() - begin))
        ours = {(span.start, span.end, span.count) for span in rare}
        same.append(ours == {tuple(span) for span in spans})
    index.close()
    megabytes = 2 * sum(map(len, corpus)) / 1e6
    ours_ms, theirs_ms = median(milliseconds), median(theirs["attribute_ms"])
    return {
        "token_mb": round(megabytes, 2),
        "infini_gram_build_mb_per_s": round(megabytes / theirs["build_seconds"], 3),
        "tokens_build_mb_per_s": round(megabytes / build_seconds, 3),
        "build_ratio_vs_infini_gram": round(theirs["build_seconds"] / build_seconds, 2),
        "infini_gram_attribute_ms": round(theirs_ms, 3),
        "tokens_spans_ms": round(ours_ms, 4),
        "query_speedup_vs_infini_gram": round(theirs_ms / ours_ms, 1),
        "outputs_with_equal_spans": round(sum(same) / len(same), 3),
    }


@dataclass(frozen=True, slots=True)
class _Given:
    """Symbols that are there already, by number: what is timed is the index alone."""

    name: str
    corpus: Sequence[npt.NDArray[np.uint16]]

    def symbols(self, text: str) -> npt.NDArray[np.uint16]:
        return self.corpus[int(text)]


def _run(
    python: Path,
    directory: Path,
    corpus: Sequence[npt.NDArray[np.uint16]],
    queries: Sequence[npt.NDArray[np.uint16]],
) -> dict[str, Any]:
    at = 0
    with (
        (directory / "tokenized.0").open("wb") as tokens,
        (directory / "offset.0").open("wb") as to,
    ):
        for document in corpus:
            to.write(at.to_bytes(8, "little"))
            at += tokens.write(_SEPARATOR + document.tobytes())
    (directory / "queries.json").write_text(json.dumps([query.tolist() for query in queries]))
    command = [str(python), infini_gram_runner.__file__, str(directory)]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        raise InputMissing(f"{python} cannot run the infini-gram package") from None
    result: dict[str, Any] = json.loads((directory / "result.json").read_text())
    return result
