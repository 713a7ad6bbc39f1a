"""Unmatched traffic is unmatched and matched traffic is steered, or there are no figures."""

from __future__ import annotations

from typing import Any

import pytest

from server.bench.errors import ArmInvalid
from server.bench.load import Workload
from server.bench.servers import GuardedLaunch
from server.bench.verdicts import check_steered, count_verdicts, leave_out_matched

METRICS = """\
# HELP lethegate_requests_total Requests by verdict.
# TYPE lethegate_requests_total counter
lethegate_requests_total{verdict="allow"} 7.0
lethegate_requests_total{verdict="steer"} 3.0
# HELP other_total Others.
# TYPE other_total counter
other_total{verdict="allow"} 9.0
"""


@pytest.fixture
def launch(tiny_server: Any) -> GuardedLaunch:
    """The tiny server as if it were guarded."""
    return GuardedLaunch("guarded", (), tiny_server.base_url, "/", admin_key="k")


class TestCheckSteered:
    def test_shares_are_of_what_the_arm_added(self) -> None:
        """Counts from before the arm are not its own."""
        before = {"allow": 50.0}

        assert check_steered("unmatched", before, {"allow": 150.0}, 100) == 0
        assert check_steered("matched", before, {"allow": 52.0, "steer": 98.0}, 100) == 0.98

    @pytest.mark.parametrize(
        ("traffic", "after"),
        [
            ("unmatched", {"allow": 97.0, "steer": 3.0}),
            ("unmatched", {"allow": 97.0, "refuse": 3.0}),
            ("matched", {"allow": 6.0, "steer": 94.0}),
            ("matched", {"refuse": 100.0}),
            ("unmatched", {"allow": 99.0}),
            ("unmatched", {"allow": 101.0}),
        ],
    )
    def test_other_traffic_than_the_name_says_is_refused(
        self, traffic: str, after: dict[str, float]
    ) -> None:
        """So are requests that were not counted, or not ours."""
        with pytest.raises(ArmInvalid):
            check_steered(traffic, {}, after, 100)


class TestCountVerdicts:
    def test_reads_the_servers_own_counter(self, tiny_server: Any, launch: GuardedLaunch) -> None:
        """And no other counter with such a label."""
        tiny_server.metrics = METRICS

        assert count_verdicts(launch) == {"allow": 7.0, "steer": 3.0}


class TestLeaveOutMatched:
    def test_false_positives_are_left_out(self, tiny_server: Any, launch: GuardedLaunch) -> None:
        """A few are natural, and are not what the unmatched arm is about."""
        workload = Workload(launch.base_url, "bench", 1, 8)
        prompts = [f"question {number}" for number in range(20)]
        tiny_server.verdicts = {"question 4": "steer"}

        assert leave_out_matched(launch, workload, prompts) == [*prompts[:4], *prompts[5:]]
        assert {body["max_tokens"] for body in tiny_server.bodies} == {1}

    def test_many_false_positives_are_an_error(
        self, tiny_server: Any, launch: GuardedLaunch
    ) -> None:
        """Leaving out half of the questions would hide what the guard does."""
        workload = Workload(launch.base_url, "bench", 1, 8)
        tiny_server.verdicts = {"a": "steer"}
        with pytest.raises(ArmInvalid, match="50"):
            leave_out_matched(launch, workload, ["a", "b"])
