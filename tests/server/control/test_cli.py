"""The command line, against a real admin API where it calls one."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner, Result

from server import cli_corpus
from server.cli import app
from server.database import Database
from server.provenance import files
from server.schemas import TargetIn
from server.sealing import Vault
from server.settings import Settings
from server.state_dir import own_directory
from server.store import Store


@pytest.fixture
def run(admin: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Run a command against the admin API."""
    monkeypatch.setenv("LETHEGATE_ADMIN_KEY", "admin-key")
    monkeypatch.setenv("LETHEGATE_ADMIN_PORT", str(admin.base_url.port))

    def invoke(*arguments: str, given: str | None = None) -> Result:
        return CliRunner().invoke(app, list(arguments), input=given)

    return invoke


def test_targets_from_the_shell(run: Callable[..., Result], tmp_path: Path) -> None:
    """A target is added, listed, shown and removed."""
    file = tmp_path / "ada.json"
    file.write_text('{"id": "ada", "phrases": ["Port Sorrel"]}')
    added = run("targets", "add", str(file), "--wait")
    listed = run("targets", "list", "--json")
    table = run("targets", "list")
    shown = run("targets", "show", "ada")
    removed = run("targets", "rm", "ada", "--json")
    job = json.loads(removed.stdout)["job"]
    waited = run("jobs", "wait", job["id"])

    assert added.exit_code == 0, added.output
    assert "in force with generation" in added.stdout
    assert [target["status"] for target in json.loads(listed.stdout)] == ["active"]
    assert "ada" in table.stdout
    assert json.loads(shown.stdout)["target"]["phrases"][0]["text"] == "Port Sorrel"
    assert waited.exit_code == 0
    assert json.loads(run("targets", "list", "--json").stdout) == []
    assert json.loads(run("jobs", "list", "--json").stdout)[0]["kind"] == "withdraw"
    assert "withdraw" in run("jobs", "list").stdout


def test_the_policy_from_the_shell(run: Callable[..., Result], admin: httpx.Client) -> None:
    """Which rules, who applies it, and which ruled before."""
    added = run("targets", "add", "-", "--wait", given='{"id": "ada", "phrases": ["Sorrel"]}')
    ruling = admin.get("/admin/v1/generation").json()
    shown = run("policy", "show")
    listed = run("policy", "list", "--limit", "1")

    assert added.exit_code == 0, added.output
    assert json.loads(run("policy", "show", "--json").stdout)["digest"] == ruling["digest"]
    assert f"generation {ruling['generation']}: " in shown.stdout
    assert "1 target, by register" in shown.stdout
    assert ruling["digest"] in shown.stdout
    [newest] = json.loads(run("policy", "list", "--limit", "1", "--json").stdout)
    assert newest["generation"] == ruling["generation"]
    assert newest["digest"] in listed.stdout
    assert run("policy", "list", "--limit", "0").exit_code == 2


def test_failures_are_one_line_and_a_status(run: Callable[..., Result]) -> None:
    """What the API refuses is one line on standard error and status 1."""
    refused = run("targets", "add", "-", given='{"id": "NO", "phrases": ["x"]}')
    absent = run("targets", "show", "no/body")
    unreadable = run("targets", "add", "/nowhere.json")
    given = '{"id": "bad", "phrases": ["x"], "labels": {"fail": "compile"}}'
    failed = run("targets", "add", "-", "--wait", given=given)

    assert (refused.exit_code, refused.stderr.count("\n")) == (1, 1)
    assert "id:" in refused.stderr
    assert "invalid_field" in refused.stderr
    assert (absent.exit_code, "not_found" in absent.stderr) == (1, True)
    assert unreadable.exit_code == 2
    assert failed.exit_code == 1
    assert "failed" in failed.stderr


def test_no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a server the command says where it looked."""
    monkeypatch.setenv("LETHEGATE_ADMIN_KEY", "admin-key")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    result = CliRunner().invoke(app, ["targets", "list", "--admin-port", str(port)])

    assert result.exit_code == 1
    assert f"127.0.0.1:{port}" in result.stderr


def test_bad_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bad setting is status 2 and names its variable."""
    monkeypatch.setenv("LETHEGATE_PORT", "many")
    result = CliRunner().invoke(app, ["targets", "list"])

    assert result.exit_code == 2
    assert "LETHEGATE_PORT" in result.stderr


def test_serve_passes_the_rest_to_vllm(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Our flags become settings, everything else goes to vLLM in order."""
    calls: list[tuple[Settings, str, list[str]]] = []
    launch = ModuleType("server.launch")
    launch.serve = lambda *call: calls.append(call) or 3  # type: ignore[attr-defined,func-returns-value]
    monkeypatch.setitem(sys.modules, "server.launch", launch)
    arguments = "serve ./model --max-model-len 512 --port 9000 -tp 2 --fail-open --dtype=float32"
    given = [*arguments.split(), "--state-dir", str(tmp_path), "--", "--config", "vllm.yaml"]
    result = CliRunner().invoke(app, given)

    assert result.exit_code == 3, result.output
    ((settings, model, rest),) = calls
    assert (model, settings.port, settings.fail_open) == ("./model", 9000, True)
    expected = "--max-model-len 512 -tp 2 --dtype=float32 --config vllm.yaml"
    assert " ".join(rest) == expected


def test_serve_wants_the_model_first() -> None:
    """A vLLM flag before the model would be taken for it, so it is refused."""
    result = CliRunner().invoke(app, ["serve", "--max-model-len", "512", "model"])

    assert result.exit_code == 2
    assert "MODEL comes first" in result.stderr


def test_version() -> None:
    """The version is printed."""
    result = CliRunner().invoke(app, ["version"])

    assert result.stdout.startswith("lethegate 0.")


def test_secrets_have_no_flag(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys cannot be given where process lists would show them."""
    result: Any = CliRunner().invoke(app, ["control", "--help"])

    assert "--admin-port" in result.stdout
    assert "--admin-key" not in result.stdout


def test_port_in_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control process says which address it cannot have."""
    own_directory(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        arguments = ["control", "--model", "m", "--state-dir", str(tmp_path)]
        result = CliRunner().invoke(app, [*arguments, "--admin-port", str(port)])

    assert result.exit_code == 1
    assert f"cannot listen on 127.0.0.1:{port}" in result.stderr


def test_corpora_from_the_shell(run: Callable[..., Result], tmp_path: Path) -> None:
    """Files of all kinds become documents of a corpus, which is shown, verified and withdrawn."""
    folder = tmp_path / "papers"
    (folder / "deep").mkdir(parents=True)
    (folder / "a.txt").write_text("eleven copper kettles on the sill")
    (folder / "b.md.xz").write_bytes(lzma.compress(b"# A seventh door painted marine green"))
    lines = [{"text": "one line"}, {"text": "two lines", "metadata": {"k": "v"}, "source": "s"}]
    packed = gzip.compress("\n".join(map(json.dumps, lines)).encode())
    (folder / "deep" / "c.jsonl.gz").write_bytes(packed)
    (folder / "ignored.bin").write_bytes(b"\xff\x00")
    added = run("corpus", "add", "papers", str(folder), "--label", "licensed", "--wait")
    corpora = json.loads(run("corpus", "list", "--json").stdout)
    documents = json.loads(run("corpus", "show", "papers", "--documents", "--json").stdout)
    shown = json.loads(run("corpus", "show", "papers", "1").stdout)
    verified = run("corpus", "verify", "papers")
    changes = ("--minimum-match", "5", "--no-veto", "--unset", "max-frequency", "--wait")
    changed = run("corpus", "change", "papers", *changes)
    settled = json.loads(run("corpus", "show", "papers").stdout)
    withdrawn = run("corpus", "withdraw", "papers", "0", "--erase", "--wait")
    table = run("corpus", "list").stdout

    assert added.exit_code == 0, added.output
    assert "4 documents added" in added.stdout
    assert [(c["id"], c["label"], c["documents"]) for c in corpora] == [("papers", "licensed", 4)]
    assert [Path(d["source"]).name for d in documents] == ["a.txt", "b.md.xz", "c.jsonl.gz:1", "s"]
    assert shown["text"] == "# A seventh door painted marine green"
    assert "no fault" in verified.stdout
    assert withdrawn.exit_code == 0, withdrawn.output
    assert changed.exit_code == 0, changed.output
    assert (settled["minimum_match"], settled["label"], settled["veto"]) == (5, "licensed", False)
    assert "papers" in table
    assert run("corpus", "withdraw", "papers", "--wait").exit_code == 0
    assert json.loads(run("corpus", "list", "--json").stdout) == []


@pytest.mark.parametrize(
    ("generation", "told"),
    [(None, "1 document checked\n"), (3, "1 document checked\nin force with generation 3\n")],
)
def test_a_job_of_a_corpus_is_told_once(
    generation: int | None, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its message, and the generation where it has one."""
    job = {"id": "j", "state": "done", "message": "1 document checked", "generation": generation}
    client: Any = SimpleNamespace(wait=lambda *_: job)
    cli_corpus._follow(client, {"job": job, "corpus_id": "papers"}, True, 1, False)

    assert capsys.readouterr().out == told


def test_corpus_commands_refuse_in_one_line(run: Callable[..., Result], tmp_path: Path) -> None:
    """What cannot be read or changed is one line on standard error."""
    broken = tmp_path / "x.jsonl"
    broken.write_text('{"text": "fine"}\n{"no": 1}\n')
    torn = tmp_path / "y.txt.gz"
    torn.write_bytes(gzip.compress(b"words " * 1000)[:-20])
    run("corpus", "add", "book", "--wait")
    answers = [
        run("corpus", "add", "book", str(broken)),
        run("corpus", "add", "book", str(torn)),
        run("corpus", "add", "book", str(tmp_path / "none")),
        run("corpus", "add", "book", "--label", "unsafe"),
        run("corpus", "change", "book"),
        run("corpus", "change", "book", "--minimum-match", "1"),
        run("corpus", "show", "none"),
    ]

    assert [a.stderr.count("\n") for a in answers] == [1] * 7
    assert all(a.exit_code for a in answers)
    assert "line 2" in answers[0].stderr


def test_an_upload_that_failed_can_be_given_again(
    run: Callable[..., Result], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The corpus is there by then; other settings than it has are refused. Nothing is a fault."""
    path = tmp_path / "a.jsonl"
    path.write_text("{")
    first = run("corpus", "add", "book", str(path), "--label", "licensed", "--scope", "always")
    path.write_text('{"text": "eleven copper kettles on the sill"}')
    again = run(
        "corpus", "add", "book", str(path), "--label", "licensed", "--scope", "always", "--wait"
    )
    other = run("corpus", "add", "book", str(path), "--label", "unsafe", "--scope", "always")

    assert first.exit_code == 1
    assert again.exit_code == 0, again.output
    assert "1 documents added" in again.stdout
    assert (other.exit_code, "its label can be changed" in other.stderr) == (1, True)
    assert "unexpected_fault" not in capfd.readouterr().err


def _flipped(packed: bytes) -> bytes:
    middle = len(packed) // 2
    return packed[:middle] + bytes([packed[middle] ^ 0xFF]) * 20 + packed[middle + 20 :]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.txt", b"\xe9\xff"),
        ("a.txt.gz", b"no gzip"),
        ("a.txt.gz", _flipped(gzip.compress(bytes(range(256)) * 9))),
        ("a.txt.bz2", _flipped(bz2.compress(bytes(range(256)) * 9))),
        ("a.txt.xz", _flipped(lzma.compress(bytes(range(256)) * 9))),
        ("a.jsonl", b"[" * 100_000),
        ("a.jsonl", b'{"text": 5}'),
    ],
)
def test_files_that_cannot_be_read_are_named(tmp_path: Path, name: str, content: bytes) -> None:
    """Whatever is wrong with them."""
    path = tmp_path / name
    path.write_bytes(content)

    with pytest.raises(files.UnreadableFile, match=name):
        list(files.read_documents(path, lambda count: None))


def test_long_texts_are_cut_with_an_overlap(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No passage is lost where a text that is too long for one document is cut."""
    monkeypatch.setattr(files, "PART_CHARS", 1000)
    monkeypatch.setattr(files, "OVERLAP_CHARS", 100)
    text = "".join(f"line {i} of a long text\n" for i in range(200))
    path = tmp_path / "long.txt"
    path.write_text(text)
    read: list[int] = []
    parts = [d["text"] for d in files.read_documents(path, read.append)]

    assert len(parts) > 3
    assert all(len(part) <= 2000 for part in parts)
    assert all(any(text[at : at + 90] in p for p in parts) for at in range(0, len(text) - 90, 7))
    assert sum(read) == path.stat().st_size


def test_the_store_from_the_shell(tmp_path: Path) -> None:
    """A store is encrypted, backed up, restored elsewhere, and its key changed."""
    key, file = tmp_path / "key", tmp_path / "b.tar"

    def invoke(state: str, *arguments: str) -> Result:
        flags = ["--state-dir", str(tmp_path / state), "--encryption-key-file", str(key)]
        return CliRunner().invoke(app, [*arguments, *flags], env={"LETHEGATE_DATABASE_URL": ""})

    none = invoke("one", "backup", str(file))
    made = CliRunner().invoke(app, ["encryption", "new-key", str(key)])
    own_directory(tmp_path / "one")
    database = Database(f"sqlite:///{tmp_path / 'one' / 'lethegate.db'}", Vault.read(key))
    Store(database).register(TargetIn.model_validate({"id": "ada", "phrases": ["Port Sorrel"]}))
    database.close()
    backed = invoke("one", "backup", str(file))
    again = invoke("one", "backup", str(file))
    CliRunner().invoke(app, ["encryption", "new-key", str(key)])
    restored = invoke("two", "restore", str(file), "--json")
    rotated = invoke("two", "encryption", "rotate")

    assert (none.exit_code, "there is no store" in none.output) == (1, True)
    assert (made.exit_code, made.stdout) == (0, f"{key}: 1 key\n")
    assert backed.exit_code == 0, backed.output
    assert "1 targets" in backed.stdout
    assert (again.exit_code, "is never overwritten" in again.output) == (1, True)
    assert restored.exit_code == 0, restored.output
    assert json.loads(restored.stdout)["targets"] == 1
    assert (rotated.exit_code, rotated.stdout[:6]) == (0, "2 rows"), rotated.output


def test_many_targets_from_the_shell(run: Callable[..., Result], tmp_path: Path) -> None:
    """Targets are validated, imported and exported as lines; one is patched and rolled back."""
    lines, bad, out = tmp_path / "t.jsonl", tmp_path / "bad.jsonl", tmp_path / "out.jsonl"
    lines.write_text("".join(f'{{"id": "t{n}", "phrases": ["Port {n}"]}}\n' for n in range(3)))
    bad.write_text('{"id": "t9"}\n')
    checked, refused = run("targets", "validate", str(lines)), run("targets", "validate", str(bad))
    imported = run("targets", "import", str(lines), "--wait")
    again = run("targets", "import", str(lines))
    skipped = run("targets", "import", str(lines), "--on-conflict", "skip")
    exported = run("targets", "export", str(out))
    twice = run("targets", "export", str(out))
    shown = run("targets", "export")
    patched = run("targets", "patch", "t1", "-", "--wait", given='{"description": "new"}')
    diff = run("targets", "diff", "t1", "1")
    rolled = run("targets", "rollback", "t1", "1", "--wait", "--json")
    versions = run("targets", "versions", "t1", "--json")

    assert (checked.exit_code, "3 targets can be taken, 0 are" in checked.stdout) == (0, True)
    assert (refused.exit_code, "line 1: examples: needs" in refused.stdout) == (1, True)
    assert imported.exit_code == 0, imported.output
    assert imported.stdout.startswith("3 registered, 0 replaced, 0 skipped\nin force with")
    assert (again.exit_code, "line 1: a target with this id exists" in again.output) == (1, True)
    assert skipped.stdout == "0 registered, 0 replaced, 3 skipped\n"
    assert (exported.exit_code, twice.exit_code) == (0, 2)
    assert out.stat().st_mode & 0o777 == 0o600
    assert shown.stdout_bytes == out.read_bytes()
    assert [json.loads(line)["id"] for line in out.read_text().splitlines()] == ["t0", "t1", "t2"]
    assert patched.exit_code == 0, patched.output
    assert [change["field"] for change in json.loads(diff.stdout)] == ["description"]
    assert json.loads(rolled.stdout)["state"] == "done"
    assert [version["revision"] for version in json.loads(versions.stdout)] == [3, 2, 1]


def test_statistics_from_the_shell(run: Callable[..., Result], tmp_path: Path) -> None:
    """Of all targets as a table, and of one in full."""
    file = tmp_path / "ada.json"
    file.write_text('{"id": "ada", "phrases": ["Port Sorrel"]}')
    assert run("targets", "add", str(file), "--wait").exit_code == 0
    table = run("targets", "stats")
    rows = json.loads(run("targets", "stats", "--json").stdout)
    one = run("targets", "stats", "ada")
    whole = json.loads(run("targets", "stats", "ada", "--json").stdout)

    assert "would_cut" in table.stdout
    assert [(row["id"], row["matched"]) for row in rows] == [("ada", 0)]
    assert "detected last: never" in one.stdout
    assert whole["prompts"]["would_refuse"] == 0
    assert run("targets", "stats", "nobody").exit_code == 1
