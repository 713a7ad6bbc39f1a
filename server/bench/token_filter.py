"""`lethegate bench token-filter`: what the hard ban costs and misses, beside today's others."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
from rich.progress import Progress

from guard.vocabulary import Vocabulary
from server.bench.figures import spread
from server.bench.hot_change import CHANGES, hot_change, unloaded_request
from server.bench.missed import count_missed
from server.bench.rivals import Rival, TransformersBadWords, VllmBadWords
from server.bench.spellings import invented_phrases
from server.bench.step_cost import (
    SUBSET,
    Compiled,
    SteeredBatch,
    compile_phrases,
    floor_bytes,
    memory_bandwidth,
    step_costs,
    tempting_texts,
)
from server.bench.token_paths import PathCount, sample_paths
from server.bench.vocabularies import real_vocabularies, tekken

METHOD = (
    "One core; tekken (131,072 tokens), batch 64. A step is the worker's whole `Steering.apply`: "
    "every row has one new token, all phrases of the policy are active in every row, and the "
    "texts begin phrases and break off. Policies of 100, 10k and 1M phrases take turns in blocks "
    "of steps; CPU time of the thread, median. `1m_subset` activates every hundredth phrase of "
    "the 1M, in the same texts; `forbidden` counts tokens per step. `cold` steps have their "
    "logits overwritten in between, which empties the caches. The others run on the same logits, "
    "phrases and texts. Compile and snapshot are of the automaton alone, in CPU seconds. Changes "
    f"of policy are wall time, {CHANGES} each to 10k and to 1M phrases beside a batch under 100 "
    "that goes on without a pause; the policy that was not preloaded has 1M. Missed spellings: "
    "each phrase in every declared spelling, cut as the tokenizer does and at random. Sampled "
    "paths want to write a phrase and take another token only where theirs is forbidden; a search "
    "of the decoded, folded text counts emissions. The floor is what must be touched, at the "
    "copying speed of one core."
)
_SIZES = {"100": 100, "10k": 10_000, "1m": 1_000_000}


@dataclass(frozen=True, slots=True)
class FilterPlan:
    """What to measure. `paths` are sampled in all, `spelled` phrases are spelled in every way."""

    batch: int = 64
    steps: int = 400
    rival_steps: int = 3
    paths: int = 1_000_000
    spelled: int = 60
    largest: int = _SIZES["1m"]

    @property
    def sizes(self) -> dict[str, int]:
        """Phrases of each policy, by the suffix of its keys."""
        return {name: min(size, self.largest) for name, size in _SIZES.items()}


def bench_token_filter(plan: FilterPlan, progress: Progress) -> dict[str, Any]:
    """Measure everything; gives the report's flat figures.

    Raises:
        BenchError: a tokenizer or a package to compare with is missing.
    """
    torch.set_num_threads(1)
    phrases = invented_phrases(max(plan.sizes.values()))
    with tempfile.TemporaryDirectory(prefix="lethegate-bench-") as state:
        figures = _cost(plan, phrases, Path(state), progress)
    figures |= _missed(plan, phrases, progress)
    figures |= _paths(plan, phrases, progress)
    return figures | {"batch": plan.batch, "vocabulary": len(tekken().tokens), "method": METHOD}


def _cost(
    plan: FilterPlan, phrases: Sequence[str], state: Path, progress: Progress
) -> dict[str, Any]:
    vocabulary = Vocabulary(tekken().tokens)
    compile_phrases(phrases[:10], vocabulary, state)
    task = progress.add_task("compiling", total=len(plan.sizes))
    compiled: dict[str, Compiled] = {}
    batches: dict[str, SteeredBatch] = {}
    for name, size in plan.sizes.items():
        compiled[name] = compile_phrases(phrases[:size], vocabulary, state)
        texts = tempting_texts(tekken(), phrases[:size], plan.batch, 400, seed=1)
        batches[name] = SteeredBatch(state, compiled[name], vocabulary, texts)
        progress.advance(task)
    batches["1m_subset"] = SteeredBatch(state, compiled["1m"], vocabulary, texts, SUBSET)
    figures: dict[str, Any] = {}
    for name, one in compiled.items():
        figures[f"compile_s_{name}"] = round(one.seconds, 3)
        figures[f"snapshot_mb_{name}"] = round(one.megabytes, 2)
        figures[f"states_{name}"] = one.states
    logits = torch.zeros(plan.batch, vocabulary.size)
    figures |= _steps(plan, batches, logits, progress)
    ours = figures["step_us_10k"]
    figures |= _floor(compiled["10k"], vocabulary, batches["10k"], figures["forbidden_10k"], ours)
    figures |= _rivals(plan, phrases[: plan.sizes["10k"]], batches["10k"], logits, ours, progress)
    texts = tempting_texts(tekken(), phrases[:100], plan.batch, 400, seed=1)

    def new_batch() -> SteeredBatch:
        return SteeredBatch(state, compiled["100"], vocabulary, texts)

    for name in ("10k", "1m"):
        figures |= hot_change(new_batch, logits, compiled[name].digest, name)
    return figures | unloaded_request(new_batch, logits, compiled["1m"].digest)


def _steps(
    plan: FilterPlan, batches: dict[str, SteeredBatch], logits: torch.Tensor, progress: Progress
) -> dict[str, Any]:
    task = progress.add_task("steps", total=2)
    figures: dict[str, Any] = {}
    forbidden = {name: batch.forbidden for name, batch in batches.items()}
    hot = step_costs([*batches.values()], logits, plan.steps)
    taken = plan.steps // 20 * 22
    progress.advance(task)
    cold = step_costs([*batches.values()], logits, plan.steps // 4, logits.zero_)
    progress.advance(task)
    for (name, batch), costs, cold_costs in zip(batches.items(), hot, cold, strict=True):
        figures |= spread(f"step_us_{name}", costs)
        figures |= spread(f"step_us_{name}_cold", cold_costs)
        steps = taken + plan.steps // 4 // 20 * 22
        figures[f"forbidden_{name}"] = round((batch.forbidden - forbidden[name]) / steps, 1)
    for name in ("1m", "1m_subset"):
        ratio = figures[f"step_us_{name}"] / figures["step_us_100"]
        figures[f"step_ratio_{name}_to_100"] = round(ratio, 3)
    return figures


def _floor(
    compiled: Compiled,
    vocabulary: Vocabulary,
    batch: SteeredBatch,
    forbidden: float,
    step_us: float,
) -> dict[str, float]:
    touched = floor_bytes(compiled.tables, vocabulary, batch.outputs, forbidden)
    bandwidth = memory_bandwidth()
    floor_us = 1e6 * touched / bandwidth
    return {
        "floor_bytes": round(touched),
        "memory_gb_per_s": round(bandwidth / 1e9, 2),
        "floor_us": round(floor_us, 3),
        "floor_ratio": round(step_us / floor_us, 1),
    }


def _rivals(
    plan: FilterPlan,
    phrases: Sequence[str],
    batch: SteeredBatch,
    logits: torch.Tensor,
    ours_us: float,
    progress: Progress,
) -> dict[str, float]:
    task = progress.add_task("the others' step", total=2 * plan.rival_steps)
    figures: dict[str, float] = {}
    kinds: tuple[type[Rival], ...] = (VllmBadWords, TransformersBadWords)
    for kind, key in zip(kinds, ("vllm_bad_words", "transformers"), strict=True):
        rival: Rival = kind(tekken(), phrases, plan.batch)  # type: ignore[call-arg]
        rival.apply(logits, batch.outputs)
        costs = []
        for _ in range(plan.rival_steps):
            begin = time.thread_time()
            rival.apply(logits, batch.outputs)
            costs.append(1e6 * (time.thread_time() - begin))
            progress.advance(task)
        figures[f"step_us_10k_{key}"] = round(median(costs))
        figures[f"speedup_vs_{key}"] = round(median(costs) / ours_us)
    return figures


def _missed(plan: FilterPlan, phrases: Sequence[str], progress: Progress) -> dict[str, int]:
    task = progress.add_task("spellings", total=plan.spelled)
    return count_missed(
        tekken(), phrases[: plan.spelled], 0, lambda done: progress.advance(task, done)
    )


def _paths(plan: FilterPlan, phrases: Sequence[str], progress: Progress) -> dict[str, int]:
    task = progress.add_task("paths", total=plan.paths)
    vocabularies = real_vocabularies()
    figures: dict[str, int] = {}
    total = PathCount(0, 0, 0, 0)
    for seed, real in enumerate(vocabularies):
        share = -(-plan.paths // len(vocabularies))
        found = sample_paths(
            real, phrases[:2000], share, seed, lambda done: progress.advance(task, done)
        )
        figures[f"sampled_paths_{real.name}"] = found.paths
        figures[f"emissions_{real.name}"] = found.emissions
        total += found
    return figures | {
        "sampled_paths": total.paths,
        "emissions": total.emissions,
        "emissions_without_filter": total.unhindered,
        "refused_tokens": total.refused,
    }
