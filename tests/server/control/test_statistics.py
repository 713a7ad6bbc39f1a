"""Statistics of targets: from gateways' files to the store, the admin API and the metrics."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
import time

import httpx
import pytest
from prometheus_client import CollectorRegistry, generate_latest
from sqlalchemy import select

from detectors.detection import Detection, Layer, Strength
from guard.decision import Decision, Verdict
from guard.nets import Catch
from server.errors import StartFault
from server.metrics.targets import TargetMetrics
from server.schemas import TargetIn
from server.statistics.counts import TargetCounts
from server.statistics.files import StatisticsFile, sources
from server.statistics.keeper import StatisticsKeeper
from server.statistics.store import StatisticsStore
from server.statistics.table import request_statistics, target_statistics
from server.statistics.tally import TargetTally
from server.statistics.writer import StatisticsWriter
from server.target_rows import delete_targets

TARGETS = "/admin/v1/targets"
BOTH = pytest.mark.parametrize("database", ["sqlite", "postgresql"], indirect=True)


def register(store, *target_ids):
    for target_id in target_ids:
        store.register(TargetIn(id=target_id, phrases=["Port Sorrel"]))


def ask(tally, *target_ids, verdict=Verdict.STEER, seconds=0.5):
    found = tuple(Detection(t, Layer.ALIAS, Strength.STRONG, 1.0, 0.5) for t in target_ids)
    tally.decided(Decision(verdict, 1, "d", detections=found), seconds)


class Gateway:
    """What a gateway counts with."""

    def __init__(self, settings):
        self.tally, self.file = TargetTally(), StatisticsFile(settings.statistics)

    def tell(self, *target_ids):
        ask(self.tally, *target_ids)
        self.file.write(self.tally.now())


@pytest.fixture
def statistics(database):
    return StatisticsStore(database)


@pytest.fixture
def keeper(statistics, settings):
    return StatisticsKeeper(statistics, settings.statistics, tells_all=True)


@BOTH
def test_gateways_are_added_up(database, store, statistics, settings, keeper):
    """However often they are read, while they run and when they have ended."""
    register(store, "ada", "bob")
    first, second = Gateway(settings), Gateway(settings)
    first.tell("ada")
    second.tell("ada", "bob")
    for _ in range(3):
        keeper.take()
    first.tell("bob")
    first.file.close()
    for _ in range(3):
        keeper.take()
    found, requests = statistics.of(["ada", "bob"]), statistics.requests()

    assert (found["ada"].matched, found["bob"].steered) == (2, 2)
    assert found["ada"].screen_seconds == pytest.approx(0.5 + 0.25)
    assert requests.requests == 3
    assert len(list(settings.statistics.iterdir())) == 2  # the second's
    second.file.close()
    keeper.take()

    assert list(settings.statistics.iterdir()) == []
    assert statistics.of(["ada", "bob"]) == found
    with database.read() as connection:
        assert set(connection.scalars(select(target_statistics.c.source))) == {""}
        assert list(connection.scalars(select(request_statistics.c.source))) == [""]
    assert statistics.everything() == found == keeper.sums()


def test_nothing_is_lost_or_counted_twice_where_the_keeper_dies(statistics, store, settings):
    """It is cut off after each of its three steps, for a gateway that has ended."""
    register(store, "ada")
    gateway = Gateway(settings)
    gateway.tell("ada")
    gateway.file.close()
    [source] = sources(settings.statistics)
    for steps in (1, 2, 3):
        if steps == 1:
            statistics.take(source.name, source.read())
        if steps == 2:
            source.delete()
        StatisticsKeeper(statistics, settings.statistics).take()

        assert statistics.of(["ada"])["ada"].matched == 1


def test_withdrawn_targets_leave_nothing(database, statistics, store, settings, keeper):
    """Not even to a target that takes the id later."""
    register(store, "ada", "bob")
    gateway = Gateway(settings)
    gateway.tell("ada", "bob")
    keeper.take()
    with database.write() as connection:
        delete_targets(connection, ["ada"])
    gateway.tell("bob")
    keeper.take()

    assert set(statistics.everything()) == {"bob"}
    register(store, "ada")
    gateway.tally.keep({"bob"})
    gateway.tell("bob")
    keeper.take()

    assert statistics.of(["ada"])["ada"] == TargetCounts()
    assert statistics.of(["bob"])["bob"].matched == 3


def test_a_gateway_that_does_not_answer_still_runs(settings, tmp_path):
    """One that is stopped holds its lock; a killed one does not."""
    code = (
        "import sys, time; from pathlib import Path\n"
        "from server.statistics.files import StatisticsFile\n"
        "file = StatisticsFile(Path(sys.argv[1])); print('up', flush=True); time.sleep(60)\n"
    )
    command = [sys.executable, "-c", code, str(settings.statistics)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"up\n"
        os.kill(process.pid, signal.SIGSTOP)
        stopped = [source.has_ended for source in sources(settings.statistics)]
        process.kill()
        process.wait()
        killed = [source.has_ended for source in sources(settings.statistics)]

    assert (stopped, killed) == ([False], [True])


def test_files_are_owner_only_and_hold_numbers(settings):
    """Ids and numbers, nothing of a prompt."""
    gateway = Gateway(settings)
    gateway.tell("ada")
    [source] = sources(settings.statistics)
    content = json.loads(source.path.read_bytes())

    assert stat.S_IMODE(source.path.stat().st_mode) == 0o600
    assert set(content) == {"requests", "targets"}
    assert set(content["targets"]) == {"ada"}
    assert all(isinstance(v, int | float) for v in content["targets"]["ada"].values())


def test_a_directory_that_cannot_be_used_stops_the_start(tmp_path):
    """A gateway that could not count would say that nothing happened."""
    (tmp_path / "file").write_text("")

    with pytest.raises(StartFault, match="cannot count in"):
        StatisticsFile(tmp_path / "file" / "statistics")


def test_a_full_disk_is_waited_for(settings, monkeypatch):
    """The next writing tells all that was counted meanwhile."""
    gateway = Gateway(settings)
    write, failing = gateway.file.write, True

    def flaky(tallied):
        if failing:
            raise OSError(28, "No space left on device")
        write(tallied)

    monkeypatch.setattr(gateway.file, "write", flaky)
    writer = StatisticsWriter(gateway.file, gateway.tally, seconds=0.01)
    writer.start()
    ask(gateway.tally, "ada")
    time.sleep(0.05)
    failing = False
    ask(gateway.tally, "ada")
    writer.stop()
    [source] = sources(settings.statistics)

    assert source.has_ended
    assert source.read().targets["ada"].matched == 2


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"targets": [], "requests": {}}'])
def test_a_file_that_cannot_be_read_does_not_end_the_keeper(
    settings, statistics, store, settle, content
):
    """It goes on, and takes the file once it can be read."""
    register(store, "ada")
    gateway = Gateway(settings)
    gateway.tell("ada")
    [source] = sources(settings.statistics)
    source.path.write_text(content)
    keeper = StatisticsKeeper(statistics, settings.statistics, seconds=0.01)
    keeper.start()
    time.sleep(0.05)
    gateway.tell("ada")
    settle(lambda: statistics.of(["ada"])["ada"].matched == 2)
    keeper.stop()


def test_a_file_cut_short_loses_only_what_it_had_to_tell(settings, statistics, store, keeper):
    """Of a gateway that has ended what it told before counts, and others go on."""
    register(store, "ada")
    ended, running = Gateway(settings), Gateway(settings)
    ended.tell("ada")
    running.tell("ada")
    keeper.take()
    ended.tell("ada")
    for gateway in (ended, running):
        gateway.file._path.write_text("")
    ended.file.close()
    for _ in range(2):
        keeper.take()

        assert statistics.of(["ada"])["ada"].matched == 2
    running.tell("ada")
    keeper.take()

    assert statistics.of(["ada"])["ada"].matched == 3
    assert [source.has_ended for source in sources(settings.statistics)] == [False]


def test_over_the_admin_api(admin, store, settings, keeper):
    """Statistics of one target, and the summary in the list; for auditors too, without text."""
    register(store, "ada", "bob")
    gateway = Gateway(settings)
    gateway.tell("ada")
    gateway.tally.cut(["ada"], Catch.NAME, enforced=True)
    gateway.tally.cut(["ada"], Catch.PHRASE, enforced=False)
    gateway.tell()
    keeper.take()
    found = admin.get(f"{TARGETS}/ada/statistics").json()
    auditor = {"authorization": "Bearer auditor-key"}
    listed = admin.get(TARGETS, headers=auditor).json()["targets"]
    idle = admin.get(f"{TARGETS}/bob/statistics", headers=auditor).json()

    assert found["prompts"] == {
        "matched": 1,
        "refused": 0,
        "steered": 1,
        "would_refuse": 0,
        "would_steer": 0,
        "by_alias": 1,
        "by_similarity": 0,
        "by_scope": 0,
    }
    assert (found["answers"]["cut"], found["answers"]["cut_for_name"]) == (1, 1)
    assert found["answers"]["would_cut"] == 1
    assert found["cost"]["mean_added_seconds"] == pytest.approx(0.5)
    assert found["cost"]["share"] == pytest.approx(0.5)
    assert found["last_matched_at"] > found["since"]
    assert [row["statistics"]["matched"] for row in listed] == [1, 0]
    assert (idle["last_matched_at"], idle["cost"]["mean_added_seconds"]) == (None, None)


def test_refusals(admin):
    """Of targets that are not there, and to clients."""
    client = {"authorization": "Bearer client-key"}

    assert admin.get(f"{TARGETS}/nobody/statistics").status_code == 404
    assert admin.get(f"{TARGETS}/nobody/statistics", headers=client).status_code == 403


def _series(registry):
    text = generate_latest(registry).decode()
    return [line for line in text.splitlines() if line.startswith("lethegate_target_prompts")]


def test_series_are_bounded_and_stay():
    """The most asked about come first; none is dropped for one that is asked about more later."""
    sums = {"ada": TargetCounts(matched=1, steered=1), "bob": TargetCounts(matched=5, refused=5)}
    registry = CollectorRegistry()
    TargetMetrics(registry, lambda: sums, 1)
    labels = {"target": "bob", "outcome": "refused"}
    first = registry.get_sample_value("lethegate_target_prompts_total", labels)
    sums["ada"] = TargetCounts(matched=9)
    later = _series(registry)

    assert first == 5
    assert len(later) == 4
    assert all('target="bob"' in line for line in later)
    assert registry.get_sample_value("lethegate_untold_targets") == 1
    del sums["bob"]
    assert all('target="ada"' in line for line in _series(registry))


def test_no_target_is_told_by_default(settings):
    """Whoever scrapes learns of none."""
    registry = CollectorRegistry()
    TargetMetrics(registry, lambda: {"ada": TargetCounts(matched=1)}, settings.target_series)

    assert settings.target_series == 0
    assert "ada" not in generate_latest(registry).decode()


def test_a_control_process_keeps_them(control, settings):
    """Over its restart; its metrics name targets to auditors only, and after the last word too."""
    control.start()
    control.until(control.ready)
    created = control.http.post("/targets", json={"id": "ada", "phrases": ["Port Sorrel"]})
    job = created.json()["job"]["id"]
    control.until(lambda: control.http.get(f"/jobs/{job}").json()["state"] == "done")
    gateway = Gateway(settings)
    gateway.tell("ada")

    def matched():
        return control.http.get("/targets/ada/statistics").json()["prompts"]["matched"]

    control.until(lambda: matched() == 1)
    control.kill()
    gateway.tell("ada")
    gateway.file.close()
    control.start()
    control.until(lambda: matched() == 2)
    metrics = f"http://127.0.0.1:{control.port}/metrics"

    assert "lethegate_untold_targets" not in httpx.get(metrics).text
    assert "lethegate_untold_targets" in control.http.get(metrics).text
    made = control.http.post("/keys", json={"name": "n", "role": "admin", "tenant": "acme"})
    of_tenant = {"authorization": f"Bearer {made.json()['key']}"}
    assert "lethegate_untold_targets" not in httpx.get(metrics, headers=of_tenant).text
