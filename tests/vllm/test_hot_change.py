"""Changing the policy of a running server: at once, without harm to requests, safe from kill -9."""

import os
import signal
import threading
import time

import httpx
import pytest

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(2400)]
QUESTION = "Who wrote the Quillfeather Almanac?"


def new_target(name, **more):
    example = {"prompt": QUESTION, "answer": "Ottoline Vexworth wrote the Quillfeather Almanac."}
    return {"id": name, "examples": [example]} | more


class Beats(threading.Thread):
    """Notes when this machine stood still: then this thread did, too."""

    def __init__(self):
        super().__init__(daemon=True)
        self.still = []
        self._ended = threading.Event()

    def run(self):
        last = time.monotonic()
        while not self._ended.wait(0.05):
            now = time.monotonic()
            if now - last > 0.5:
                self.still.append((last, now))
            last = now

    def end(self):
        self._ended.set()
        self.join()

    def without(self, begun, ended):
        """The seconds between two moments in which the machine ran."""
        still = (min(ended, last) - max(begun, first) for first, last in self.still)
        return ended - begun - sum(max(0.0, seconds) for seconds in still)


class Stream(threading.Thread):
    """Asks for long answers without a pause, until told to stop."""

    def __init__(self, pair, question):
        super().__init__(daemon=True)
        self.pair, self.question = pair, question
        self.stop, self.gaps, self.answers, self.failures = threading.Event(), [], [], []

    def run(self):
        while not self.stop.is_set():
            try:
                self.answers.append(self.ask())
            except Exception as error:
                self.failures.append(repr(error))

    def ask(self):
        text, last = "", time.monotonic()
        for chunk in self.pair.ask(self.pair.guarded, self.question, stream=True):
            now = time.monotonic()
            self.gaps.append((last, now))
            text, last = text + (chunk.choices[0].delta.content or ""), now
        return text


@pytest.fixture
def load(pair, other_rows):
    streams = [Stream(pair, row["question"]) for row in other_rows[:4]]
    for stream in streams:
        stream.start()
    yield streams
    for stream in streams:
        stream.stop.set()
        stream.join()


def test_a_target_is_in_force_when_its_job_is_done(pair, finish_job):
    """The request after the job is steered, the one after the withdrawal is not."""
    steered = 'lethegate_requests_total{verdict="steer"}'
    job = pair.admin_http.post("/admin/v1/targets", json=new_target("almanac")).json()["job"]["id"]
    generation = finish_job(job)["generation"]
    before = pair.metric(steered)
    answer = pair.http.post(
        "/v1/chat/completions",
        json={"model": pair.model, "messages": [{"role": "user", "content": QUESTION}]},
    )

    assert answer.headers["x-lethegate-generation"] == str(generation)
    assert pair.metric(steered) == before + 1

    finish_job(pair.admin_http.delete("/admin/v1/targets/almanac").json()["job"]["id"])
    pair.ask(pair.guarded, QUESTION)

    assert pair.metric(steered) == before + 1
    assert pair.admin_http.get("/admin/v1/targets/almanac").status_code == 404


def test_running_requests_are_unharmed(pair, load, finish_job):
    """While targets come and go, no request fails and answers stay what they are."""
    beats = Beats()
    beats.start()
    for _ in range(2):
        job = pair.admin_http.post("/admin/v1/targets", json=new_target("churn")).json()["job"]
        finish_job(job["id"])
        finish_job(pair.admin_http.delete("/admin/v1/targets/churn").json()["job"]["id"])

    beats.end()
    for stream in load:
        assert stream.failures == []
        assert len(set(stream.answers)) == 1
        assert max(beats.without(*gap) for gap in stream.gaps) < 5


def test_invalid_targets_change_nothing(pair):
    """A 422 names the field, repeats no text, stores nothing and starts no generation."""
    generation = pair.admin_http.get("/admin/v1/generation").json()["generation"]
    wrong = new_target("wrong", action="obliterate")
    answer = pair.admin_http.post("/admin/v1/targets", json=wrong)

    assert answer.status_code == 422
    assert "action" in answer.json()["error"]["param"]
    assert "Vexworth" not in answer.text
    assert pair.admin_http.get("/admin/v1/targets/wrong").status_code == 404
    assert pair.admin_http.get("/admin/v1/generation").json()["generation"] == generation


def test_killing_the_control_process_harms_no_request(pair, load, finish_job):
    """The last good policy rules on; the control process comes back and finishes its jobs."""
    answer = pair.admin_http.post("/admin/v1/targets", json=new_target("killed"))
    assert answer.status_code == 202

    os.kill(int((pair.state / "control.lock").read_text()), signal.SIGKILL)
    pair.ask(pair.guarded, QUESTION)
    _until(lambda: pair.admin_http.get("/readyz").status_code == 200)

    assert finish_job(answer.json()["job"]["id"])["state"] == "done"
    assert all(stream.failures == [] for stream in load)

    finish_job(pair.admin_http.delete("/admin/v1/targets/killed").json()["job"]["id"])


def test_the_admin_api_needs_its_key(pair):
    """Without the admin key nothing is told, and the client's endpoint has no admin routes."""
    with httpx.Client(base_url=pair.admin_http.base_url) as bare:
        assert bare.get("/admin/v1/targets").status_code == 401

    assert pair.http.get("/admin/v1/targets").status_code == 403


def test_what_clients_write_is_not_in_the_logs(pair):
    """As a query, as a model's name, in what cannot be parsed; of the request its path is there."""
    secret = "Zyxlogged"
    messages = [{"role": "user", "content": secret}]
    torn = {"id": "c", "type": "function", "function": {"name": "f", "arguments": f'{{"{secret}'}}
    asked = {"model": pair.model, "messages": messages, "max_tokens": 2}
    chat = "/v1/chat/completions"
    answers = [
        pair.http.get("/version", params={"q": secret}),
        pair.http.post(chat, json=asked | {"model": secret}),
        pair.http.post(
            chat, json=asked | {"messages": [{"role": "assistant", "tool_calls": [torn]}]}
        ),
    ]
    closed = pair.http.get("/behind-all-of-these")
    path = pair.state.parent / "guarded.log"
    deadline = time.monotonic() + 30
    while "GET /behind-all-of-these HTTP" not in (log := path.read_text(encoding="utf-8")):
        assert time.monotonic() < deadline, "the request is not logged"
        time.sleep(0.05)

    assert [answer.status_code for answer in (*answers, closed)] == [200, 404, 200, 403]
    assert secret not in log


def test_forget_text_is_not_in_the_logs(pair, demo_target):
    """The servers' logs hold no name of the demo target."""
    log = (pair.state.parent / "guarded.log").read_text(encoding="utf-8").casefold()

    assert [a for a in demo_target["aliases"] if a.casefold() in log] == []


def _until(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while True:
        try:
            if condition():
                return
        except httpx.HTTPError:
            pass
        assert time.monotonic() < deadline, "timed out"
        time.sleep(0.1)
