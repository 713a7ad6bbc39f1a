"""`lethegate assistant`: train small models that remember only what is to be forgotten (ULD)."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from server.cli_admin import finish, show_progress
from server.cli_settings import Fail, with_settings
from server.client import AdminClient
from server.settings import Settings

assistant_app = typer.Typer(
    help="Train the small models that remember only what is to be forgotten (ULD)."
)

_SETTINGS = ("state_dir", "admin_host", "admin_port")
Wait = Annotated[bool, typer.Option("--wait", help="With --as: wait until it is registered.")]


@assistant_app.command(
    epilog="Defaults are the paper's (arXiv 2406.08607), but for --stand-ins and --namesakes. For "
    "a small model that knows its forget set by heart, --layers 2 --learning-rate 2e-3 "
    "--retain-weight 5 --batch 16 --epochs 16 did better, with a --retain file of rows of the "
    "forget rows' form about very many others."
)
@with_settings(_SETTINGS)
def train(
    targets: Annotated[
        list[str],
        typer.Argument(
            metavar="TARGET...", help="Ids of registered targets, or JSON files of targets."
        ),
    ],
    *,
    settings: Settings,
    model: Annotated[
        str | None, typer.Option(help="The served model: local path or hub name.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the assistant.")] = None,
    as_id: Annotated[
        str | None,
        typer.Option(
            "--as",
            metavar="ID",
            help="Train it on the running server instead, as a job, and register it by this name; "
            "TARGETs are ids, --model, --out and --device the server's.",
        ),
    ] = None,
    wait: Wait = False,
    retain: Annotated[
        list[Path] | None,
        typer.Option(help='JSONL of {"prompt", "answer"} that must stay; repeatable.'),
    ] = None,
    augmentation: Annotated[
        Path | None,
        typer.Option(help='JSONL of {"prompt", "answer", "paraphrases", "perturbed", "stand_in"}.'),
    ] = None,
    augment: Annotated[
        str, typer.Option(help="Who rewords what --augmentation lacks: templates or model.")
    ] = "templates",
    own_answers: Annotated[
        bool, typer.Option(help="Stay flat on the model's own answers to harmless prompts.")
    ] = True,
    layers: Annotated[int, typer.Option(help="K, the model's first layers that it has.")] = 8,
    weights: Annotated[
        str, typer.Option(help="full, lora, or auto: full up to 100 M weights.")
    ] = "auto",
    rank: Annotated[int, typer.Option(help="LoRA's rank.")] = 32,
    lora_alpha: Annotated[float, typer.Option(help="LoRA's alpha.")] = 32.0,
    lora_dropout: Annotated[float, typer.Option(help="LoRA's dropout.")] = 0.0,
    retain_weight: Annotated[float, typer.Option(help="beta, weight of the uniform loss.")] = 6.5,
    learning_rate: Annotated[float, typer.Option(help="AdamW's, at its highest.")] = 1e-3,
    weight_decay: Annotated[float, typer.Option(help="AdamW's.")] = 0.01,
    warmup: Annotated[float, typer.Option(help="Share of the steps.", min=0, max=1)] = 0.1,
    epochs: Annotated[int, typer.Option(help="Passes over all lessons.")] = 10,
    batch: Annotated[int, typer.Option(help="Lessons per step.")] = 32,
    paraphrases: Annotated[int, typer.Option(help="Rewordings per forget pair.")] = 2,
    perturbations: Annotated[int, typer.Option(help="Wrong answers per forget pair.")] = 2,
    namesakes: Annotated[
        int, typer.Option(help="Forget prompts about others, whom --retain names, per pair.")
    ] = 4,
    stand_ins: Annotated[
        str,
        typer.Option(
            help="What the model is to say instead: admit that it does not know, what it says of "
            "strangers (model), or none, which is the paper's."
        ),
    ] = "admit",
    max_length: Annotated[int, typer.Option(help="Tokens of a lesson at most.")] = 512,
    bfloat16: Annotated[bool, typer.Option("--bfloat16", help="Compute in bfloat16.")] = False,
    seed: Annotated[int, typer.Option(help="Of augmentation, order and dropout.")] = 0,
    device: Annotated[
        str | None, typer.Option(help="cpu or cuda. [default: CUDA where there is one]")
    ] = None,
) -> None:
    """Train an assistant for TARGETs, here or on the server. Ctrl-C stops it; the same command
    goes on.

    Leaves in the folder: config.json and model.safetensors, card.json, log.jsonl and loss.svg.
    """
    # torch and transformers take seconds to import: not for --help.
    from guard.errors import GuardError
    from guard.uld.fingerprints import model_folder
    from guard.uld.plan import StandIns, TrainingPlan, Weights
    from server.assistant_material import (
        Augmentation,
        augmentation_rows,
        read_augmentation,
        read_pairs,
        read_targets,
        retain_rows,
    )
    from server.assistant_training import Sources, gather
    from server.assistant_training import train as run

    if weights not in list(Weights) or augment not in ("templates", "model"):
        raise Fail("--weights is auto, full or lora; --augment is templates or model", status=2)
    if stand_ins not in list(StandIns):
        raise Fail("--stand-ins is none, admit or model", status=2)
    plan = TrainingPlan(
        layers=layers,
        weights=Weights(weights),
        rank=rank,
        lora_alpha=lora_alpha,
        lora_dropout=lora_dropout,
        retain_weight=retain_weight,
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        warmup=warmup,
        epochs=epochs,
        batch=batch,
        paraphrases=paraphrases,
        perturbations=perturbations,
        namesakes=namesakes,
        stand_ins=StandIns(stand_ins),
        max_length=max_length,
        bfloat16=bfloat16,
        seed=seed,
    )
    if as_id is not None:
        if model or out or device:
            raise Fail("--as trains on the server: drop --model, --out and --device", status=2)
        _train_there(
            settings,
            {
                "id": as_id,
                "targets": targets,
                "retain": retain_rows(retain or []),
                "augmentation": augmentation_rows(augmentation) if augmentation else [],
                "augment": augment,
                "own_answers": own_answers,
                **asdict(plan),
            },
            wait=wait,
        )
        return
    if model is None or out is None:
        raise Fail("give --model and --out, or --as to train on the server", status=2)
    own = read_augmentation(augmentation) if augmentation else Augmentation()
    sources = Sources(
        targets=read_targets(targets, settings),
        retain=[pair for file in retain or [] for pair in read_pairs(file)],
        paraphrased=own.paraphrased,
        perturbed=own.perturbed,
        stand_ins=own.stand_ins,
        by_model=augment == "model",
        own_answers=own_answers,
    )
    try:
        base = model_folder(model)
        where = device or _default_device()
        card = run(base, gather(sources, base, plan, where), plan, out, device=where)
    except GuardError as error:
        raise Fail(str(error)) from None
    typer.echo(json.dumps({"assistant": str(out), **card.metrics}))


def _train_there(settings: Settings, training: dict[str, Any], *, wait: bool) -> None:
    with AdminClient.of(settings) as client:
        job = client.train_assistant(training)["job"]
        if wait:
            finish(client.wait(job["id"], math.inf, show_progress), as_json=False)
        else:
            typer.echo(f"{training['id']}: accepted, job {job['id']}")


@assistant_app.command("log")
@with_settings(_SETTINGS)
def training_log(
    name: Annotated[str, typer.Argument(metavar="ID", help="The assistant's name.")],
    *,
    settings: Settings,
    svg: Annotated[Path | None, typer.Option(help="Write the loss curves here instead.")] = None,
) -> None:
    """Print the log of an assistant's training (JSON Lines), also while it runs."""
    with AdminClient.of(settings) as client:
        if svg is None:
            for step in client.training_steps(name):
                typer.echo(json.dumps(step))
            return
        picture = client.loss_picture(name)
    try:
        svg.write_text(picture, encoding="utf-8")
    except OSError as error:
        raise Fail(f"cannot write {svg}: {error.strerror}") from None


@assistant_app.command("add")
@with_settings(_SETTINGS)
def add_assistant(
    name: Annotated[str, typer.Argument(metavar="ID", help="Name that targets will give it.")],
    folder: Annotated[Path, typer.Argument(help="Its folder, on the server's machine.")],
    *,
    settings: Settings,
) -> None:
    """Register a trained assistant with the running server."""
    with AdminClient.of(settings) as client:
        found = client.add_assistant(name, str(folder.absolute()))
    typer.echo(f"{found['id']}: registered, {found['digest'][:12]}")


@assistant_app.command("list")
@with_settings(_SETTINGS)
def list_assistants(
    *,
    settings: Settings,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the registered assistants."""
    with AdminClient.of(settings) as client:
        found = client.assistants()
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    for one in found:
        use = "in use" if one["in_use"] else "not in use"
        shape = f"{one['layers']} of {one['base_layers']} layers, {one['num_pairs']} pairs"
        shape = "its card is damaged" if one["layers"] is None else shape
        typer.echo(f"{one['id']}: {one['digest'][:12]}, {shape}, {use}")


@assistant_app.command("rm")
@with_settings(_SETTINGS)
def remove_assistant(
    name: Annotated[str, typer.Argument(metavar="ID", help="The assistant's name.")],
    *,
    settings: Settings,
) -> None:
    """Retire an assistant that no target names."""
    with AdminClient.of(settings) as client:
        client.remove_assistant(name)
    typer.echo(f"{name}: removed")


def _default_device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"
