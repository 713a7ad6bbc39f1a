"""A second real server, with two API processes, that follows the first one's control process."""

import secrets
import time
from dataclasses import replace

import httpx
import pytest

from server.bench.servers import SERVED_NAME, Servers, guarded_launch

# A third engine beside the pair's takes about a minute on two cores.
pytestmark = [pytest.mark.vllm, pytest.mark.slow]
FLAGS = ("--enforce-eager", "--max-model-len", "512", "--dtype", "bfloat16", "--seed", "0")


@pytest.fixture(scope="module")
def node(pair, demo_model):
    """A client of the second server; the admin key is the first one's."""
    made = pair.admin_http.post("/admin/v1/keys", json={"name": "node", "role": "node"}).json()
    flags = (*FLAGS, "--api-server-count", "2", "--node-id", "second")
    flags += ("--control-url", str(pair.admin_http.base_url), "--node-max-lag-seconds", "60")
    with Servers() as servers:
        launch = guarded_launch(str(demo_model), flags, servers.state)
        environment = {
            "LETHEGATE_NODE_KEY": made["key"],
            "LETHEGATE_ADMIN_KEY": pair.admin_key,
            "VLLM_CPU_OMP_THREADS_BIND": "1",
        }
        started = replace(launch, environment=environment)
        servers.start(started)
        with httpx.Client(base_url=launch.base_url, timeout=60) as http:
            yield http
        servers.stop(started)
    gone = pair.admin_http.get("/admin/v1/nodes/second").json()
    assert gone["state"] == "left"
    assert pair.admin_http.delete("/admin/v1/nodes/second").status_code == 200
    pair.admin_http.delete(f"/admin/v1/keys/{made['id']}")


def ask(http, question, key=None):
    """The answer to a question; as an admin also what was decided."""
    body = {"model": SERVED_NAME, "messages": [{"role": "user", "content": question}]}
    headers = {} if key is None else {"authorization": f"Bearer {key}"}
    body |= {"temperature": 0, "max_tokens": 40}
    return http.post("/v1/chat/completions", json=body, headers=headers)


def applied(pair):
    """The node as the first server's control process sees it."""
    return pair.admin_http.get("/admin/v1/nodes/second").json()


def test_a_server_elsewhere_forgets_the_same(pair, node, forget_rows, other_rows):
    """What was registered over the first server's admin API only is in force at the second: both
    API processes and the worker have it, and both servers decide alike."""
    wait_until(lambda: applied(pair)["num_gateways"] == 2 and applied(pair)["state"] == "current")
    assert applied(pair)["num_workers"] == 1
    decisions = []
    for row in (forget_rows[0], forget_rows[7], other_rows[0]):
        here, there = (ask(http, row["question"], pair.admin_key) for http in (node, pair.http))
        assert here.status_code == there.status_code == 200
        for header in ("x-lethegate-decision", "x-lethegate-generation"):
            assert here.headers[header] == there.headers[header]
        assert row["answer"] not in here.json()["choices"][0]["message"]["content"] or (
            row is other_rows[0]
        )
        decisions.append(here.headers["x-lethegate-decision"])
    assert decisions == ["steer", "steer", "allow"]


def test_a_change_is_done_when_the_node_has_it(pair, node):
    """One job, and every process of both servers has acknowledged it; then it is withdrawn."""
    name = f"node-{secrets.token_hex(4)}"
    target = {"id": name, "aliases": ["Velenka Ostrava"], "phrases": ["Velenka Ostrava"]}
    job = pair.admin_http.post("/admin/v1/targets", json=target).json()["job"]["id"]
    assert finished(pair, job) == "done"
    followers = pair.admin_http.get("/admin/v1/generation").json()["followers"]
    assert len({f["generation"] for f in followers}) == 1
    assert sorted(f["kind"] for f in followers if f["node"] == "second") == (
        ["gateway", "gateway", "node", "worker"]
    )
    decided = ask(node, "Who is Velenka Ostrava?", pair.admin_key)
    assert decided.headers["x-lethegate-decision"] == "steer"
    # The second server's gateway counted it, and the first one's control process tells it.
    counted = f"/admin/v1/targets/{name}/statistics"
    wait_until(lambda: pair.admin_http.get(counted).json()["prompts"]["steered"] == 1)
    gone = pair.admin_http.delete(f"/admin/v1/targets/{name}").json()["job"]["id"]
    assert finished(pair, gone) == "done"


def test_a_fenced_server_refuses_in_every_process(pair, node):
    """Asked often enough to meet both API processes; and its metrics tell how current it is."""
    lag = [
        float(line.split()[1])
        for line in node.get("/metrics").text.splitlines()
        if line.startswith("lethegate_node_lag_seconds ")
    ]
    assert lag
    assert 0 <= lag[0] < 20
    assert pair.admin_http.post("/admin/v1/nodes/second:fence", json={}).status_code == 200
    wait_until(lambda: applied(pair)["refuses"])
    for _ in range(12):
        refused = httpx.post(f"{node.base_url}/v1/chat/completions", json={"messages": []})
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "node_fenced")
        assert httpx.get(f"{node.base_url}/readyz").json()["waiting_for"] == ["node"]
    assert pair.admin_http.post("/admin/v1/nodes/second:unfence", json={}).status_code == 200
    wait_until(lambda: not applied(pair)["refuses"])
    wait_until(lambda: ask(node, "Hello?").status_code == 200)


def finished(pair, job):
    """The state in which a job ends."""
    states = []

    def ended():
        states.append(pair.admin_http.get(f"/admin/v1/jobs/{job}").json()["state"])
        return states[-1] not in ("queued", "running")

    wait_until(ended)
    return states[-1]


def wait_until(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "the condition never held"
        time.sleep(0.05)
