"""The soak's harness on the real servers, for seconds and without deaths."""

import time
from itertools import islice

import pytest

from detectors.targets import ForgetTarget
from server.attack.cases import prey_of
from server.bench.servers import SERVED_NAME, GuardedLaunch
from server.bench.soak import questions
from server.bench.soak.judge import ACCEPTABLE, Outcome
from server.bench.soak.load import Load, all_of
from server.bench.soak.questions import known_questions
from server.bench.soak.reloads import TARGET_ID, Reloader
from server.bench.soak.requests import CHAT_SHAPES, Manner, asks, unmatched
from server.bench.soak.run import choose_changing
from server.schemas import TargetIn

# A quarter of a minute of load, to see that the harness still fits the server.
pytestmark = [pytest.mark.vllm, pytest.mark.slow]
SECONDS = 5


@pytest.fixture
def launch(pair):
    """How to reach the guarded server."""
    urls = (str(http.base_url).rstrip("/") for http in (pair.http, pair.admin_http))
    base_url, admin_url = urls
    yield GuardedLaunch("guarded", (), base_url, "/readyz", {}, admin_url, pair.admin_key)
    pair.admin_http.delete(f"/admin/v1/targets/{TARGET_ID}")


def test_a_short_soak(pair, launch, demo_target, other_rows, monkeypatch):
    """Mixed load beside a policy that changes: nothing leaks, nothing is wrong, all is answered."""
    monkeypatch.setattr(questions, "LEAST_QUESTIONS", 5)
    asked = [row["question"] for row in other_rows[::20]]
    plain = str(pair.plain.base_url).removesuffix("/v1/")
    changing, known = choose_changing(known_questions(plain, SERVED_NAME, asked))
    shaped = [
        unmatched(one, shape, Manner.QUICK, SERVED_NAME)
        for one, shape in zip(known, CHAT_SHAPES, strict=False)
    ]
    quiet = all_of(launch.base_url, launch.admin_key, shaped, 4, lambda: None)

    assert {one.outcome for one in quiet} <= {Outcome.RIGHT, Outcome.STEERED}

    prey = prey_of(target_of(demo_target))
    requests = islice(asks(known, prey, SERVED_NAME, 1), 10_000)
    load = Load(launch.base_url, launch.admin_key, requests, 6)
    reloader = Reloader(launch, changing, 0.5, [])
    load.start()
    reloader.start()
    begun = time.monotonic()
    while time.monotonic() < begun + SECONDS or reloader.changes.done < 3:
        assert time.monotonic() < begun + 120, "the policy does not change"
        time.sleep(0.1)
    reloader.stop()
    load.stop()
    load.check()
    outcomes = [one.outcome for one in load.judged]
    bad = [one for one in load.judged if one.outcome not in ACCEPTABLE]

    assert bad == []
    assert {Outcome.RIGHT, Outcome.CLEAN} <= set(outcomes)
    assert (reloader.changes.failed, reloader.changes.wrong) == ([], [])
    assert reloader.changes.asked == reloader.changes.done


def target_of(document) -> ForgetTarget:
    return TargetIn.model_validate(document).to_target()
