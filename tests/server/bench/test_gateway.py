"""What `bench gateway` makes of times, and what it refuses to call a measurement."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from server.bench.answers import Answer
from server.bench.errors import ArmInvalid, InputMissing
from server.bench.gateway_arms import (
    ARMS,
    KNOWN,
    Round,
    Timed,
    arm_order,
    check_whole,
    gateway_figures,
)
from server.bench.litellm_proxy import litellm_launch, litellm_version
from server.bench.servers import Launch

MakeAnswer = Callable[..., Answer]


def one_round(begin_ms: float, ours_ms: float, theirs_ms: float) -> Round:
    row = {
        "plain": Timed(begin_ms, 5000.0),
        "lethegate": Timed(begin_ms + ours_ms, 5010.0),
        "litellm": Timed(begin_ms + theirs_ms, 5400.0),
        KNOWN: Timed(begin_ms + ours_ms / 10, 5010.0),
    }
    return Round([row] * 3, {"plain": 50.0, "lethegate": 45.0, "litellm": 20.0})


def test_what_is_added_is_the_difference_for_the_same_prompt() -> None:
    """A machine that slows down between rounds changes nothing of it."""
    figures = gateway_figures([one_round(b, 2.0, 8.0) for b in (10.0, 100.0, 30.0)])

    assert figures["added_ttft_ms_lethegate"] == 2.0
    assert figures["added_ttft_ms_litellm_max"] == 8.0
    assert figures["added_ttft_ratio_vs_litellm"] == 0.25
    assert figures["added_ttft_ratio_vs_litellm_known"] == 0.025
    assert figures["added_chunk_us_litellm"] == 400.0
    assert figures["requests_per_s_litellm"] == 20.0
    assert figures["ttft_ms_plain_min"] == 10.0
    assert all(isinstance(value, float | int) for value in figures.values())


def test_every_arm_is_asked_at_every_place() -> None:
    """None has the place behind another for itself."""
    for place in range(len(ARMS)):
        assert set(Counter(arm_order(turn)[place] for turn in range(6)).values()) == {2}


def test_times_of_an_answer(make_answer: MakeAnswer) -> None:
    """The first chunk is TTFT; the others share the time after it."""
    assert Timed.of(make_answer(0.5, 0.6, 0.9)) == Timed(500.0, pytest.approx(200_000))


@pytest.mark.parametrize("fields", [{"failure": "status 500"}, {"tokens": 1}])
def test_a_failed_or_short_answer_is_no_measurement(
    make_answer: MakeAnswer, fields: dict[str, object]
) -> None:
    """It ends the run."""
    with pytest.raises(ArmInvalid, match="litellm: 1 of 2"):
        check_whole("litellm", [make_answer(1.0, 2.0), make_answer(1.0, 2.0, **fields)])


def test_an_interpreter_without_litellm_is_told_at_once() -> None:
    """Before any server starts."""
    with pytest.raises(InputMissing, match="litellm"):
        litellm_version(Path(sys.executable))


def test_the_proxy_is_before_the_plain_server(tmp_path: Path) -> None:
    """Its configuration names that address."""
    plain = Launch("plain", [], "http://127.0.0.1:9", "/health")
    launch = litellm_launch(Path("python"), tmp_path, plain)
    config = json.loads(Path(launch.command[launch.command.index("--config") + 1]).read_text())

    assert config["model_list"][0]["litellm_params"]["api_base"] == "http://127.0.0.1:9/v1"
