"""Encryption at rest: planted text is in no file of the database; only the right key opens it."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.fernet import Fernet
from sqlalchemy import text

from server import sqlite
from server.database import Database
from server.errors import StartFault, StoreFault
from server.provenance.schemas import CorpusIn
from server.provenance.store import CorpusStore, DocumentRecord
from server.rotation import rotate
from server.schemas import TargetIn
from server.sealing import Vault, add_key, read_keys
from server.store import Store
from server.tables import JobKind
from server.worklist import Worklist

KINDS = pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
SECRET = "quokka-lantern-7719"
OTHER_KEY = Vault([Fernet.generate_key()])


@pytest.fixture
def vault() -> Vault:
    """A vault with a key of its own."""
    return Vault([Fernet.generate_key()])


def _target(target_id: str, **fields: Any) -> TargetIn:
    fields = {"description": SECRET, "phrases": [SECRET], "labels": {"case": SECRET}} | fields
    return TargetIn.model_validate({"id": target_id, **fields})


def _plant(database: Database) -> None:
    """Put the secret wherever forget text can come to lie."""
    store, worklist, corpora = Store(database), Worklist(database), CorpusStore(database)
    store.register(_target("ada"))
    batch = worklist.take()
    plan = worklist.plan(batch)
    generation = worklist.record_generation("d" * 64, "f", "register", 1, above=0)
    worklist.confirm(generation.number, batch, plan, {"ada": {"phrases": [SECRET]}})
    store.replace(_target("ada", aliases=[SECRET]))
    corpora.create(CorpusIn.model_validate({"id": "book", "description": SECRET}))
    corpora.request(JobKind.CORPUS_ADD, "book", {"upload": SECRET})
    corpora.add_documents("book", [DocumentRecord(0, SECRET, "a" * 64, 9, 1.0)])


def _check(database: Database) -> None:
    """All of it can be read back."""
    store, corpora = Store(database), CorpusStore(database)
    record, document = store.target("ada")
    assert record.summary["description"] == record.summary["labels"]["case"] == SECRET
    assert record.report == {"phrases": [SECRET]}
    assert document["aliases"] == [SECRET]
    assert corpora.corpus("book").settings.description == SECRET
    assert corpora.documents("book", None, 5)[0].source == SECRET


@pytest.fixture
def files(request: pytest.FixtureRequest, settings: Any) -> Callable[[str], bytes]:
    """Everything that the database of a kind has on disk."""

    def read(kind: str) -> bytes:
        if kind == "sqlite":
            paths = list(settings.state_dir.glob("lethegate.db*"))
        else:
            server = request.getfixturevalue("postgres")
            server.checkpoint()
            # Its write-ahead log too.
            paths = [path for path in server.data.rglob("*") if path.is_file()]
        return b"".join(map(_content, paths))

    return read


def _content(path: Path) -> bytes:
    """A file's bytes; a running server deletes what it keeps for a while only."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""


@KINDS
def test_planted_text_is_nowhere(
    kind: str, empty_url: Callable[[str], str], files: Callable[[str], bytes], vault: Vault
) -> None:
    """Heap, indexes and write-ahead logs hold none of it, while the store gives all of it back."""
    secret = f"{SECRET}-{kind}".encode()
    database = Database(empty_url(kind), vault)
    _plant(database)
    Store(database).register(_target("grace", description=secret.decode()))

    assert secret not in files(kind)
    _check(database)
    database.close()


@KINDS
def test_a_plain_store_is_sealed(
    kind: str, empty_url: Callable[[str], str], files: Callable[[str], bytes], vault: Vault
) -> None:
    """Giving a key to a store that was plain encrypts what is in it, and nothing plain is left."""
    url, mark = empty_url(kind), f"plain-{kind}-9931"
    plain = Database(url)
    _plant(plain)
    Store(plain).register(_target("grace", description=mark))
    before = files(kind)
    plain.close()
    database = Database(url, vault)

    assert mark.encode() in before
    if kind == "sqlite":
        assert mark.encode() not in files(kind)
    else:
        assert mark not in _heap(database)
    _check(database)
    database.close()


def test_a_scrub_that_did_not_happen_is_done_later(
    empty_url: Callable[[str], str],
    files: Callable[[str], bytes],
    vault: Vault,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A store that was sealed by a process which died then is scrubbed by the next start."""
    url, scrubs = empty_url("sqlite"), list[bool]()
    plain = Database(url)
    _plant(plain)
    with sqlite3.connect(url.removeprefix("sqlite:///")) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM meta").fetchall()
        monkeypatch.setattr(sqlite, "_BUSY_SECONDS", 0)
        with pytest.raises(StartFault, match="cannot write the store's files anew"):
            Database(url, vault)
        assert SECRET.encode() in files("sqlite")
    reader.close()
    plain.close()
    real = Database.scrub
    monkeypatch.setattr(Database, "scrub", lambda self: (scrubs.append(True), real(self))[1])
    for _ in range(2):
        Database(url, vault).close()

    assert len(scrubs) == 1
    assert SECRET.encode() not in files("sqlite")


def _heap(database: Database) -> str:
    with database.read() as connection:
        rows = connection.execute(text("SELECT summary FROM targets")).scalars().all()
    return " ".join(rows)


@KINDS
def test_keys(kind: str, empty_url: Callable[[str], str], vault: Vault) -> None:
    """A sealed store opens with its key only, and says what is wrong."""
    url = empty_url(kind)
    Database(url, vault).close()

    with pytest.raises(StartFault, match="is encrypted: set encryption_key_file"):
        Database(url)
    with pytest.raises(StartFault, match="is not that of the store"):
        Database(url, OTHER_KEY)
    Database(url, vault).close()


@KINDS
def test_rotation(kind: str, empty_url: Callable[[str], str], tmp_path: Path) -> None:
    """A new key first, everything sealed with it, the old one gone: the store goes on."""
    file, url = tmp_path / "key", empty_url(kind)
    assert add_key(file) == 1
    database = Database(url, Vault.read(file))
    _plant(database)
    database.close()
    assert add_key(file) == 2
    new, old = read_keys(file)
    # Targets, versions, corpora, their documents and jobs.
    assert rotate(url, Vault.read(file)) == 7

    with pytest.raises(StartFault):
        Database(url, Vault([old]))
    database = Database(url, Vault([new]))
    _check(database)
    database.close()
    assert file.stat().st_mode & 0o777 == 0o600


def test_key_files(tmp_path: Path) -> None:
    """A key file that cannot be used is a StartFault that shows nothing of it."""
    file = tmp_path / "key"
    with pytest.raises(StartFault, match="cannot read"):
        Vault.read(file)
    file.write_text("\n")
    with pytest.raises(StartFault, match="empty"):
        Vault.read(file)
    file.write_text("my-own-secret")
    with pytest.raises(StartFault) as caught:
        Vault.read(file)

    assert "my-own-secret" not in str(caught.value)


def test_a_changed_value_is_not_opened(vault: Vault) -> None:
    """Fernet authenticates: what was tampered with is a fault, not a text."""
    sealed = vault.seal("text")

    assert vault.open(sealed) == "text"
    with pytest.raises(StoreFault):
        vault.open(sealed[:-6] + "AAAAA=")
