"""What the gateways of a machine count: summed once, whatever dies or is cut short."""

from __future__ import annotations

import os
from typing import Any

import pytest

from server.settings import Settings
from server.statistics.files import Source, StatisticsFile
from server.statistics.gathered import Gathered
from tests.server.control.tallies import counted, found


@pytest.mark.parametrize("dies_in", ["_write", "delete"])
def test_gateways_that_end_are_counted_once(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, dies_in: str
) -> None:
    """Also where the node's process dies before their sum is written, or just after."""
    first, second = (StatisticsFile(settings.statistics) for _ in range(2))
    first.write(counted(ada=3))
    second.write(counted(ada=4, bob=1))
    gathered = Gathered(settings.statistics)
    assert found(gathered.sum()) == found(gathered.sum()) == {"ada": 7, "bob": 1}
    first.close()

    def dies(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr(Gathered if dies_in == "_write" else Source, dies_in, dies)
        for _ in range(2):
            with pytest.raises(OSError, match="No space"):
                gathered.sum()
    for one in (gathered, Gathered(settings.statistics), Gathered(settings.statistics)):
        assert found(one.sum()) == {"ada": 7, "bob": 1}
        assert one.sum().requests.requests == 16
    second.write(counted(ada=5, bob=1))
    assert found(gathered.sum()) == {"ada": 8, "bob": 1}
    second.close()
    assert found(gathered.sum()) == found(Gathered(settings.statistics).sum())
    assert [path.name for path in settings.statistics.iterdir()] == ["ended.json"]


@pytest.mark.parametrize("content", ["", "{", "[]", '{"targets": [], "requests": {}}'])
def test_a_file_cut_short_stops_no_counting(settings: Settings, content: str) -> None:
    """As a machine without power leaves it: what was read of it before counts."""
    whole, running, lost = (StatisticsFile(settings.statistics) for _ in range(3))
    gathered = Gathered(settings.statistics)
    for file in (whole, running):
        file.write(counted(ada=3))
    assert found(gathered.sum()) == {"ada": 6}
    for file in (running, lost):
        file._path.write_text(content)
    assert found(gathered.sum()) == {"ada": 6}
    running.write(counted(ada=4))
    assert found(gathered.sum()) == {"ada": 7}
    for file in (running, lost):
        file._path.write_text(content)
        file.close()
    for one in (gathered, Gathered(settings.statistics)):
        assert found(one.sum()) == {"ada": 7}
    assert len(list(settings.statistics.glob("*.lock"))) == 1

    (settings.statistics / "ended.json").write_text(content)
    assert found(Gathered(settings.statistics).sum()) == {"ada": 3}


def test_what_is_withdrawn_is_dropped(settings: Settings) -> None:
    """So that what takes its id later begins with nothing, also after a restart."""
    ended, running = (StatisticsFile(settings.statistics) for _ in range(2))
    ended.write(counted(ada=3))
    running.write(counted(ada=1, bob=1))
    ended.close()
    gathered = Gathered(settings.statistics)
    assert found(gathered.sum({"ada", "bob"})) == {"ada": 4, "bob": 1}
    assert found(gathered.sum({"bob"})) == {"bob": 1}
    running.write(counted(bob=2))

    assert found(gathered.sum({"ada", "bob"})) == {"bob": 2}
    assert found(Gathered(settings.statistics).sum()) == {"bob": 2}
    assert gathered.sum().requests.requests == 10


def test_a_gateway_that_has_ended_is_seen_to(settings: Settings) -> None:
    """Also where a process that was forked meanwhile still has its lock's file open."""
    file = StatisticsFile(settings.statistics)
    file.write(counted(ada=3))
    inherited = os.dup(file._lock)
    file.close()

    assert found(Gathered(settings.statistics).sum()) == {"ada": 3}
    assert [path.name for path in settings.statistics.iterdir()] == ["ended.json"]
    os.close(inherited)
