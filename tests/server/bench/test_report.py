"""A report names its machine, versions and command, and is written whole."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from server.bench.errors import InputMissing
from server.bench.report import check_writable, write_report


class TestWriteReport:
    def test_figures_stand_beside_what_they_belong_to(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Nobody can repeat a figure without them."""
        monkeypatch.setattr(sys, "argv", ["x", "bench", "serving", "--json", "a file"])
        path = tmp_path / "report.json"
        write_report(path, {"ratio": 0.97}, load_before=0.5)
        report = json.loads(path.read_text())

        assert report["ratio"] == 0.97
        assert report["command"] == "lethegate bench serving --json 'a file'"
        assert report["machine"]["cores"] >= 1
        assert report["machine"]["memory_gib"] > 0
        assert report["machine"]["load_average_before"] == 0.5
        assert {"python", "lethegate", "torch"} <= report["versions"].keys()
        assert list(tmp_path.iterdir()) == [path]


class TestCheckWritable:
    def test_makes_folders_and_leaves_nothing(self, tmp_path: Path) -> None:
        """A report that was there before stays until there is a new one."""
        check_writable(tmp_path / "new" / "report.json")

        assert list((tmp_path / "new").iterdir()) == []

    def test_refuses_before_the_run(self, tmp_path: Path) -> None:
        """Not after an hour."""
        (tmp_path / "file").write_text("")
        with pytest.raises(InputMissing, match="cannot write"):
            check_writable(tmp_path / "file" / "report.json")
