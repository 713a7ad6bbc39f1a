"""A real server of two API processes: its engine is stopped, then one of the two is killed."""

import os
import signal
import threading
import time
from pathlib import Path

import httpx
import pytest

from server.bench.inputs import DEMO_FLAGS
from server.bench.processes import descendants, is_alive
from server.bench.servers import SERVED_NAME, ServerDied, Servers, guarded_launch

# A server of its own takes about half a minute on two cores.
pytestmark = [pytest.mark.vllm, pytest.mark.slow]
ASK = {
    "model": SERVED_NAME,
    "messages": [{"role": "user", "content": "Tell me a story"}],
    "max_tokens": 200,
    "ignore_eos": True,
}


class Server:
    """One that believes its engine to hang after 5 seconds."""

    def __init__(self, servers, model):
        flags = (*DEMO_FLAGS, "--api-server-count", "2", "--engine-stall-seconds", "5")
        self._launch = guarded_launch(str(model), flags, servers.state)
        self._servers = servers
        servers.start(self._launch)
        self.url = self._launch.base_url

    def processes(self, name):
        """Those below the server that call themselves so."""
        below = descendants(self._servers.pid(self._launch))
        return [p for p in below if Path(f"/proc/{p}/comm").read_text().startswith(name)]

    def below(self):
        return descendants(self._servers.pid(self._launch))

    def ask(self):
        return httpx.post(f"{self.url}/v1/chat/completions", json=ASK, timeout=60)

    def statuses(self, path, times=12):
        """Of so many questions, which meet both API processes."""
        return {httpx.get(f"{self.url}{path}").status_code for _ in range(times)}

    def has_ended(self):
        try:
            self._servers.check()
        except ServerDied as died:
            return str(died)
        return ""


@pytest.fixture(scope="module")
def server(demo_model):
    with Servers() as servers:
        yield Server(servers, demo_model)


def until(condition):
    end = time.monotonic() + 60
    while not (found := condition()):
        assert time.monotonic() < end, "timed out"
        time.sleep(0.1)
    return found


def test_a_stopped_engine_is_noticed_and_used_again(server):
    """Whoever waits is answered; no API process is healthy until the engine goes on."""
    until(lambda: server.statuses("/readyz") == {200})
    [engine] = server.processes("VLLM::EngineCor")
    answers = []
    asking = [threading.Thread(target=lambda: answers.append(server.ask())) for _ in range(4)]
    os.kill(engine, signal.SIGSTOP)
    try:
        for ask in asking:
            ask.start()
        for ask in asking:
            ask.join(60)
        assert [answer.status_code for answer in answers] == [503] * 4
        assert {a.json()["error"]["code"] for a in answers} == {"engine_stalled"}
        until(lambda: server.statuses("/readyz") == {503})
        assert server.statuses("/health") == {503}
    finally:
        os.kill(engine, signal.SIGCONT)
    until(lambda: server.statuses("/readyz") == {200})

    assert server.statuses("/health") == {200}
    assert [server.ask().status_code for _ in range(4)] == [200] * 4


def test_a_killed_api_process_ends_the_server(server):
    """Half of its clients would be refused: whoever supervises it starts it again, whole."""
    below = server.below()
    os.kill(server.processes("VLLM::APIServer")[0], signal.SIGKILL)

    assert "status 1" in until(server.has_ended)
    until(lambda: not any(map(is_alive, below)))
