"""Runs the `infini-gram` package over a corpus of 16-bit tokens. Started by the bench as a script,
with the interpreter of an environment that has the package; knows nothing of this project.

Arguments: a directory with `tokenized.0` and `offset.0` in the package's format and `queries.json`,
a list of token lists. Writes `result.json` there.
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

MIN_LENGTH = 8
MAX_COUNT = 10


def main(directory: Path) -> None:
    """Build, look everything up, write the figures."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    build_seconds = _build(directory)
    peak = 1024 * resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    engine = importlib.import_module("infini_gram.engine").InfiniGramEngine(
        index_dir=str(directory), eos_token_id=0, vocab_size=65535, token_dtype="u16",  # noqa: S106
        load_to_ram=True,
    )  # fmt: skip
    queries = json.loads((directory / "queries.json").read_text())
    spans, milliseconds = [], []
    for query in [queries[0], *queries]:
        begin = time.process_time()
        found = engine.attribute(query, [], MIN_LENGTH, MAX_COUNT, False)
        milliseconds.append(1000 * (time.process_time() - begin))
        spans.append([[span["l"], span["r"], span["count"]] for span in found["spans"]])
    result = {
        "build_seconds": build_seconds,
        "build_peak_bytes": peak,
        "attribute_ms": milliseconds[1:],
        "spans": spans[1:],
    }
    (directory / "result.json").write_text(json.dumps(result))


def _build(directory: Path) -> float:
    """CPU seconds of the package's own index builder on one core."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    before = os.times()
    command = [sys.executable, "-m", "infini_gram.indexing", "--data_dir", str(directory)]
    command += ["--save_dir", str(directory), "--token_dtype", "u16", "--version", "4"]
    command += ["--cpus", "1", "--mem", "8", "--ulimit", str(limit)]
    subprocess.run(command, check=True, capture_output=True)
    after = os.times()
    return (after.children_user + after.children_system) - (
        before.children_user + before.children_system
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
