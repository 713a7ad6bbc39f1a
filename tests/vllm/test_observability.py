"""A real Prometheus beside the real guarded server: what dashboards and rules ask has answers."""

import concurrent.futures
import contextlib
import json
import math
import shutil
import subprocess
import sys
import threading
import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import httpx
import pytest
import yaml

from server.bench.servers import free_ports

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.skipif(
        shutil.which("prometheus") is None,
        reason="Prometheus is not installed (on Debian: apt-get install prometheus)",
    ),
]

DEPLOY = Path(__file__).parents[2] / "deploy"
BOARDS = sorted((DEPLOY / "grafana" / "dashboards").glob("*.json"))
LOAD_SECONDS = 8
UNASKED = {"Time to hold a piece of an answer against the corpora"}  # there are none
# A node's own metric; `test_nodes.py` has such a server.
NEEDS_NODE = {"Lag that nodes know of"}
# Metrics that name targets: told on the admin port, to this Prometheus's key.
NAMING = "lethegate_target_"
# What Grafana would put in: four scrape intervals at least, here all since the load began.
VARIABLES = {"$__rate_interval": "2m", "$instance": ".*"}


class Prometheus:
    """A running Prometheus, by its HTTP API."""

    def __init__(self, port):
        self.url = f"http://127.0.0.1:{port}"
        self.http = httpx.Client(base_url=self.url, timeout=60)

    def get(self, path, **params):
        answer = self.http.get(f"/api/v1/{path}", params=params).json()
        assert answer["status"] == "success", answer
        return answer["data"]

    def query(self, expression):
        """Newest values of an expression, those that are numbers."""
        found = self.get("query", query=expression)["result"]
        return [value for each in found if math.isfinite(value := float(each["value"][1]))]


def configuration(pair, key_file):
    """The shipped configuration at a quicker pace, with this server's addresses."""
    shipped = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text("utf-8"))
    shipped["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    shipped["rule_files"] = [str(DEPLOY / "prometheus" / each) for each in shipped["rule_files"]]
    addresses = {"lethegate": pair.http, "lethegate-control": pair.admin_http}
    for job in shipped["scrape_configs"]:
        address = addresses.pop(job["job_name"]).base_url.netloc.decode()
        if "authorization" in job or job["job_name"] == "lethegate-control":
            job["authorization"] = {"credentials_file": str(key_file)}
        job["static_configs"] = [{"targets": [address]}]
    assert not addresses
    return shipped


def put_load_on(pair, forget_rows, other_rows):
    """Both kinds of questions from four clients, streamed and not, for a few seconds."""
    ended = time.monotonic() + LOAD_SECONDS
    rows = [row for both in zip(forget_rows, other_rows, strict=False) for row in both]

    def client(number):
        for turn, row in enumerate(rows[number::4] * 20):
            if time.monotonic() > ended:
                return
            # A question that was asked before would not be encoded again.
            question = f"Monitoring asks, {turn} of {number}: {row['question']}"
            answer = pair.ask(pair.guarded, question, stream=number % 2 == 0)
            assert list(answer) if number % 2 == 0 else answer.choices

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        list(pool.map(client, range(4)))


@pytest.fixture(scope="module")
def node(pair):
    """Another machine, as far as the control process is told: it says that it applies what is in
    force there, again and again."""
    made = pair.admin_http.post("/admin/v1/keys", json={"name": "watched", "role": "node"}).json()
    headers = {"authorization": f"Bearer {made['key']}"}
    stop = threading.Event()
    with httpx.Client(base_url=pair.admin_http.base_url, headers=headers, timeout=60) as http:

        def report(**more):
            policy = http.get("/node/v1/nodes/watched/orders").json()["policy"]
            said = {"instance": "7" * 32, "version": "1", "lead": 1, "policy": policy, **more}
            assert http.put("/node/v1/nodes/watched", json=said).status_code == 200

        def go_on():
            while not stop.wait(1):
                with contextlib.suppress(httpx.HTTPError):
                    report()

        report()
        thread = threading.Thread(target=go_on)
        thread.start()
        yield
        stop.set()
        thread.join()
        report(left=True)
    assert pair.admin_http.delete("/admin/v1/nodes/watched").status_code == 200
    pair.admin_http.delete(f"/admin/v1/keys/{made['id']}")


@pytest.fixture(scope="module")
def prometheus(pair, node, forget_rows, other_rows, tmp_path_factory):
    folder = tmp_path_factory.mktemp("prometheus")
    (folder / "key").write_text(pair.admin_key)
    shipped = configuration(pair, folder / "key")
    (folder / "prometheus.yml").write_text(yaml.safe_dump(shipped), "utf-8")
    (port,) = free_ports(1)
    command = ["prometheus", f"--config.file={folder / 'prometheus.yml'}"]
    command += [f"--storage.tsdb.path={folder / 'data'}"]
    command += [f"--web.listen-address=127.0.0.1:{port}", "--log.level=warn"]
    with (folder / "log").open("wb") as log, subprocess.Popen(command, stderr=log) as process:
        try:
            running = Prometheus(port)
            wait_until(lambda: is_ready(running), folder / "log")
            wait_until(lambda: running.query("up") == [1, 1])
            put_load_on(pair, forget_rows, other_rows)
            wait_until(lambda: len(running.query("stage:lethegate_stage_seconds:mean5m")) > 0)
            yield running
            running.http.close()
        finally:
            process.terminate()


def is_ready(running):
    try:
        return running.http.get("/-/ready").status_code == 200
    except httpx.TransportError:
        return False


def wait_until(condition, log=None):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, log.read_text() if log else "it never came true"
        time.sleep(0.1)


def filled(expression):
    for variable, value in VARIABLES.items():
        expression = expression.replace(variable, value)
    return expression


@pytest.mark.parametrize("path", BOARDS, ids=lambda path: path.stem)
def test_every_panel_has_data(prometheus, path):
    """Each query of a dashboard gives at least one number under load, or is known to be unasked."""
    for panel in json.loads(path.read_text("utf-8"))["panels"]:
        for query in panel["targets"]:
            expression = filled(query["expr"])
            if panel["title"] in UNASKED:
                # A mean of nothing: the series is there, and is no number.
                assert prometheus.get("query", query=expression)["result"], expression
            elif panel["title"] in NEEDS_NODE:
                assert prometheus.get("query", query=expression)["result"] == [], expression
            else:
                assert prometheus.query(expression), (panel["title"], expression)


def test_load_is_seen(prometheus):
    """The figures are those of the load, not just zeros that are always there."""
    for expression in (
        'sum(rate(lethegate_requests_total{verdict="allow"}[1m])) > 0',
        'sum(rate(lethegate_requests_total{verdict="steer"}[1m])) > 0',
        "sum(rate(lethegate_blocked_tokens_total[1m])) > 0",
        'sum(rate(lethegate_stage_seconds_count{stage="encode"}[1m])) > 0',
        'lethegate_live_followers{kind="worker"} == 1',
        'lethegate_nodes{state="current"} == 1',
        'lethegate_node_generation_lag{node="watched"} == 0',
        'sum(rate(lethegate_target_prompts_total{outcome="steered"}[1m])) > 0',
        "sum(rate(lethegate_target_prevented_steps_total[1m])) > 0",
        'sum(rate(lethegate_target_guard_seconds_total{stage="shield"}[1m])) > 0',
        "lethegate_acknowledged_generation == on () group_left lethegate_active_generation",
    ):
        # One that was asked for too long by a machine that stood still is asked again.
        wait_until(lambda expression=expression: prometheus.query(expression))


def test_rules_are_evaluated_and_a_healthy_server_alerts_nobody(prometheus):
    """Recording rules record; every alert's expression can be evaluated, and none holds."""

    def read():
        groups = prometheus.get("rules")["groups"]
        return [rule for group in groups for rule in group["rules"]]

    def alerting():
        return {rule["name"]: rule["state"] for rule in read() if rule["type"] == "alerting"}

    # Where the machine stood still, a server is down for as long as one question of Prometheus.
    wait_until(lambda: set(alerting().values()) == {"inactive"})
    rules = read()

    assert len(rules) >= 20
    for rule in rules:
        assert (rule["health"], rule.get("lastError", "")) == ("ok", ""), rule["name"]
        if rule["type"] == "recording":
            assert prometheus.query(rule["name"]), rule["name"]
        else:
            assert prometheus.get("query", query=rule["query"])["resultType"] == "vector"


def test_no_forget_text_is_scraped(prometheus, demo_target):
    """No label of any series holds a target's name or answer, nor its id where none may be."""
    found = prometheus.get("series", **{"match[]": '{__name__=~"lethegate.*"}'})
    naming = json.dumps([each for each in found if each["__name__"].startswith(NAMING)])
    others = json.dumps([each for each in found if not each["__name__"].startswith(NAMING)])

    assert demo_target["id"] in naming
    assert demo_target["id"] not in others
    for secret in demo_target["aliases"]:
        assert secret.lower() not in (naming + others).lower()


def test_targets_are_told_to_auditors_only(pair, demo_target):
    """Without a key the admin port's metrics name no target."""
    told = pair.admin_http.get("/metrics").text
    strangers = httpx.get(f"{pair.admin_http.base_url}/metrics").text

    assert NAMING in told
    assert NAMING not in strangers
    assert demo_target["id"] not in strangers


def test_statistics_of_a_real_server(prometheus, pair, demo_target):
    """The admin API tells what the load did, and what it cost."""
    found = pair.admin_http.get(f"/admin/v1/targets/{demo_target['id']}/statistics").json()

    assert found["prompts"]["steered"] > 0
    assert found["prompts"]["matched"] == found["prompts"]["steered"]
    assert found["answers"]["prevented_steps"] > 0
    assert found["cost"]["shield_seconds"] > 0
    assert 0 < found["cost"]["share"] < 1


def test_pictures_are_drawn_from_what_was_scraped(prometheus, tmp_path):
    """One SVG document per dashboard, with a frame per panel and lines in it."""
    names = [path.stem for path in BOARDS]
    command = [sys.executable, str(DEPLOY / "grafana" / "pictures.py"), prometheus.url, *names]
    seconds = str(LOAD_SECONDS + 4)
    subprocess.run([*command, "--seconds", seconds, "--folder", str(tmp_path)], check=True)
    svg = "{http://www.w3.org/2000/svg}"
    for path in BOARDS:
        panels = json.loads(path.read_text("utf-8"))["panels"]
        picture = ElementTree.parse(tmp_path / f"{path.stem}.svg")
        drawn = [line.get("points").split() for line in picture.iter(f"{svg}polyline")]

        assert len(list(picture.iter(f"{svg}rect"))) == len(panels)
        assert max(map(len, drawn)) > LOAD_SECONDS
