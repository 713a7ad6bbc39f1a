"""The schema's history: every store comes to what the code expects, once, on both databases."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from subprocess import PIPE
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from setuptools import find_packages
from sqlalchemy import create_engine, inspect, text

from server import migration
from server.database import Database
from server.errors import StartFault, StoreVersionError
from server.migrations.versions import r0001_first
from server.schemas import TargetIn
from server.store import Store
from server.tables import metadata

ROOT = Path(__file__).resolve().parents[3]
BOTH = pytest.mark.parametrize("database", ["sqlite", "postgresql"], indirect=True)
# What `create_all` made of the tables before there were migrations.
OLD_STORE = Path(__file__).with_name("store-before-migrations.sql")


@BOTH
def test_migrations_lead_to_the_tables(database: Database) -> None:
    """What the revisions make is what `server.tables` says: names, types, indexes, keys."""
    with database.read() as connection:
        options = {"compare_type": True, "compare_server_default": True}
        context = MigrationContext.configure(connection, opts=options)

        assert compare_metadata(context, metadata) == []


def test_revisions_form_one_line() -> None:
    """Two revisions that both follow a third would leave the order to chance."""
    script = ScriptDirectory(str(ROOT / "server" / "migrations"))
    numbers = [revision.revision for revision in script.walk_revisions()]

    assert script.get_heads() == [numbers[0]]
    assert numbers == [f"r{number:04}" for number in range(len(numbers), 0, -1)]


def test_revisions_are_part_of_the_distribution() -> None:
    """An installed Lethegate has them too."""
    found = find_packages(str(ROOT), include=["server*"])

    assert "server.migrations.versions" in found


def _old_store(file: Path) -> str:
    file.parent.mkdir(parents=True, exist_ok=True)
    with sqlite3.connect(file) as connection:
        connection.executescript(OLD_STORE.read_text(encoding="utf-8"))
    connection.close()
    return f"sqlite:///{file}"


def test_a_store_from_before_is_kept(tmp_path: Path) -> None:
    """Targets, jobs and generations of a store without migrations are there after them."""
    database = Database(_old_store(tmp_path / "old.db"))
    store = Store(database)
    record, document = store.target("ada")
    [job] = store.jobs().page(None, 10)

    assert (record.status, record.revision, record.report) == ("active", 2, {"phrases": 1})
    assert document["phrases"] == [{"text": "Port Sorrel", "whole_word": True}]
    assert (job.kind, job.state, dict(job.targets)) == ("replace", "done", {"ada": 2})
    generation = store.generation(2)
    assert generation is not None
    assert generation.confirmed_at is not None
    with database.read() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
        assert connection.execute(text("PRAGMA integrity_check")).scalar() == "ok"
        assert connection.execute(text("PRAGMA foreign_keys")).scalar() == 1
    database.close()


def test_the_first_stores_had_no_corpora(tmp_path: Path) -> None:
    """They get the tables that those of the same schema version had later."""
    url = _old_store(tmp_path / "old.db")
    with sqlite3.connect(tmp_path / "old.db") as connection:
        for name in ("corpus_documents", "corpus_jobs", "corpora"):
            connection.execute(f"DROP TABLE {name}")
    connection.close()
    database = Database(url)

    assert Store(database).target("ada")[0].status == "active"
    with database.read() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
    database.close()


def test_an_unknown_old_store_is_refused(tmp_path: Path) -> None:
    """A store without migrations of a version that never was is left alone."""
    url = _old_store(tmp_path / "old.db")
    with sqlite3.connect(tmp_path / "old.db") as connection:
        connection.execute("UPDATE meta SET value = '7' WHERE key = 'schema_version'")
    connection.close()

    with pytest.raises(StoreVersionError, match="version 7"):
        Database(url)


@BOTH
def test_a_newer_store_is_refused(database: Database, store_url: str) -> None:
    """A revision that this Lethegate does not know stops the start and changes nothing."""
    with database.write() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = 'r9999'"))

    with pytest.raises(StoreVersionError, match="r9999"):
        Database(store_url)


@BOTH
def test_reopening_changes_nothing(database: Database, store_url: str) -> None:
    """A store of this version is taken as it is."""
    Store(database).register(TargetIn.model_validate({"id": "ada", "phrases": ["Port Sorrel"]}))
    again = Database(store_url)

    assert [record.id for record in Store(again).target_page(None, 5)] == ["ada"]
    again.close()


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_a_migration_that_fails_leaves_nothing(
    kind: str, empty_url: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of a schema is never kept."""
    url = empty_url(kind)

    def fail() -> None:
        raise StartFault("no further")

    monkeypatch.setattr(migration.command, "upgrade", _half(fail))
    with pytest.raises(StartFault, match="no further"):
        Database(url)
    monkeypatch.undo()

    engine = create_engine(url)
    assert inspect(engine).get_table_names() == []
    engine.dispose()
    Database(url).close()


def _half(fail: Callable[[], None]) -> Callable[..., None]:
    def upgrade(config: Any, _to: str) -> None:
        connection = config.attributes["connection"]
        connection.execute(text("CREATE TABLE targets (id INTEGER)"))
        fail()

    return upgrade


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_processes_that_start_at_once(kind: str, empty_url: Callable[[str], str]) -> None:
    """One migrates, the other waits for it, and both can go on.

    They meet in other steps each time, so with files, which cost little, there are several.
    """
    code = (
        "import sys; from server.database import Database; "
        "print(flush=True); sys.stdin.readline(); "
        "[Database(url).close() for url in sys.argv[1:]]"
    )
    urls = [empty_url(kind)]
    if kind == "sqlite":
        urls += [urls[0].replace(".db", f"-{number}.db") for number in range(20)]
    command = [sys.executable, "-c", code, *urls]
    processes = [subprocess.Popen(command, cwd=ROOT, stdin=PIPE, stdout=PIPE) for _ in range(2)]
    for process in processes:
        assert process.stdout is not None
        process.stdout.readline()
    for process in processes:
        assert process.stdin is not None
        process.stdin.write(b"\n")
        process.stdin.flush()
    for process in processes:
        process.communicate(timeout=60)

    assert [process.returncode for process in processes] == [0, 0]


def test_the_first_revision_is_the_root() -> None:
    """A store without migrations is taken for the first revision, which must stay the first."""
    assert r0001_first.down_revision is None
    assert migration._FIRST == r0001_first.revision


def test_a_store_that_is_no_file(tmp_path: Path) -> None:
    """A folder in its place stays as it is, and the start says so."""
    folder = tmp_path / "store.db"
    folder.mkdir(mode=0o755)

    with pytest.raises(StartFault, match="not a file"):
        Database(f"sqlite:///{folder}")

    assert folder.stat().st_mode & 0o777 == 0o755
