"""The parts of the provenance bench, small."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from rich.progress import Progress

from detectors import normaliser
from server.bench.errors import InputMissing
from server.bench.provenance import ProvenancePlan, bench_provenance
from server.bench.provenance_rival import TOKENS, ShortWords, compare
from server.bench.provenance_texts import Library, corpus, library, outputs
from tracing.words import Folding, WordView


@pytest.fixture(scope="module")
def texts() -> Library:
    """The installed packages' texts."""
    return library()


def test_corpora_have_the_asked_size(texts: Library) -> None:
    """Texts run on after the library's end, and what is held out is not indexed."""
    few = Library(texts.indexed[:20], texts.held_out)
    for size in (10_000, 3_000_000):
        length = sum(len(text.encode("utf-8", "replace")) for text in corpus(few, size))
        assert size <= length <= size + 400_000

    assert not set(texts.indexed) & set(texts.held_out)


def test_outputs_hold_copied_passages(texts: Library) -> None:
    """An output has its thousand words and two passages of what is indexed first."""
    source = " ".join(corpus(texts, 1_000_000)).split()
    runs = {tuple(source[i : i + 100]) for i in range(len(source) - 99)}
    for text in outputs(texts, 3, 1_000_000):
        words = text.split()

        assert 1000 == len(words)
        assert tuple(words[200:300]) in runs
        assert tuple(words[600:700]) in runs


def test_the_bench_reports_every_figure() -> None:
    """A small run has the figures that are asked of it, and says what was not measured."""
    plan = ProvenancePlan(megabytes=(0.1, 0.2), outputs=3, steps=10, ngrams=5000)

    figures = bench_provenance(plan, Progress(disable=True))

    for size in ("0.1mb", "0.2mb"):
        for key in ("build_mb_per_s", "build_peak_mb", "index_bytes_per_byte", "open_ms"):
            assert figures[f"{key}_{size}"] > 0
        assert figures[f"spans_{size}"] > 0
        assert figures[f"step_us_{size}_max"] >= figures[f"step_us_{size}"] > 0
        for key in ("cold_spans_ms", "cold_step_ms"):
            assert figures[f"{key}_p99_{size}"] >= figures[f"{key}_{size}"] > 0
    assert figures["veto_forbidden_per_step"] > 5
    assert figures["worker_step_us"] > 0 < figures["worker_step_us_without_veto"]
    assert "not measured" in figures["infini_gram"]


def test_a_missing_rival_is_named(tmp_path: Path) -> None:
    """An interpreter without the package ends the run with an error of one line."""
    folding = Folding(
        normaliser.NORMALISER_VERSION,
        normaliser.fold,
        normaliser.fold_with_origins,
        normaliser.is_word_char,
    )
    encoder = ShortWords(WordView(folding))

    assert encoder.symbols("a b c").max() <= TOKENS
    with pytest.raises(InputMissing):
        compare(Path(sys.executable), tmp_path, ["a b c"], ["a b"], encoder)
