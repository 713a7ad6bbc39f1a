"""Forks control processes from one that has imported all they need: `nursery.py SCRIPT`.

A process that is forked here is one of its own, as if it had been started: only the seconds that
importing takes are gone. Reads a request as JSON from each line of standard input and answers with
a line: `{"start": [ARGUMENT...], "log": FILE}` with the process's id, `{"poll": PID}` with its exit
status, as `subprocess` has it, or null while it runs.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import sys
import threading
import traceback
from pathlib import Path
from types import ModuleType

# What a control process imports only when it runs.
LATE = (
    "server.provenance.service",
    "sqlalchemy.dialects.postgresql.psycopg",
    "sqlalchemy.dialects.sqlite.pysqlite",
    "uvicorn.lifespan.off",
    "uvicorn.loops.auto",
    "uvicorn.protocols.http.auto",
    "uvicorn.protocols.websockets.auto",
)


def load(script: Path) -> ModuleType:
    """The module of a script, by its path."""
    spec = importlib.util.spec_from_file_location(script.stem, script)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def start(module: ModuleType, arguments: list[str], log: str) -> int:
    """Fork a process that runs the script; gives its id."""
    assert threading.active_count() == 1
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        nothing = os.open(os.devnull, os.O_RDONLY)
        out = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        for number, descriptor in enumerate((nothing, out, out)):
            os.dup2(descriptor, number)
        status = module.run(arguments)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def poll(pid: int) -> int | None:
    """The exit status of a process, negative if a signal ended it; None while it runs."""
    found, status = os.waitpid(pid, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if found else None


def main(script: Path) -> None:
    """Answer until standard input ends."""
    module = load(script)
    module.warm()
    for name in LATE:
        importlib.import_module(name)
    for line in sys.stdin:
        request = json.loads(line)
        answer = (
            start(module, request["start"], request["log"])
            if "start" in request
            else poll(request["poll"])
        )
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
