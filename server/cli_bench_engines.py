"""The benches that start vLLM: servers beside each other, and what a guarded one gives away."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from server.cli_bench import JsonFile, bench_app, one_line_errors, run

_EXTRA_FLAGS = {"allow_extra_args": True, "ignore_unknown_options": True}
_EPILOG = "Every other flag goes to vLLM, to both servers alike; what follows -- goes to it unread."

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
Streams = Annotated[int, typer.Option(help="Streams at the same time.", min=1)]
RequestsOfArm = Annotated[int, typer.Option(help="Requests per arm and round.", min=1)]


@bench_app.command(context_settings=_EXTRA_FLAGS, epilog=_EPILOG)
def serving(
    context: typer.Context,
    json_file: JsonFile,
    model: Model = None,
    target: TargetFile = None,
    unmatched: Unmatched = None,
    matched: Matched = None,
    rounds: Annotated[int, typer.Option(help="Rounds of four arms.", min=3)] = 8,
    concurrency: Streams = 16,
    requests: RequestsOfArm = 48,
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
    concurrency: Streams = 32,
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
    concurrency: Streams = 8,
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
    concurrency: Streams = 8,
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
    concurrency: Streams = 16,
    requests: RequestsOfArm = 96,
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
    requests: RequestsOfArm = 96,
    concurrency: Streams = 16,
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
