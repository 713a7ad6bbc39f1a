"""The benches of single parts of the guard; none of them starts vLLM."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from server.cli_bench import JsonFile, bench_app, one_line_errors, run
from server.settings import DEFAULT_ENCODER

Encoder = Annotated[str, typer.Option(help="Sentence encoder.")]


@bench_app.command()
def classifier(
    json_file: JsonFile,
    encoder: Encoder = DEFAULT_ENCODER,
    encoder_device: Annotated[
        str | None, typer.Option(help="Its device. [default: CUDA where there is one]")
    ] = None,
    prompts: Annotated[
        int, typer.Option(help="Prompts per registry, alone and at 64.", min=10)
    ] = 512,
    seconds: Annotated[float, typer.Option(help="Longest time for either.", min=1)] = 30,
    largest: Annotated[
        int, typer.Option(help="Prompts of the largest registry; below 1M only to try it.", min=1)
    ] = 1_000_000,
) -> None:
    """Cost of judging a prompt, against 100, 10k and 1M registered ones; needs 4 GB at 1M."""
    with one_line_errors():
        from server.bench.classifier import ClassifierBenchPlan, bench_classifier

        sizes = sorted({min(size, largest) for size in (100, 10_000, 1_000_000)})
        plan = ClassifierBenchPlan(sizes, encoder, encoder_device, prompts, seconds)
        run(json_file, lambda progress: bench_classifier(plan, progress))


@bench_app.command("token-filter")
def token_filter(
    json_file: JsonFile,
    steps: Annotated[int, typer.Option(help="Steps to measure per policy.", min=80)] = 400,
    paths: Annotated[int, typer.Option(help="Token paths to sample.", min=1)] = 1_000_000,
    spelled: Annotated[int, typer.Option(help="Phrases to spell in every way.", min=1)] = 60,
    largest: Annotated[
        int, typer.Option(help="Phrases of the largest policy; less than 1M only to try it.", min=1)
    ] = 1_000_000,
) -> None:
    """Cost and completeness of the hard ban, beside vLLM's and transformers' bad words."""
    with one_line_errors():
        from server.bench.token_filter import FilterPlan, bench_token_filter

        plan = FilterPlan(steps=steps, paths=paths, spelled=spelled, largest=largest)
        run(json_file, lambda progress: bench_token_filter(plan, progress))


@bench_app.command()
def device(
    json_file: JsonFile,
    steps: Annotated[int, typer.Option(help="Steps to measure per policy and batch.", min=2)] = 200,
    largest: Annotated[
        int, typer.Option(help="Phrases of the largest policy; 1000000 takes a minute more.")
    ] = 10_000,
    encoder: Annotated[
        str | None, typer.Option(help="Encoder: local path or hub name. [default: as served]")
    ] = None,
) -> None:
    """Cost of the token filter's step and of the encoder on this machine's GPU."""
    with one_line_errors():
        from server.bench.device import DevicePlan, bench_device

        plan = DevicePlan(steps=steps, largest=largest, encoder=encoder or DEFAULT_ENCODER)
        run(json_file, lambda progress: bench_device(plan, progress))


@bench_app.command()
def watch(
    json_file: JsonFile,
    answers: Annotated[int, typer.Option(help="Answers per arm.", min=3)] = 100,
    chunks: Annotated[int, typer.Option(help="Chunks of an answer.", min=2)] = 256,
    megabytes: Annotated[float, typer.Option(help="Text registered for TraceShield.")] = 10,
) -> None:
    """What it costs to hold answers against names and registered texts, per streamed chunk."""
    with one_line_errors():
        from server.bench.watch import WatchPlan, bench_watch

        plan = WatchPlan(answers, chunks, megabytes)
        run(json_file, lambda progress: bench_watch(plan, progress))


@bench_app.command()
def oracle(
    json_file: JsonFile,
    requests: Annotated[int, typer.Option(help="Requests per arm.", min=3)] = 300,
    encoder: Encoder = DEFAULT_ENCODER,
    encoder_device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
) -> None:
    """What the time to the first byte tells of whether and for which target a prompt matched."""
    with one_line_errors():
        from server.bench.oracle import OraclePlan, bench_oracle

        plan = OraclePlan(requests, encoder, encoder_device)
        run(json_file, lambda progress: bench_oracle(plan, progress))


@bench_app.command()
def uld(
    json_file: JsonFile,
    model: Annotated[
        Path | None, typer.Option(help="Model, a folder. [default: random weights]")
    ] = None,
    layers: Annotated[int, typer.Option(help="K, the assistant's layers.", min=1)] = 8,
    base_layers: Annotated[int, typer.Option(help="N of random weights.", min=2)] = 32,
    hidden: Annotated[int, typer.Option(help="Width of random weights.", min=64)] = 512,
    vocabulary: Annotated[int, typer.Option(help="Tokens of random weights.", min=256)] = 32_000,
    text: Annotated[int, typer.Option(help="Tokens before measuring.", min=1)] = 256,
    prompt: Annotated[int, typer.Option(help="Tokens of a prompt that enters.", min=2)] = 4_096,
    steps: Annotated[int, typer.Option(help="Steps per round.", min=3)] = 20,
    rounds: Annotated[int, typer.Option(help="Rounds.", min=3)] = 5,
    dtype: Annotated[str, typer.Option(help="float32 or bfloat16.")] = "float32",
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
) -> None:
    """Cost of an assistant per step at batch 1, 8 and 32, and per prompt, against its floor."""
    with one_line_errors():
        from guard.errors import ModelUnreadable
        from server.bench.errors import InputMissing
        from server.bench.uld import UldBenchPlan, bench_uld

        if dtype not in ("float32", "bfloat16"):
            raise InputMissing("--dtype is float32 or bfloat16")
        plan = UldBenchPlan(
            model,
            layers,
            base_layers,
            hidden,
            vocabulary,
            text,
            prompt,
            steps,
            rounds,
            dtype,
            device,
        )
        try:
            run(json_file, lambda progress: bench_uld(plan, progress))
        except ModelUnreadable as error:
            raise InputMissing(str(error)) from None


@bench_app.command()
def provenance(
    json_file: JsonFile,
    gigabyte: Annotated[
        bool, typer.Option("--gigabyte", help="Also index 1 GB; takes minutes and 3 GB of disk.")
    ] = False,
    largest: Annotated[
        float, typer.Option(help="Megabytes of the largest index; below 100 only to try it.")
    ] = 100,
    steps: Annotated[int, typer.Option(help="Steps to measure.", min=10)] = 400,
    ngrams: Annotated[int, typer.Option(help="n-grams of the veto's table.", min=1)] = 10_000_000,
    infini_gram: Annotated[
        Path | None,
        typer.Option(help="Python interpreter that has infini-gram, to measure it as well."),
    ] = None,
) -> None:
    """Cost of the provenance index: building, opening, spans, streaming, veto."""
    with one_line_errors():
        from server.bench.provenance import ProvenancePlan, bench_provenance

        sizes = sorted({min(size, largest) for size in (1.0, 10.0, 100.0)})
        plan = ProvenancePlan(
            megabytes=(*sizes, 1000.0) if gigabyte else tuple(sizes),
            steps=steps,
            ngrams=ngrams,
            rival_megabytes=sizes[-1],
            python=infini_gram,
        )
        run(json_file, lambda progress: bench_provenance(plan, progress))
