"""`lethegate bench`: measure what the guard costs on this machine."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from detectors.errors import DetectorError
from server.errors import ServerError
from server.settings import DEFAULT_ENCODER

bench_app = typer.Typer(help="Measure what the guard costs, against plain vLLM on this machine.")

_EXTRA_FLAGS = {"allow_extra_args": True, "ignore_unknown_options": True}
_EPILOG = "Every other flag goes to vLLM, to both servers alike; what follows -- goes to it unread."

JsonFile = Annotated[Path, typer.Option("--json", help="Where to write the figures.")]
Model = Annotated[
    str | None, typer.Option(help="Model: local path or hub name. [default: the demo's]")
]
TargetFile = Annotated[Path | None, typer.Option(help="Target to register, as JSON.")]
Unmatched = Annotated[
    Path | None,
    typer.Option(help='JSONL of {"question"} that no target matches. [default: the demo\'s]'),
]
Matched = Annotated[
    Path | None,
    typer.Option(help='JSONL of {"question"} that the target matches. [default: the demo\'s]'),
]
MaxTokens = Annotated[int, typer.Option(help="Tokens of an answer, on average.", min=2)]


@bench_app.command(context_settings=_EXTRA_FLAGS, epilog=_EPILOG)
def serving(
    context: typer.Context,
    json_file: JsonFile,
    model: Model = None,
    target: TargetFile = None,
    unmatched: Unmatched = None,
    matched: Matched = None,
    rounds: Annotated[int, typer.Option(help="Rounds of four arms.", min=3)] = 8,
    concurrency: Annotated[int, typer.Option(help="Streams at the same time.", min=1)] = 16,
    requests: Annotated[int, typer.Option(help="Requests per arm and round.", min=1)] = 48,
    max_tokens: MaxTokens = 256,
) -> None:
    """Throughput and latency, guarded against plain, with unmatched and with matched traffic."""
    with one_line_errors():
        from server.bench.inputs import matched_questions, read_target, unmatched_questions
        from server.bench.serving import ServingPlan, bench_serving

        name, flags = _model_and_flags(model, context.args)
        plan = ServingPlan(
            model=name,
            flags=flags,
            target=read_target(target),
            unmatched=unmatched_questions(unmatched),
            matched=matched_questions(matched),
            rounds=rounds,
            concurrency=concurrency,
            requests=requests,
            max_tokens=max_tokens,
        )
        run(json_file, lambda progress: bench_serving(plan, progress))


@bench_app.command(context_settings=_EXTRA_FLAGS, epilog=_EPILOG)
def gateway(
    context: typer.Context,
    json_file: JsonFile,
    litellm: Annotated[
        Path,
        typer.Option(help="Python interpreter that has litellm[proxy], to measure it as well."),
    ],
    model: Model = None,
    target: TargetFile = None,
    unmatched: Unmatched = None,
    rounds: Annotated[int, typer.Option(help="Rounds of all arms.", min=3)] = 8,
    requests: Annotated[int, typer.Option(help="Requests per round, one by one.", min=1)] = 16,
    max_tokens: Annotated[int, typer.Option(help="Tokens of an answer, on average.", min=4)] = 64,
    burst: Annotated[int, typer.Option(help="Requests per round, many at once.", min=1)] = 96,
    burst_tokens: Annotated[int, typer.Option(help="Tokens of each, on average.", min=4)] = 8,
    concurrency: Annotated[int, typer.Option(help="Streams at the same time.", min=1)] = 32,
    scripted: Annotated[
        bool, typer.Option(help="Also before an engine that counts without waiting.")
    ] = True,
) -> None:
    """What the gateway adds to plain vLLM, beside what LiteLLM's proxy adds to the same."""
    with one_line_errors():
        from server.bench.gateway import GatewayPlan, bench_gateway
        from server.bench.gateway_arms import RoundLoad
        from server.bench.inputs import read_target, unmatched_questions

        name, flags = _model_and_flags(model, context.args)
        plan = GatewayPlan(
            model=name,
            flags=flags,
            target=read_target(target),
            unmatched=unmatched_questions(unmatched),
            python=litellm,
            rounds=rounds,
            load=RoundLoad(requests, max_tokens, burst, burst_tokens, concurrency),
            scripted=scripted,
        )
        run(json_file, lambda progress: bench_gateway(plan, progress))


@bench_app.command(context_settings=_EXTRA_FLAGS, epilog=_EPILOG)
def registration(
    context: typer.Context,
    json_file: JsonFile,
    model: Model = None,
    target: Annotated[
        Path | None,
        typer.Option(help="Target to register, as JSON. [default: 400 invented pairs]"),
    ] = None,
    unmatched: Unmatched = None,
    repetitions: Annotated[int, typer.Option(help="Registrations to measure.", min=3)] = 3,
    concurrency: Annotated[int, typer.Option(help="Streams at the same time.", min=1)] = 8,
    max_tokens: MaxTokens = 64,
) -> None:
    """Time until a registered target is in force, and what running streams notice of it."""
    with one_line_errors():
        from server.bench.inputs import read_target, unmatched_questions
        from server.bench.registration import RegistrationPlan, bench_registration

        name, flags = _model_and_flags(model, context.args)
        plan = RegistrationPlan(
            model=name,
            flags=flags,
            target=None if target is None else read_target(target),
            prompts=unmatched_questions(unmatched),
            repetitions=repetitions,
            concurrency=concurrency,
            max_tokens=max_tokens,
        )
        run(json_file, lambda progress: bench_registration(plan, progress))


@bench_app.command("admin-load", context_settings=_EXTRA_FLAGS, epilog=_EPILOG)
def admin_load(
    context: typer.Context,
    json_file: JsonFile,
    model: Model = None,
    target: TargetFile = None,
    unmatched: Unmatched = None,
    matched: Matched = None,
    windows: Annotated[int, typer.Option(help="Windows without load, as many with.", min=2)] = 6,
    seconds: Annotated[float, typer.Option(help="Length of a window.", min=1)] = 20,
    rate: Annotated[float, typer.Option(help="Lists, and checks, a second.", min=0.1)] = 2,
    concurrency: Annotated[int, typer.Option(help="Streams at the same time.", min=1)] = 8,
    imported: Annotated[int, typer.Option(help="Targets to import; 0: none.", min=0)] = 10_000,
    max_tokens: MaxTokens = 128,
) -> None:
    """What streams notice of a busy admin API; import, list pages and memory at 10k targets."""
    with one_line_errors():
        from server.bench.admin_load import AdminLoadPlan, bench_admin_load
        from server.bench.inputs import matched_questions, read_target, unmatched_questions

        name, flags = _model_and_flags(model, context.args)
        plan = AdminLoadPlan(
            model=name,
            flags=flags,
            target=read_target(target),
            unmatched=unmatched_questions(unmatched),
            matched=matched_questions(matched),
            windows=windows,
            seconds=seconds,
            rate=rate,
            concurrency=concurrency,
            max_tokens=max_tokens,
            imported=imported,
        )
        run(json_file, lambda progress: bench_admin_load(plan, progress))


@bench_app.command()
def classifier(
    json_file: JsonFile,
    encoder: Annotated[str, typer.Option(help="Sentence encoder.")] = DEFAULT_ENCODER,
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


@bench_app.command(context_settings=_EXTRA_FLAGS, epilog=_EPILOG)
def semantic(
    context: typer.Context,
    json_file: JsonFile,
    model: Model = None,
    target: TargetFile = None,
    unmatched: Unmatched = None,
    forget: Annotated[
        Path | None,
        typer.Option(help='JSONL of {"question", "answer", "heldout"}. [default: the demo\'s]'),
    ] = None,
    rounds: Annotated[int, typer.Option(help="Rounds of three arms.", min=3)] = 3,
    concurrency: Annotated[int, typer.Option(help="Streams at the same time.", min=1)] = 16,
    requests: Annotated[int, typer.Option(help="Requests per arm and round.", min=1)] = 96,
    innocent: Annotated[int, typer.Option(help="Innocent questions to compare.", min=1)] = 100,
    max_tokens: MaxTokens = 64,
) -> None:
    """What the semantic filter catches, changes and costs, beside tokens only."""
    with one_line_errors():
        from server.bench.inputs import forget_rows, read_target, unmatched_questions
        from server.bench.near_verbatim import Question
        from server.bench.semantic import SemanticPlan, bench_semantic

        name, flags = _model_and_flags(model, context.args)
        plan = SemanticPlan(
            model=name,
            flags=flags,
            target=read_target(target),
            questions=[Question(**row) for row in forget_rows(forget)],
            innocent=unmatched_questions(unmatched)[:innocent],
            rounds=rounds,
            concurrency=concurrency,
            requests=requests,
            max_tokens=max_tokens,
        )
        run(json_file, lambda progress: bench_semantic(plan, progress))


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
    encoder: Annotated[str, typer.Option(help="Sentence encoder.")] = DEFAULT_ENCODER,
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


@bench_app.command(context_settings=_EXTRA_FLAGS, epilog=_EPILOG)
def recite(
    context: typer.Context,
    json_file: JsonFile,
    model: Annotated[
        Path | None,
        typer.Option(help="Folder made by deploy/demo/recite.py. [default: train one]"),
    ] = None,
    generations: Annotated[int, typer.Option(help="Generations per arm.", min=1)] = 1000,
    rounds: Annotated[int, typer.Option(help="Rounds of all arms.", min=1)] = 6,
    requests: Annotated[int, typer.Option(help="Requests per arm and round.", min=1)] = 96,
    concurrency: Annotated[int, typer.Option(help="Streams at the same time.", min=1)] = 16,
    max_tokens: MaxTokens = 128,
) -> None:
    """A model that recites documents: what veto and shield stop, change and cost."""
    with one_line_errors():
        from server.bench.inputs import DEMO_FLAGS
        from server.bench.recite import RecitePlan, bench_recite
        from server.settings import Settings

        _, flags = _model_and_flags(str(model), context.args or list(DEMO_FLAGS))
        plan = RecitePlan(
            model=model,
            flags=flags,
            generations=generations,
            rounds=rounds,
            requests=requests,
            concurrency=concurrency,
            max_tokens=max_tokens,
            minimum_match=Settings().minimum_match_tokens,
        )
        run(json_file, lambda progress: bench_recite(plan, progress))


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


@bench_app.command(context_settings=_EXTRA_FLAGS, epilog=_EPILOG)
def soak(
    context: typer.Context,
    json_file: JsonFile,
    model: Model = None,
    target: TargetFile = None,
    unmatched: Unmatched = None,
    minutes: Annotated[float, typer.Option(help="How long, without the preparation.", min=1)] = 30,
    concurrency: Annotated[int, typer.Option(help="Clients at the same time.", min=1)] = 8,
    reload_seconds: Annotated[
        float, typer.Option(help="Time between two changes of policy.", min=0.1)
    ] = 2.0,
    questions: Annotated[int, typer.Option(help="Unmatched questions, at most.", min=25)] = 100,
) -> None:
    """Mixed load while policies change and processes are killed; exit status 1 if not passed."""
    with one_line_errors():
        from server.bench.inputs import read_target, unmatched_questions
        from server.bench.soak.run import SoakPlan, bench_soak

        name, flags = _model_and_flags(model, context.args)
        found = unmatched_questions(unmatched)
        plan = SoakPlan(
            model=name,
            flags=flags,
            target=read_target(target),
            unmatched=found[:: max(1, len(found) // questions)][:questions],
            seconds=60 * minutes,
            concurrency=concurrency,
            reload_seconds=reload_seconds,
        )
        figures = run(json_file, lambda progress: bench_soak(plan, progress))
        for sentence in figures["missed"]:
            typer.echo(f"lethegate: not passed: {sentence}", err=True)
        if not figures["passed"]:
            raise typer.Exit(1)


def _model_and_flags(model: str | None, flags: list[str]) -> tuple[str, list[str]]:
    """The model and vLLM's flags; the demo has its own, and two servers share one GPU's memory."""
    from server.bench.inputs import DEMO_FLAGS, model_or_demo
    from server.bench.report import gpus

    chosen = flags or (list(DEMO_FLAGS) if model is None else [])
    if gpus() and not any(flag.startswith("--gpu-memory-utilization") for flag in chosen):
        chosen = [*chosen, "--gpu-memory-utilization", "0.4"]
    return model_or_demo(model), chosen


def run(json_file: Path, bench: Callable[[Progress], dict[str, Any]]) -> dict[str, Any]:
    """Run a bench with a bar of its progress, write its report and print it."""
    from server.bench.report import check_writable, load_average, write_report

    check_writable(json_file)
    load_before = load_average()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeElapsedColumn(), console=Console(stderr=True)) as progress:
        figures = bench(progress)
    write_report(json_file, figures, load_before)
    _print(figures)
    return figures


def _print(figures: dict[str, Any]) -> None:
    """A table of the figures: those with a spread on one line each."""
    table = Table("figure", "median", "min", "max", box=None)
    for column in table.columns[1:]:
        column.justify = "right"
    for key, value in figures.items():
        if f"{key}_min" in figures:
            low, high = figures[f"{key}_min"], figures[f"{key}_max"]
            table.add_row(key, f"{value:.4g}", f"{low:.4g}", f"{high:.4g}")
        elif isinstance(value, int):
            table.add_row(key, str(value), "", "")
    Console().print(table)


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Errors as one line, then what the servers' logs say; SIGTERM and SIGHUP act as Ctrl-C."""
    # A shell starts background jobs with Ctrl-C ignored; the others would then do nothing either.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: signal.raise_signal(signal.SIGINT))
    try:
        yield
    except (ServerError, DetectorError) as error:
        for note in getattr(error, "__notes__", ()):
            typer.echo(note, err=True)
        typer.echo(f"lethegate: {error}", err=True)
        from server.bench.errors import InputMissing

        raise typer.Exit(2 if isinstance(error, InputMissing) else 1) from None
