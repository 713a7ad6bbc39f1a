"""Figures of the load on the admin API, and its windows."""

from __future__ import annotations

import json
import os

import pytest

from server.bench.admin_load import Windows, latency_figures, small_target
from server.bench.errors import ArmInvalid
from server.bench.figures import Window
from server.bench.processes import peak_mib
from server.schemas import TargetIn


def _stream(begin, gap, count):
    return [begin + gap * number for number in range(count)]


def test_gaps_are_those_of_their_window(make_answer):
    """A gap that reaches into another window is of none; shares are paired and pooled."""
    windows = [Windows(Window(0, 10), Window(20, 30)), Windows(Window(60, 70), Window(40, 50))]
    answers = [
        make_answer(*_stream(0, 0.1, 101)),
        make_answer(*_stream(20, 0.11, 90)),
        make_answer(*_stream(40, 0.3, 30)),
        make_answer(*_stream(60, 0.2, 50)),
        make_answer(9.5, 25.0),
    ]
    figures = latency_figures(windows, answers)

    assert figures["quiet_inter_token_ms_p99"] == pytest.approx(150)
    assert figures["inter_token_p99_added_share_min"] == pytest.approx(0.1)
    assert figures["inter_token_p99_added_share_max"] == pytest.approx(0.5)
    assert figures["inter_token_p99_added_share_pooled"] == pytest.approx(0.5)
    assert figures["loaded_gaps"] == 89 + 29


def test_a_silent_window_or_a_failure_means_nothing(make_answer):
    """Neither is a latency."""
    windows = [Windows(Window(0, 10), Window(20, 30))]
    quiet, loaded = make_answer(*_stream(0, 0.1, 50)), make_answer(*_stream(20, 0.1, 50))
    failed = make_answer(*_stream(20, 0.1, 50), failure="status 503")

    with pytest.raises(ArmInvalid, match="no tokens"):
        latency_figures(windows, [quiet])
    with pytest.raises(ArmInvalid, match="1 streams failed"):
        latency_figures(windows, [quiet, loaded, failed])


def test_tokens_that_arrive_together(make_answer):
    """A median of 0 is no fault; where nearly all gaps are 0, nothing can be said."""
    windows = [Windows(Window(0, 10), Window(20, 30))]

    def bunched(begin, gap):
        return make_answer(*sorted(3 * _stream(begin, gap, 30)))

    figures = latency_figures(windows, [bunched(0, 0.1), bunched(20, 0.2)])

    assert figures["quiet_inter_token_ms_p50"] == 0
    assert figures["inter_token_p99_added_share"] == pytest.approx(1)
    with pytest.raises(ArmInvalid, match="together"):
        latency_figures(windows, [make_answer(*[5.0] * 40), bunched(20, 0.2)])


def test_imported_targets_can_be_imported():
    """Each has an id, a phrase, an example and a name of its own."""
    first, last = (TargetIn.model_validate(json.loads(small_target(n))) for n in (0, 9999))

    assert first.id < last.id
    assert not set(first.aliases) & set(last.aliases)


def test_memory_of_other_processes_is_not_counted():
    """Only of the command that is asked for."""
    assert peak_mib([os.getpid(), 2**22 + 1], "control") == 0
