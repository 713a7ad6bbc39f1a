"""Models that the tests serve, trained here by the project's own trainer and kept in .cache; a real
PostgreSQL, started when a test asks for it; and schemathesis, which makes requests of documents."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import hypothesis
import psycopg
import pytest

from server.log import configure_logging
from tests.scripts import load_script

# How long an example takes is the machine's affair: it may stand still for seconds.
hypothesis.settings.register_profile(
    "patient", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("patient")

CHECKOUT = Path(__file__).resolve().parents[1]
CACHE = CHECKOUT / ".cache"


@pytest.fixture(scope="session", autouse=True)
def _logs_are_no_output() -> None:
    """Log as servers do: of itself structlog writes to standard output, where commands answer.

    What a server in a thread of a test logs would else be among what a command printed.
    """
    configure_logging("info")


@pytest.fixture(scope="session")
def demo_model() -> Path:
    """Folder of the demo's model; takes about two minutes when it is missing or outdated."""
    return _built("demo")


@pytest.fixture(scope="session")
def tiny_model() -> Path:
    """Folder of a model that knows the first 20 forget rows and 20 retain rows, in seconds."""
    return _built("tiny")


@pytest.fixture(scope="session")
def other_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small model of another family, width and length, as a hub copy would be."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
    from transformers import BertTokenizerFast, XLMRobertaConfig, XLMRobertaModel

    base, folder = (tmp_path_factory.mktemp(name) for name in ("base", "other"))
    alphabet = "abcdefghijklmnopqrstuvwxyzäéñ"
    letters = [*alphabet, *(f"##{letter}" for letter in alphabet)]
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters]
    (base / "vocab.txt").write_text("\n".join(vocabulary) + "\n", encoding="utf-8")
    BertTokenizerFast(str(base / "vocab.txt"), strip_accents=False).save_pretrained(base)
    config = XLMRobertaConfig(
        vocab_size=len(vocabulary),
        hidden_size=48,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=130,
    )
    XLMRobertaModel(config).save_pretrained(base)
    transformer = Transformer(str(base))
    pooling = Pooling(transformer.get_embedding_dimension())
    SentenceTransformer(modules=[transformer, pooling], device="cpu").save(str(folder))
    return folder


def _built(preset: str) -> Path:
    trainer = CHECKOUT / "deploy" / "demo" / "train.py"
    subprocess.run([sys.executable, str(trainer), "--preset", preset], check=True)
    return CACHE / f"{preset}-model"


@pytest.fixture(scope="session")
def blocks_of() -> Callable[[Path], list[Any]]:
    """`docs/blocks.py`: a document's code blocks."""
    found: Callable[[Path], list[Any]] = load_script(CHECKOUT / "docs" / "blocks.py").blocks_of
    return found


# Fails on what curl alone would print and go on; `make` is only asked whether it could.
_SHELL = """
set -eo pipefail
curl() { command curl --fail-with-body --max-time 60 "$@"; }
make() { command make -C "$CHECKOUT" -n "$@" >/dev/null; }
lethegate() { "$PYTHON" -m server "$@"; }
python() { "$PYTHON" "$@"; }
"""


@pytest.fixture
def run_document(
    blocks_of: Callable[[Path], list[Any]], tmp_path: Path
) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs a document's blocks as one shell session in an empty directory, and tells what it says.

    `replaced` are texts that stand for something else on this machine; `environment` is added.
    """

    def run(
        document: Path, replaced: Mapping[str, str], environment: Mapping[str, str]
    ) -> subprocess.CompletedProcess[str]:
        script = _SHELL
        for block in blocks_of(document):
            if block.reason is None:
                text = block.text
                if block.language == "python":
                    text = f"python - <<'PYTHON'\n{text}PYTHON\n"
                script += text
        for old, new in replaced.items():
            script = script.replace(old, new)
        (tmp_path / "script").write_text(script, encoding="utf-8")
        kept = {k: v for k, v in os.environ.items() if not k.startswith("LETHEGATE_")}
        own = {"CHECKOUT": str(CHECKOUT), "PYTHON": sys.executable, "HOME": str(tmp_path)}
        folder = tmp_path / "work"
        folder.mkdir(exist_ok=True)
        (folder / ".venv").symlink_to(sys.prefix)
        return subprocess.run(
            ["bash", "-x", str(tmp_path / "script")],
            cwd=folder,
            env={**kept, **own, "PYTHONPATH": str(CHECKOUT), **environment},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    return run


class PostgresServer:
    """A PostgreSQL of Debian's package on a Unix socket, which keeps nothing on the disk safe."""

    def __init__(self, programs: Path, directory: Path) -> None:
        """Make a cluster and start it; as root it runs as the user `postgres`, as it must."""
        user = "postgres" if os.getuid() == 0 else None
        if user is not None:
            shutil.chown(directory, user, user)
        self._directory = directory
        options = ["-A", "trust", "-U", "lethegate", "-E", "UTF8", "--locale=C.UTF-8", "--no-sync"]
        data = str(directory / "data")
        with (directory / "log").open("ab") as log:
            run = {"user": user, "cwd": directory, "stdout": log, "stderr": log}
            subprocess.run([programs / "initdb", "-D", data, *options], check=True, **run)
            # A user who has to prove it; everybody else is trusted.
            rules = directory / "data" / "pg_hba.conf"
            rules.write_text("local all guarded scram-sha-256\n" + rules.read_text())
            flags = ["--listen_addresses=", f"--unix_socket_directories={directory}", "--fsync=off"]
            self._process = subprocess.Popen([programs / "postgres", "-D", data, *flags], **run)
        self.data = Path(data)
        self._count = 0
        self._wait()
        with self._connection() as connection:
            connection.execute("CREATE USER guarded SUPERUSER PASSWORD 'open sesame'")

    def url(self, database: str) -> str:
        """SQLAlchemy's URL of a database."""
        return f"postgresql+psycopg://lethegate@/{database}?host={self._directory}"

    def new_database(self) -> str:
        """Make an empty database; gives its URL."""
        self._count += 1
        name = f"d{self._count}"
        with self._connection() as connection:
            connection.execute(f"CREATE DATABASE {name}")
        return self.url(name)

    def admit(self, url: str, *, allowed: bool) -> None:
        """Let nobody use a database, and throw out who does; or let them again."""
        name = url.partition("@/")[2].partition("?")[0]
        with self._connection() as connection:
            connection.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS {allowed}")
            if not allowed:
                connection.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s",
                    (name,),
                )

    def checkpoint(self) -> None:
        """Have everything written to its files."""
        with self._connection() as connection:
            connection.execute("CHECKPOINT")

    def stop(self) -> None:
        """End it and delete everything."""
        self._process.send_signal(signal.SIGQUIT)
        self._process.wait(120)
        shutil.rmtree(self._directory, ignore_errors=True)

    def _wait(self) -> None:
        end = time.monotonic() + 60
        while True:
            try:
                self._connection().close()
            except psycopg.OperationalError:
                assert self._process.poll() is None, "PostgreSQL ended"
                assert time.monotonic() < end, "PostgreSQL does not answer"
                time.sleep(0.05)
            else:
                return

    def _connection(self) -> psycopg.Connection[tuple[object, ...]]:
        options = {"host": str(self._directory), "user": "lethegate", "dbname": "postgres"}
        return psycopg.connect(**options, autocommit=True)


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A PostgreSQL, once for all tests; they skip where Debian's package is not installed."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not found:
        pytest.skip("PostgreSQL is not installed (Debian's package postgresql)")
    # Not below pytest's directory, which the user `postgres` may not enter.
    server = PostgresServer(found[-1].parent, Path(tempfile.mkdtemp(prefix="lethegate-pg-")))
    yield server
    server.stop()


@dataclass
class Fuzzed:
    """What a server said to generated requests: how many of each status, and what was wrong."""

    statuses: Counter[int] = field(default_factory=Counter)
    faults: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))

    def take(self, event: Any) -> None:
        """Take note of one event of schemathesis's engine."""
        from schemathesis.engine.events import FatalError, NonFatalError, ScenarioFinished

        if isinstance(event, FatalError):
            raise event.exception
        if isinstance(event, NonFatalError):
            self.faults[f"{event.label}: {type(event.value).__name__}"].append(str(event.value))
        if not isinstance(event, ScenarioFinished):
            return
        for interaction in event.recorder.interactions.values():
            answer = interaction.response
            self.statuses[0 if answer is None else answer.status_code] += 1
        for node in (node for nodes in event.recorder.checks.values() for node in nodes):
            if node.failure_info is not None:
                failure = node.failure_info.failure
                text = f"{failure.message}\n{node.failure_info.code_sample}"
                self.faults[f"{failure.operation}: {failure.title}"].append(text)

    def __str__(self) -> str:
        told = [f"{self.statuses.total()} requests, {dict(sorted(self.statuses.items()))}"]
        told += [
            f"{len(e)} times {name}\n{min(e, key=len)[:2000]}" for name, e in self.faults.items()
        ]
        return "\n\n".join(told)


@pytest.fixture(scope="session")
def fuzz() -> Callable[..., Fuzzed]:
    """Sends what schemathesis makes of an OpenAPI document, always the same for the same seed.

    Every answer is held against the document; one that takes longer than `seconds` is a fault.
    `examples` is per operation, `sequences` how many runs of requests that follow one another;
    `boundaries` adds every edge of every schema.
    """
    from schemathesis import engine, openapi, serializer
    from schemathesis.config import SchemathesisConfig

    @serializer("application/x-ndjson")
    def _(_context: Any, value: Any) -> bytes:
        return value.encode() if isinstance(value, str) else json.dumps(value).encode() + b"\n"

    refused = [str(status) for status in (400, 401, 403, 404, 405, 409, 412, 413, 415, 422, 503)]

    def send(
        document: dict[str, Any],
        url: object,
        *,
        key: str,
        examples: int = 5,
        sequences: int = 0,
        boundaries: bool = False,
        seed: int = 1,
        seconds: float = 60,
        **more: Any,
    ) -> Fuzzed:
        options = {
            "seed": seed,
            "base-url": str(url),
            "auth": {"openapi": {"key": {"bearer": key}}},
            "request-timeout": seconds,
            "continue-on-failure": True,
            "suppress-health-check": ["all"],
            # Deterministic, but by the seed: "deterministic" would know only one.
            "generation": {"database": "none", "no-shrink": True, "max-examples": examples},
            "phases": {
                "coverage": {"enabled": boundaries},
                "stateful": {
                    "enabled": sequences > 0,
                    "generation": {"max-examples": max(sequences, 1)},
                },
            },
            # What no schema says: that text must hold a letter, that a target must be there.
            "checks": {
                "positive_data_acceptance": {"enabled": False},
                "negative_data_rejection": {"expected-statuses": refused},
            },
            **more,
        }
        schema = openapi.from_dict(document, config=SchemathesisConfig.from_dict(options))
        found = Fuzzed()
        for event in engine.from_schema(schema).execute():
            found.take(event)
        return found

    return send
