"""The load generator against a tiny server on loopback."""

from __future__ import annotations

import asyncio
from itertools import cycle
from typing import Any

import pytest

from server.bench.answers import read_answer
from server.bench.load import Workload, run_load, send_all, take_prompts


@pytest.fixture
def workload(tiny_server: Any) -> Workload:
    """Three streams of five tokens each."""
    return Workload(tiny_server.base_url, "bench", concurrency=3, max_tokens=5)


class TestRunLoad:
    def test_every_prompt_is_answered_once(self, tiny_server: Any, workload: Workload) -> None:
        """With the tokens that were asked for, at the concurrency that was asked for."""
        told: list[None] = []
        prompts = [f"question {number}" for number in range(10)]
        exchanges = run_load(workload, prompts, lambda: told.append(None))
        answers = [read_answer(exchange) for exchange in exchanges]
        asked = [body["messages"][0]["content"] for body in tiny_server.bodies]

        assert sorted(asked) == sorted(prompts)
        assert len(told) == len(prompts)
        assert {a.failure for a in answers} == {""}
        assert all(a.asked == a.tokens == len(a.arrivals) for a in answers)
        assert [a.asked for a in answers] == [workload.tokens(prompt) for prompt in prompts]
        assert [a.text for a in answers] == ["word " * a.tokens for a in answers]
        assert all(a.sent < a.arrivals[0] <= a.arrivals[-1] <= a.ended for a in answers)
        assert tiny_server.most_running == 3

    def test_both_servers_would_do_the_same_work(
        self, tiny_server: Any, workload: Workload
    ) -> None:
        """Greedy, a fixed number of tokens, streamed, counted by the server."""
        run_load(workload, ["question"])
        body = tiny_server.bodies[0]

        assert (body["ignore_eos"], body["temperature"]) == (True, 0)
        assert body["max_tokens"] == workload.tokens("question")
        assert body["stream"] is True
        assert body["stream_options"] == {"include_usage": True}

    def test_answers_do_not_all_end_together(self, workload: Workload) -> None:
        """Their lengths differ around the one that was asked for."""
        lengths = [workload.tokens(f"question {number}") for number in range(1000)]

        assert {3, 4, 5, 6, 7} <= set(lengths) <= {2, 3, 4, 5, 6, 7, 8}
        assert sum(lengths) / len(lengths) == pytest.approx(5, abs=0.3)

    def test_refusals_and_broken_streams_become_failures(
        self, tiny_server: Any, workload: Workload
    ) -> None:
        """Nothing raises; the arm is judged afterwards."""
        tiny_server.status = 503
        refused = [read_answer(exchange) for exchange in run_load(workload, ["a", "b"])]
        tiny_server.status, tiny_server.dies_after = 200, 2
        broken = [read_answer(exchange) for exchange in run_load(workload, ["a"])]

        assert [answer.failure for answer in refused] == ["status 503"] * 2
        assert [answer.failure for answer in broken] == ["unfinished stream"]

    def test_nobody_there_is_a_failure(self) -> None:
        """As after the server's death."""
        dead = Workload("http://127.0.0.1:9", "bench", concurrency=1, max_tokens=5)
        (exchange,) = run_load(dead, ["a"])

        assert read_answer(exchange).failure == "ClientConnectorError"


class TestSendAll:
    def test_stopping_finishes_what_runs(self, workload: Workload) -> None:
        """An endless load ends with whole answers."""

        async def load_for_a_moment() -> list[Any]:
            stop = asyncio.Event()
            load = asyncio.create_task(send_all(workload, cycle(["a", "b"]), stop=stop))
            await asyncio.sleep(0.1)
            stop.set()
            return await load

        answers = [read_answer(exchange) for exchange in asyncio.run(load_for_a_moment())]

        assert len(answers) >= 3
        assert {answer.failure for answer in answers} == {""}


class TestTakePrompts:
    def test_goes_around(self) -> None:
        """Rounds go on where the last one stopped."""
        assert take_prompts(["a", "b", "c"], 2, 4) == ["c", "a", "b", "c"]
        assert take_prompts(["a", "b", "c"], 7, 1) == ["b"]
