"""Servers under test start, are watched, and never outlive the bench."""

from __future__ import annotations

import stat
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import pytest

from server.bench import servers as bench_servers
from server.bench.errors import ServerDied
from server.bench.servers import Launch, Servers, guarded_launch, plain_launch

# Says it is ready, and has a child of its own that ignores SIGTERM.
SERVER = """
import http.server, pathlib, subprocess, sys
stubborn = "import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(600)"
child = subprocess.Popen([sys.executable, "-c", stubborn])
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers()
server = http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler)
pathlib.Path(sys.argv[2]).write_text(str(child.pid))
server.serve_forever()
"""
OWN_SESSION = "stubborn], start_new_session=True)"


def launch(tmp_path: Path, code: str) -> Launch:
    port = plain_launch("m", ()).base_url.rpartition(":")[2]
    pid_file = str(tmp_path / "pid")
    command = (sys.executable, "-c", code, port, pid_file)
    return Launch("tiny", command, f"http://127.0.0.1:{port}", "/")


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_for_the_end_of(pid: int) -> bool:
    end = time.monotonic() + 60
    while is_alive(pid) and time.monotonic() < end:
        time.sleep(0.05)
    return not is_alive(pid)


@pytest.fixture(autouse=True)
def temporary_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Logs that are kept lie in the test's own folder."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


class TestServers:
    @pytest.mark.parametrize("error", [None, KeyboardInterrupt, ZeroDivisionError])
    def test_leaves_no_process_and_no_file(
        self, tmp_path: Path, error: type[BaseException] | None
    ) -> None:
        """However it is left, children included; the state may hold a forget target."""
        with suppress(KeyboardInterrupt, ZeroDivisionError), Servers() as servers:
            servers.state.mkdir()
            servers.start(launch(tmp_path, SERVER))
            child = int((tmp_path / "pid").read_text())
            assert is_alive(child)
            if error is not None:
                raise error

        assert wait_for_the_end_of(child)
        assert not servers.directory.exists()

    def test_a_server_that_hangs_is_killed_with_all_below_it(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A child in a session of its own too: the control process is one."""
        monkeypatch.setattr(bench_servers, "_GRACE_SECONDS", 0.5)
        hanging = "import signal; signal.signal(15, signal.SIG_IGN)\n" + SERVER
        with Servers() as servers:
            servers.start(launch(tmp_path, hanging.replace("stubborn])", OWN_SESSION)))
            child = int((tmp_path / "pid").read_text())

        assert wait_for_the_end_of(child)

    def test_a_server_that_ends_is_told_with_its_log(self, tmp_path: Path) -> None:
        """The log stays for the reader; the state does not."""
        code = "import sys; print('no such flag'); sys.exit(3)"
        servers = Servers()
        servers.state.mkdir()
        with pytest.raises(ServerDied, match="status 3") as raised, servers:
            servers.start(launch(tmp_path, code))

        assert any("no such flag" in note for note in raised.value.__notes__)
        assert (servers.directory / "tiny.log").exists()
        assert not servers.state.exists()

    def test_is_its_owners_alone(self) -> None:
        """Others on the machine may not read state or logs."""
        with Servers() as servers:
            mode = stat.S_IMODE(servers.directory.stat().st_mode)

        assert mode == 0o700

    def test_settings_of_another_server_do_not_reach_it(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A store or keys in the environment would change what is measured, or be changed."""
        monkeypatch.setenv("LETHEGATE_DATABASE_URL", "postgresql://elsewhere")
        monkeypatch.setenv("LETHEGATE_ENCODER", "/models/encoder")
        code = "import os, sys; print(sorted(k for k in os.environ if 'LETHE' in k)); sys.exit(1)"
        with pytest.raises(ServerDied) as raised, Servers() as servers:
            servers.start(launch(tmp_path, code))

        assert "['LETHEGATE_ENCODER']" in raised.value.__notes__[0]


class TestLaunches:
    def test_both_servers_get_the_same_flags(self, tmp_path: Path) -> None:
        """And the same log-probabilities mode: the guarded server sets it itself."""
        flags = ("--dtype", "bfloat16")
        plain, guarded = plain_launch("m", flags), guarded_launch("m", flags, tmp_path)

        assert tuple(plain.command[-2:]) == tuple(guarded.command[-2:]) == flags
        assert "processed_logprobs" in plain.command

    def test_the_admin_key_is_not_shown(self, tmp_path: Path) -> None:
        """Process lists and reprs are read by others."""
        guarded = guarded_launch("m", (), tmp_path)

        assert guarded.admin_key
        assert guarded.admin_key not in repr(guarded)
        assert guarded.admin_key not in " ".join(guarded.command)

    def test_ports_differ(self, tmp_path: Path) -> None:
        """The admin API is not on the guarded endpoint's port."""
        guarded = guarded_launch("m", (), tmp_path)

        assert guarded.base_url != guarded.admin_url


def test_a_killed_server_is_started_again(tmp_path: Path) -> None:
    """As a supervisor does: first what is left of it is ended, in sessions of their own too."""
    own_session = SERVER.replace("stubborn])", OWN_SESSION)
    tiny = launch(tmp_path, own_session)
    with Servers() as servers:
        servers.start(tiny)
        first, child = servers.pid(tiny), int((tmp_path / "pid").read_text())
        lingering = servers.kill(tiny, 0.2)

        assert lingering == 1
        assert wait_for_the_end_of(first)
        assert wait_for_the_end_of(child)

        servers.start(tiny)

        assert servers.pid(tiny) != first
        servers.check()
        servers.stop(tiny)
