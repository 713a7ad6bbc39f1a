"""`lethegate corpus`: documents that must not be given away, from a shell."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from server.cli_admin import (
    CLIENT_SETTINGS,
    AsJson,
    Timeout,
    Wait,
    finish,
    print_json,
    print_list,
    print_table,
    show_progress,
    tell,
)
from server.cli_settings import Fail, with_settings
from server.client import AdminClient
from server.provenance.files import find_files, read_documents
from server.settings import Settings

CorpusId = Annotated[str, typer.Argument(metavar="ID", help="The corpus's id.")]
LabelOption = Annotated[
    str | None, typer.Option(help="forget, unsafe, licensed, allowed or retain. [default: forget]")
]
TargetsOption = Annotated[
    list[str] | None, typer.Option(help="Judge only answers steered for this target.")
]
ScopeOption = Annotated[
    str | None,
    typer.Option(help="matched: steered answers; always: every answer. [default: matched]"),
]
EnforcementOption = Annotated[
    str | None, typer.Option(help="enforce, or observe: only recorded. [default: enforce]")
]
MinimumOption = Annotated[int | None, typer.Option(help="Shortest passage, in words. [default: 8]")]
FrequencyOption = Annotated[
    int | None, typer.Option(help="A passage that occurs more often is boilerplate.")
]
RateOption = Annotated[
    float | None, typer.Option(help="That the threshold is calibrated for. [default: 0.02]")
]
VetoOption = Annotated[
    bool | None,
    typer.Option("--veto/--no-veto", help="Veto its documents in the worker, too. [default: no]"),
]
TokensOption = Annotated[
    int | None,
    typer.Option(help="Shortest run that is vetoed, in tokens. [default: the server's setting]"),
]

corpus_app = typer.Typer(help="Register documents whose passages no answer may hold.")


@corpus_app.command("add")
@with_settings(CLIENT_SETTINGS)
def add(
    corpus_id: CorpusId,
    paths: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[PATH]...",
            help=".txt, .md or .jsonl files, also .gz, .bz2 or .xz, and directories of them.",
        ),
    ] = None,
    *,
    settings: Settings,
    label: LabelOption = None,
    target: TargetsOption = None,
    scope: ScopeOption = None,
    enforcement: EnforcementOption = None,
    minimum_match: MinimumOption = None,
    max_frequency: FrequencyOption = None,
    false_positive_rate: RateOption = None,
    veto: VetoOption = None,
    minimum_match_tokens: TokensOption = None,
    wait: Wait = False,
    timeout: Timeout = 600,
    as_json: AsJson = False,
) -> None:
    """Make corpus ID where there is none, and add the documents in PATHs to it."""
    given = _given(
        label=label,
        targets=target,
        scope=scope,
        enforcement=enforcement,
        minimum_match=minimum_match,
        max_frequency=max_frequency,
        false_positive_rate=false_positive_rate,
        veto=veto,
        minimum_match_tokens=minimum_match_tokens,
    )
    files = find_files(paths) if paths else []
    with AdminClient.of(settings) as client:
        known = next((corpus for corpus in client.corpora() if corpus["id"] == corpus_id), None)
        # The same command may be given again, after an upload that failed.
        if known and (others := [name for name, value in given.items() if known[name] != value]):
            raise Fail(
                f"corpus {corpus_id} exists: its {', '.join(others)} can be changed with "
                "`lethegate corpus change`"
            )
        if known and not files:
            raise Fail("name the files to add", status=2)
        answer = {} if known else client.create_corpus({"id": corpus_id, **given})
        if files:
            answer = client.upload_documents(corpus_id, _lines(files))
        _follow(client, answer, wait, timeout, as_json)


@corpus_app.command("change")
@with_settings(CLIENT_SETTINGS)
def change(
    corpus_id: CorpusId,
    *,
    settings: Settings,
    label: LabelOption = None,
    target: TargetsOption = None,
    scope: ScopeOption = None,
    enforcement: EnforcementOption = None,
    minimum_match: MinimumOption = None,
    max_frequency: FrequencyOption = None,
    false_positive_rate: RateOption = None,
    veto: VetoOption = None,
    minimum_match_tokens: TokensOption = None,
    unset: Annotated[
        list[str] | None,
        typer.Option(help="Set this to its default: targets, max-frequency, …"),
    ] = None,
    wait: Wait = False,
    timeout: Timeout = 600,
    as_json: AsJson = False,
) -> None:
    """Change corpus ID's settings; its documents and its index stay as they are."""
    given: dict[str, Any] = {name.replace("-", "_"): None for name in unset or ()}
    given |= _given(
        label=label,
        targets=target,
        scope=scope,
        enforcement=enforcement,
        minimum_match=minimum_match,
        max_frequency=max_frequency,
        false_positive_rate=false_positive_rate,
        veto=veto,
        minimum_match_tokens=minimum_match_tokens,
    )
    if not given:
        raise Fail("name what to change", status=2)
    with AdminClient.of(settings) as client:
        _follow(client, client.change_corpus(corpus_id, given), wait, timeout, as_json)


@corpus_app.command("list")
@with_settings(CLIENT_SETTINGS)
def list_corpora(*, settings: Settings, as_json: AsJson = False) -> None:
    """List all corpora."""
    with AdminClient.of(settings) as client:
        found = list(client.corpora())
    columns = ("id", "label", "scope", "enforcement", "status", "documents", "words", "threshold")
    print_list(columns, found, as_json)


@corpus_app.command("show")
@with_settings(CLIENT_SETTINGS)
def show(
    corpus_id: CorpusId,
    number: Annotated[
        int | None, typer.Argument(help="A document's number: print its text.")
    ] = None,
    *,
    settings: Settings,
    documents: Annotated[bool, typer.Option("--documents", help="List its documents.")] = False,
    as_json: AsJson = False,
) -> None:
    """Print one corpus, its documents, or one document, as JSON."""
    with AdminClient.of(settings) as client:
        if number is not None:
            print_json(client.document(corpus_id, number))
        elif documents and as_json:
            print_json(list(client.documents(corpus_id)))
        elif documents:
            columns = ("number", "source", "characters", "created_at")
            print_table(columns, list(client.documents(corpus_id)))
        else:
            print_json(client.corpus(corpus_id))


@corpus_app.command("withdraw")
@with_settings(CLIENT_SETTINGS)
def withdraw(
    corpus_id: CorpusId,
    numbers: Annotated[
        list[int] | None, typer.Argument(help="Documents; without any the whole corpus.")
    ] = None,
    *,
    settings: Settings,
    erase: Annotated[
        bool, typer.Option("--erase", help="The documents are also gone from disk when it is done.")
    ] = False,
    wait: Wait = False,
    timeout: Timeout = 600,
    as_json: AsJson = False,
) -> None:
    """Withdraw documents, or a corpus with all of them (which erases them)."""
    with AdminClient.of(settings) as client:
        answer: dict[str, Any] = {}
        for number in numbers or ():
            answer = client.withdraw_document(corpus_id, number, erase=erase)
        if not numbers:
            answer = client.withdraw_corpus(corpus_id)
        _follow(client, answer, wait, timeout, as_json)


@corpus_app.command("adopt")
@with_settings(CLIENT_SETTINGS)
def adopt(
    corpus_id: CorpusId,
    index: Annotated[str, typer.Argument(metavar="NAME", help="The index's folder in index_dir.")],
    *,
    settings: Settings,
    wait: Wait = False,
    timeout: Timeout = 600,
    as_json: AsJson = False,
) -> None:
    """Give corpus ID, which never had documents, an index that `lethegate index build` made."""
    with AdminClient.of(settings) as client:
        _follow(client, client.adopt_index(corpus_id, index), wait, timeout, as_json)


@corpus_app.command("verify")
@with_settings(CLIENT_SETTINGS)
def verify(
    corpus_id: CorpusId, *, settings: Settings, timeout: Timeout = 600, as_json: AsJson = False
) -> None:
    """Compare a corpus's whole index with its checksums."""
    with AdminClient.of(settings) as client:
        _follow(client, client.verify_corpus(corpus_id), True, timeout, as_json)


def _given(**asked: Any) -> dict[str, Any]:
    """The options that were given."""
    return {name: value for name, value in asked.items() if value not in (None, [])}


def _lines(files: list[Path]) -> Iterator[bytes]:
    """The files' documents as JSON lines, with a progress bar on a terminal."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
    with Progress(
        *columns, TimeRemainingColumn(), console=console, disable=not console.is_terminal
    ) as progress:
        total = sum(path.stat().st_size for path in files)
        task = progress.add_task("uploading", total=total)
        for path in files:
            for document in read_documents(path, lambda count: progress.advance(task, count)):
                yield json.dumps(document).encode() + b"\n"


def _follow(
    client: AdminClient, answer: dict[str, Any], wait: bool, timeout: float, as_json: bool
) -> None:
    job = answer["job"]
    if wait:
        job = client.wait(job["id"], timeout, show_progress)
        # Without a generation the message is what `finish` tells.
        beside = job["state"] == "done" and job["generation"] is not None
        if beside and not as_json and job["message"]:
            typer.echo(job["message"])
        finish(job, as_json)
    else:
        tell(answer, f"{answer['corpus_id']}: accepted, job {job['id']}", as_json)
