"""The audit: whole, linked, bounded, in nobody's way, and without a text."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from guard.decision import Verdict
from server.audit import files as files_module
from server.audit.chain import START, Link, link_of, linked
from server.audit.files import AuditFiles, paths
from server.audit.verify import verify
from server.audit.writer import AuditWriter
from server.errors import AuditUnavailable
from server.metrics.audit import AuditMetrics


def _files(tmp_path: Path, max_bytes: int = 1 << 20, keep: int = 99) -> AuditFiles:
    return AuditFiles(tmp_path / "audit", max_bytes, keep)


def _fill(files: AuditFiles, count: int, start: int = 0) -> None:
    for number in range(start, start + count):
        files.append([{"event": "decision", "number": number}], sync=False)


def _until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_lines_are_linked() -> None:
    """Each names the one before it, and its hash is that of its content."""
    first, one = linked({"event": "a"}, Link())
    second, two = linked({"event": "b"}, one)

    assert link_of(first) == ({"event": "a", "sequence": 1, "prev": START}, one)
    assert json.loads(second)["prev"] == one.hash
    assert (one.sequence, two.sequence) == (1, 2)
    assert link_of(second.replace(b'"b"', b'"c"')) is None
    assert link_of(b"[]\n") is link_of(b"{") is link_of(b"") is None


def test_a_written_audit_is_whole(tmp_path: Path) -> None:
    """Over several files, owner-only, in pages from the newest on."""
    files = _files(tmp_path, max_bytes=1000)
    _fill(files, 20)
    found = verify(files)

    assert (found.records, found.first, found.head.sequence, found.fault) == (20, 1, 20, None)
    assert len(paths(tmp_path / "audit")) > 3
    assert [r["number"] for r in files.newest(3, None, None)] == [19, 18, 17]
    assert [r["number"] for r in files.newest(99, 4, "decision")] == [2, 1, 0]
    assert files.newest(9, None, "block") == []
    assert all(p.stat().st_mode & 0o077 == 0 for p in (tmp_path / "audit").iterdir())
    assert (tmp_path / "audit").stat().st_mode & 0o077 == 0


def test_old_files_go(tmp_path: Path) -> None:
    """What is kept is still whole, and starts with the number that is noted."""
    files = _files(tmp_path, max_bytes=1000, keep=2)
    _fill(files, 30)
    found = verify(files)

    assert len(paths(tmp_path / "audit")) == 2
    assert found.fault is None
    assert found.first > 1
    assert found.head.sequence == 30
    assert all(path.stat().st_size <= 1000 for path in paths(tmp_path / "audit"))
    paths(tmp_path / "audit")[0].unlink()
    assert "missing" in (verify(files).fault or "")


@settings(
    max_examples=80,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(data=st.data())
def test_every_change_shows(tmp_path: Path, data: st.DataObject) -> None:
    """A changed byte, a line taken out, doubled or moved, or an end cut off is a fault."""
    directory = tmp_path / str(time.monotonic_ns())
    files = AuditFiles(directory, 1 << 20, 9)
    _fill(files, 8)
    [path] = paths(directory)
    lines = path.read_bytes().splitlines(keepends=True)
    kind = data.draw(st.sampled_from(["byte", "drop", "double", "swap", "cut", "empty"]))
    place = data.draw(st.integers(0, 6))
    if kind == "byte":
        line = bytearray(lines[place])
        at = data.draw(st.integers(0, len(line) - 1))
        line[at] ^= data.draw(st.integers(1, 255))
        lines[place] = bytes(line)
    elif kind == "drop":
        del lines[place]
    elif kind == "double":
        lines.insert(place, lines[place])
    elif kind == "swap":
        lines[place], lines[place + 1] = lines[place + 1], lines[place]
    else:
        lines = lines[: place if kind == "cut" else 0]
    path.write_bytes(b"".join(lines))
    fault = verify(files).fault
    _fill(files, 2, start=8)

    assert fault is not None
    assert verify(files).fault is not None  # also when more was written since


def test_a_new_chain_shows_by_a_hash_kept_elsewhere(tmp_path: Path) -> None:
    """Whoever writes all of it anew cannot write the hash that was printed."""
    files = _files(tmp_path)
    _fill(files, 5)
    head = verify(files).head.hash
    assert verify(files, head).fault is None
    for path in (tmp_path / "audit").iterdir():
        path.unlink()
    forged = _files(tmp_path)
    _fill(forged, 4)

    assert verify(forged).fault is None
    assert "given hash" in (verify(forged, head).fault or "")


def test_half_a_record_is_cut_away(tmp_path: Path) -> None:
    """What a killed process left is no fault, and the next record takes its place."""
    files = _files(tmp_path)
    _fill(files, 3)
    [path] = paths(tmp_path / "audit")
    with path.open("ab") as file:
        file.write(b'{"event":"decision","num')

    assert verify(files).fault is None
    fresh = _files(tmp_path)
    _fill(fresh, 2, start=3)
    assert [r["number"] for r in fresh.newest(9, None, None)] == [4, 3, 2, 1, 0]
    assert verify(fresh).fault is None


def test_a_full_disk_leaves_nothing_half(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch is written whole or not at all."""
    files = _files(tmp_path)
    _fill(files, 2)
    real = files_module.os.pwrite
    with monkeypatch.context() as patch:
        patch.setattr(files_module.os, "pwrite", lambda d, c, o: real(d, c[: len(c) // 2], o))
        with pytest.raises(OSError, match="No space"):
            files.append([{"event": "a"}, {"event": "b"}], sync=True)

    assert verify(files).head.sequence == 2
    _fill(files, 1, start=2)
    assert verify(files).records == 3


_CHILD = """
import sys
from pathlib import Path
from server.audit.files import AuditFiles
files = AuditFiles(Path(sys.argv[1]), 5000, 99)
for number in range(150):
    files.append([{"event": "decision", "by": sys.argv[2], "number": number}], sync=False)
"""


def test_processes_share_one_chain(tmp_path: Path) -> None:
    """Three at once lose nothing and leave one whole chain; each keeps its order."""
    directory = tmp_path / "audit"
    command = [sys.executable, "-c", _CHILD, str(directory)]
    children = [subprocess.Popen([*command, str(n)]) for n in range(3)]

    assert [child.wait() for child in children] == [0, 0, 0]
    files = AuditFiles(directory, 5000, 99)
    found = verify(files)
    records = files.newest(999, None, None)
    assert (found.records, found.fault) == (450, None)
    for by in "012":
        assert [r["number"] for r in records if r["by"] == by] == list(range(149, -1, -1))


class _Stuck(AuditFiles):
    """A disk that does not write until it is told to."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory, 1 << 20, 9)
        self.works = threading.Event()

    def append(self, records: Any, *, sync: bool) -> None:
        if not self.works.is_set():
            raise OSError(28, "No space left on device")
        super().append(records, sync=sync)


def test_a_disk_that_fails_delays_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Records wait, what does not fit is counted, and both are in the audit afterwards."""
    monkeypatch.setattr("server.audit.writer._RETRY_SECONDS", 0.02)
    files, registry = _Stuck(tmp_path / "audit"), CollectorRegistry()
    writer = AuditWriter(files, AuditMetrics(registry), "always", length=10)
    writer.start()
    begun = time.monotonic()
    writer.record("decision", number=-1)
    _until(lambda: bool(registry.get_sample_value("lethegate_audit_write_failures_total")))
    for number in range(15):
        writer.record("decision", number=number)

    assert time.monotonic() - begun < 30
    with pytest.raises(AuditUnavailable):
        writer.check()
    assert registry.get_sample_value("lethegate_audit_lost_total") == 5
    files.works.set()
    _until(lambda: len(files.newest(99, None, None)) == 12)
    writer.check()
    lost = files.newest(9, None, "records_lost")
    assert [record["count"] for record in lost] == [5]
    assert verify(files).fault is None
    writer.stop()


@pytest.mark.parametrize("fsync", ["always", "interval", "never"])
def test_when_the_disk_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fsync: Any) -> None:
    """With each batch, a second later at the latest, or not at all."""
    synced: list[int] = []
    monkeypatch.setattr(files_module.os, "fsync", synced.append)
    monkeypatch.setattr("server.audit.writer._SYNC_SECONDS", 0.05)
    writer = AuditWriter(_files(tmp_path), AuditMetrics(CollectorRegistry()), fsync)
    writer.start()
    writer.record("decision")
    if fsync != "never":
        _until(lambda: bool(synced))
    writer.stop()

    assert bool(synced) is (fsync != "never")


def test_what_was_appended_before_a_rotation_is_forced_to_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every file since the last time, with the directory that names them; one that failed again."""
    files, synced, broken = _files(tmp_path, max_bytes=1000, keep=2), [], True

    def fsync(descriptor: int) -> None:
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        if broken and path == paths(tmp_path / "audit")[-1]:
            raise OSError(5, "Input/output error")
        synced.append(path)

    monkeypatch.setattr(files_module.os, "fsync", fsync)
    _fill(files, 7)
    first, second = paths(tmp_path / "audit")
    with pytest.raises(OSError, match="Input/output"):
        files.sync()
    broken = False
    files.sync()
    assert set(synced) == {first, second, tmp_path / "audit"}
    synced.clear()
    files.sync()
    assert synced == []

    _fill(files, 30, start=7)  # several that are turned over before they were forced to disk
    files.sync()
    assert set(synced) == {*paths(tmp_path / "audit"), tmp_path / "audit"}


def test_a_disk_that_recovers_lets_changes_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where nothing is recorded meanwhile, as all that could be is refused."""
    monkeypatch.setattr("server.audit.writer._SYNC_SECONDS", 0.02)
    works, registry = threading.Event(), CollectorRegistry()

    class Files(AuditFiles):
        def sync(self) -> None:
            if not works.is_set():
                raise OSError(5, "Input/output error")

    writer = AuditWriter(Files(tmp_path / "audit", 1 << 20, 9), AuditMetrics(registry))
    writer.start()
    writer.record("decision")
    _until(lambda: bool(registry.get_sample_value("lethegate_audit_write_failures_total")))
    with pytest.raises(AuditUnavailable):
        writer.check()
    works.set()

    def opens() -> bool:
        with suppress(AuditUnavailable):
            writer.check()
            return True
        return False

    _until(opens)
    writer.stop()


def test_what_a_gateway_records(start_stack: Any) -> None:
    """Steered, refused and cut answers with key, request, target and numbers; others are not."""
    stack = start_stack()
    stack.vllm.says = [["John", " Smith"]]
    headers = {"x-request-id": "abc"}
    for text in ("hi", "about John", "about Mary"):
        body = {"messages": [{"role": "user", "content": text}]}
        stack.http.post("/v1/chat/completions", json=body, headers=headers)
    stack.audit.stop()
    records = list(reversed(stack.audit.files.newest(99, None, None)))

    assert [r["event"] for r in records] == ["decision", "block", "decision"]
    assert [r.get("verdict") for r in records] == [Verdict.STEER, None, Verdict.REFUSE]
    block = records[1]
    assert (block["surface"], block["layer"], block["enforced"]) == ("content", "phrase", True)
    for record in records:
        assert record["key"] == "anonymous"
        assert record["request_id"] == "abc"
        assert record["endpoint"] == "/v1/chat/completions"
        assert (record["generation"], record["digest"]) == (7, "d" * 64)
    assert not any(word in json.dumps(records) for word in ("John", "Mary", "Smith"))


@pytest.mark.parametrize("required", [False, True])
def test_requests_without_an_audit(
    start_stack: Any, monkeypatch: pytest.MonkeyPatch, required: bool
) -> None:
    """Served and counted, or with `audit_required` a 503 of its own."""
    stack = start_stack(audit_required=required)

    def fail() -> None:
        raise AuditUnavailable

    monkeypatch.setattr(stack.audit, "check", fail)
    answer = stack.chat("hi")

    assert answer.status_code == (503 if required else 200)
    if required:
        assert answer.json()["error"]["code"] == "audit_unavailable"
        assert stack.count("lethegate_guard_failures_total", reason="audit") == 1
