"""A control process with a quick compiler: `fake_control.py STATE_DIR PORT [URL [MODEL]]`.

The compiler is a true one: what it writes are snapshots, with what the targets are called in them.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import SecretStr

import server.nodes.fleet
from detectors.targets import ForgetTarget
from guard.errors import CompileError
from guard.snapshot import write_snapshot
from guard.vetoed import VetoedCorpus, corpora_document
from server.activation import SnapshotPublisher
from server.control import serve_control
from server.policy import Compilation
from server.settings import Settings
from server.state_dir import own_directory


class QuickCompiler:
    """Compiles to two JSON files; fails for targets labelled `fail: compile`."""

    def __init__(self, snapshots: Path, fingerprint: str = "quick-1", seconds: float = 0) -> None:
        self.fingerprint = fingerprint
        self.calls: list[list[str]] = []
        self._snapshots = snapshots
        self._seconds = seconds

    def compile(
        self,
        targets: Sequence[ForgetTarget],
        progress: Callable[[str, float], None],
        corpora: Sequence[VetoedCorpus] = (),
    ) -> Compilation:
        """Write `{id: description}` of all targets, and the corpora."""
        self.calls.append([target.id for target in targets])
        for step in range(5):
            progress("encoding", step / 5)
            time.sleep(self._seconds / 5)
        if any(target.labels.get("fail") == "compile" for target in targets):
            raise CompileError("a target is labelled to fail")
        content = {target.id: target.description for target in targets}
        counted = {c.owner: {"documents": len(list(c.texts()))} for c in corpora}
        documents = {"policy": content, "corpora": corpora_document(corpora, counted)}
        digest = write_snapshot(self._snapshots, meta={}, arrays={}, documents=documents)
        reports = {target.id: {"phrases": len(target.phrases)} for target in targets}
        return Compilation(digest, reports)

    def preview(self, target: ForgetTarget, others: Sequence[ForgetTarget]) -> Mapping[str, Any]:
        """Says what it was given."""
        bounds = {"weak": 0.7, "strong": 0.8, "floor": 0.72}
        warnings = [f"previewed beside {len(others)} others"]
        return {"alpha": 0.005, "thresholds": {"prompt": bounds}, "warnings": warnings}


# Where the process can be told to kill itself: what is called there, first of its module.
DEATHS = {
    "copied": "tracing.transfer.flush_directory",
    "adopted": "server.provenance.worker.adopted",
}


def _die(*_arguments: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def main(
    state_dir: Path,
    port: int,
    url: str = "",
    model: str | None = None,
    host: str = "127.0.0.1",
    death: str = "",
) -> int:
    """Run until a signal; assistants are trained for `model`."""
    if death:
        module, _, name = DEATHS[death].rpartition(".")
        setattr(importlib.import_module(module), name, _die)
    key, store = SecretStr("admin-key"), SecretStr(url) if url else None
    settings = Settings(
        state_dir=state_dir,
        admin_host=host,
        admin_port=port,
        admin_key=key,
        node_keys=(SecretStr("node-key"),),
        database_url=store,
        acknowledge_timeout_seconds=20,
        index_dir=state_dir.parent / "indexes",
    )
    server.nodes.fleet.LIVE_SECONDS = 4.0
    own_directory(state_dir)
    publisher = SnapshotPublisher(state_dir, settings.snapshots)
    return serve_control(
        settings,
        publisher,
        lambda: QuickCompiler(settings.snapshots, seconds=0.05),
        model=model,
    )


def run(arguments: Sequence[str]) -> int:
    """`main` with the arguments of a command line."""
    folder, port, url, model, host, death = [*arguments, *[""] * (6 - len(arguments))]
    return main(Path(folder), int(port), url, model or None, host or "127.0.0.1", death)


def warm() -> None:
    """Load what the first use loads."""


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
