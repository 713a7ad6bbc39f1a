"""Two real servers for end-to-end tests: plain vLLM and the guarded one, with the same flags."""

import json
import os
import shlex
import threading
import time
from dataclasses import dataclass, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import openai
import pytest
import torch
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from server.bench.servers import SERVED_NAME, Servers, guarded_launch, plain_launch

DEMO = Path(__file__).parents[2] / "deploy" / "demo"
NO_KEY = {"api_key": "none", "max_retries": 0}
FLAGS = ("--enforce-eager", "--max-model-len", "512", "--dtype", "bfloat16", "--seed", "0")
# Concerns requests with a thinking budget only. The text that vLLM puts in when a budget is used up
# is a forgotten fact here: the worst that an operator could configure.
THINK, FORCED = "Think:", " Kuwait City."
FLAGS += (
    "--reasoning-config",
    json.dumps({"reasoning_start_str": THINK, "reasoning_end_str": FORCED}),
)
if torch.cuda.is_available():
    FLAGS += ("--gpu-memory-utilization", "0.3")  # up to three engines are on it at once
# What a machine needs beside: flags of vLLM, the last of two that say the same counts.
FLAGS += tuple(shlex.split(os.environ.get("TEST_VLLM_FLAGS", "")))


@dataclass(frozen=True)
class Pair:
    """Both servers, ready, with the demo target registered on the guarded one."""

    plain: openai.OpenAI
    guarded: openai.OpenAI
    http: httpx.Client
    admin_http: httpx.Client
    state: Path
    admin_key: str
    model: str = SERVED_NAME

    def ask(self, client, question, **more):
        messages = [{"role": "user", "content": question}]
        more = {"temperature": 0, "max_tokens": 80} | more
        return client.chat.completions.create(model=self.model, messages=messages, **more)

    def ask_as_admin(self, question, **more):
        """The guarded answer and, because an admin asks, what was decided about the question."""
        client = self.guarded.with_options(api_key=self.admin_key)
        messages = [{"role": "user", "content": question}]
        raw = client.chat.completions.with_raw_response.create(
            model=self.model, messages=messages, **{"temperature": 0, "max_tokens": 80} | more
        )
        return raw.headers["x-lethegate-decision"], raw.parse()

    def metric(self, name):
        lines = self.http.get("/metrics").text.splitlines()
        found = [line.rsplit(" ", 1)[1] for line in lines if line.startswith(name)]
        return sum(map(float, found))


def on_core(core, launch):
    """The launch with the engine's threads on one core of its own.

    Two engines whose threads wait for each other on the same cores generate 25 times slower.
    """
    if (os.cpu_count() or 1) < 2:
        return launch
    bound = {**launch.environment, "VLLM_CPU_OMP_THREADS_BIND": str(core)}
    return replace(launch, environment=bound)


def read_rows(name):
    with (DEMO / name).open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


@pytest.fixture(scope="session")
def forget_rows():
    return read_rows("forget.jsonl")


@pytest.fixture(scope="session")
def other_rows():
    """Rows that were not registered in any way."""
    return [row for row in read_rows("retain.jsonl") if row["split"] == "test"]


@pytest.fixture(scope="session")
def demo_target():
    return json.loads((DEMO / "target.json").read_text(encoding="utf-8"))


class Collector:
    """A small OTLP receiver on loopback; what it gets is read when it is asked for."""

    def __init__(self):
        self._bodies = []
        bodies = self._bodies

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                bodies.append(self.rfile.read(int(self.headers["content-length"])))
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1/traces"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def spans(self):
        """All spans so far."""
        found = []
        for body in list(self._bodies):
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                found += [span for scope in resource.scope_spans for span in scope.spans]
        return found

    def close(self):
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture(scope="session")
def collector():
    """Where the guarded server and its engine send their traces."""
    made = Collector()
    yield made
    made.close()


@pytest.fixture(scope="session")
def pair(demo_model, demo_target, collector):
    with Servers() as servers:
        flags = (*FLAGS, "--target-series", "5", "--otlp-endpoint", collector.url)
        flags += ("--assistant-memory-gib", "0.2", "--assistant-cache-tokens", "8192")
        guarded = on_core(1, guarded_launch(str(demo_model), flags, servers.state))
        # Else vLLM sends its spans every 5 seconds.
        soon = {**guarded.environment, "OTEL_BSP_SCHEDULE_DELAY": "500"}
        guarded = replace(guarded, environment=soon)
        plain = on_core(0, plain_launch(str(demo_model), FLAGS))
        other = threading.Thread(target=servers.start, args=(plain,))
        other.start()
        servers.start(guarded)
        other.join()
        key = {"Authorization": f"Bearer {guarded.admin_key}"}
        with (
            httpx.Client(base_url=guarded.base_url, timeout=60) as http,
            httpx.Client(base_url=guarded.admin_url, headers=key, timeout=60) as admin_http,
            openai.OpenAI(base_url=f"{plain.base_url}/v1", **NO_KEY) as plain_client,
            openai.OpenAI(base_url=f"{guarded.base_url}/v1", **NO_KEY) as guarded_client,
        ):
            job = admin_http.post("/admin/v1/targets", json=demo_target).json()["job"]["id"]
            wait_for_job(admin_http, job)
            yield Pair(
                plain_client,
                guarded_client,
                http,
                admin_http,
                servers.state,
                guarded.admin_key,
            )


def wait_for_job(admin_http, job, seconds=60):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found = admin_http.get(f"/admin/v1/jobs/{job}").json()
        if found["state"] in ("done", "failed", "cancelled"):
            assert found["state"] == "done", found["error"]
            return found
        time.sleep(0.05)
    raise AssertionError("the job did not end in time")


@pytest.fixture(scope="session")
def finish_job(pair):
    return lambda job: wait_for_job(pair.admin_http, job)
