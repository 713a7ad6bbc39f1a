"""The classifier's bench, small: every figure it is asked for, over real snapshots."""

from __future__ import annotations

import pytest
from rich.progress import Progress

from detectors.encoder import DEFAULT_ENCODER, load_encoder
from server.bench.classifier import ClassifierBenchPlan, bench_classifier, label
from server.bench.classifier_registry import innocent_prompts
from server.bench.floors import encoder_flops


def test_the_bench_reports_every_figure() -> None:
    """Costs alone, at 64 and remembered, the event loop's delay, memory, and floors below them."""
    plan = ClassifierBenchPlan(
        (100, 1200), DEFAULT_ENCODER, "cpu", prompts=10, seconds=1, encoded=8
    )
    figures = bench_classifier(plan, Progress(disable=True))

    for size in ("100", "1200"):
        for key in ("alone_us", "at_64_us", "cached_us", "product_us", "product_at_64_us"):
            assert figures[f"{key}_{size}"] > 0
        for key in ("loop_delay_ms_p99_alone", "loop_delay_ms_p99_at_64"):
            assert figures[f"{key}_{size}"] > 0
        assert figures[f"memory_mapped_mb_{size}"] > 0
        assert figures[f"cached_us_{size}"] < figures[f"alone_us_{size}"]
        assert 0 < figures[f"floor_product_us_{size}"]
    assert figures["product_megabytes_1200"] == pytest.approx(1200 * 384 * 4 / 1e6, abs=0.01)
    assert figures["floor_encode_us"] > 0
    assert figures["prompts_steered"] == 0


def test_prompts_are_new_and_of_one_window() -> None:
    """Nothing that was asked before, nothing that is cut."""
    prompts = innocent_prompts(0, 2000)

    assert len(set(prompts)) == 2000
    assert not set(prompts) & set(innocent_prompts(2000, 100))


@pytest.mark.parametrize(
    ("size", "name"), [(100, "100"), (10_000, "10k"), (1_000_000, "1m"), (1_500, "1500")]
)
def test_sizes_are_named(size: int, name: str) -> None:
    """As the figures' names have them."""
    assert label(size) == name


def test_operations_of_the_default_encoder() -> None:
    """Six layers of width 384: 21.2 million operations per token and a little for attention."""
    encoder = load_encoder(device="cpu")
    [tokens] = encoder.count_tokens(["How do I boil rice?"])

    assert tokens == 8
    assert encoder_flops(encoder, ["How do I boil rice?"]) == pytest.approx(21.2e6 * 8, rel=0.01)
