"""What is counted, and under which labels."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, generate_latest

from detectors.detection import Detection, Layer, Strength
from guard.decision import Decision, Verdict
from guard.nets import Catch
from server.metrics import Bypass, ControlMetrics, GatewayMetrics, Stage, WorkerFacts


def _detection(layer: Layer) -> Detection:
    return Detection("ada", layer, Strength.STRONG, 1.0, 0.5)


def test_decisions() -> None:
    """Requests are counted by verdict, detections by layer and strength, observed ones apart."""
    registry = CollectorRegistry()
    metrics = GatewayMetrics(registry)
    metrics.record_decision(
        Decision(
            Verdict.STEER,
            1,
            "d",
            detections=(_detection(Layer.ALIAS), _detection(Layer.ALIAS)),
            observed=(_detection(Layer.SIMILARITY),),
        )
    )
    alias = {"layer": "alias", "strength": "strong"}
    similarity = {"layer": "similarity", "strength": "strong"}

    assert registry.get_sample_value("lethegate_requests_total", {"verdict": "steer"}) == 1
    assert registry.get_sample_value("lethegate_detections_total", alias) == 2
    assert registry.get_sample_value("lethegate_detections_total", similarity) is None
    assert registry.get_sample_value("lethegate_observed_detections_total", similarity) == 1


def test_worker_facts_are_read_at_every_scrape() -> None:
    """Counters of the workers show their value of now; unknown reasons are counted as other."""
    registry = CollectorRegistry()
    facts = [
        WorkerFacts(blocked_tokens=3),
        WorkerFacts(blocked_tokens=5, closed_slots={"?": 2, "!": 1}, snapshot_load_failures=4),
    ]
    GatewayMetrics(registry, lambda: facts[0])
    assert registry.get_sample_value("lethegate_blocked_tokens_total") == 3
    facts.pop(0)

    assert registry.get_sample_value("lethegate_blocked_tokens_total") == 5
    assert registry.get_sample_value("lethegate_closed_slots_total", {"reason": "other"}) == 3
    assert registry.get_sample_value("lethegate_snapshot_load_failures_total") == 4


def test_labels_are_closed_sets() -> None:
    """A surface that is not in the set does not become a label."""
    registry = CollectorRegistry()
    metrics = GatewayMetrics(registry)
    metrics.record_shield_block("content", Catch.NAME)
    metrics.record_shield_block("Port Sorrel", None)
    text = generate_latest(registry).decode()

    assert '{layer="name",surface="content"} 1.0' in text
    assert '{layer="other",surface="other"} 1.0' in text
    assert "Port Sorrel" not in text


def test_everything_else() -> None:
    """Stages, refusals, bypasses and generations arrive under their names."""
    registry = CollectorRegistry()
    metrics = GatewayMetrics(registry)
    metrics.observe_stage(Stage.ENCODE, 0.02)
    metrics.record_refusal()
    metrics.record_bypass(Bypass.TIMEOUT)
    metrics.set_generation(7)
    value = registry.get_sample_value

    assert value("lethegate_stage_seconds_count", {"stage": "encode"}) == 1
    assert value("lethegate_refusals_total") == 1
    assert value("lethegate_guard_bypasses_total", {"reason": "timeout"}) == 1
    assert value("lethegate_policy_generation") == 7


def test_control_metrics() -> None:
    """The control process tells targets by status, jobs by outcome and how long things took."""
    registry = CollectorRegistry()
    metrics = ControlMetrics(registry)
    metrics.set_targets({"active": 2, "failed": 0})
    metrics.record_jobs("done", 3)
    metrics.observe_compile(1.5)
    metrics.observe_activation(0.1)
    metrics.record_rollback()
    value = registry.get_sample_value

    assert value("lethegate_policy_targets", {"status": "active"}) == 2
    assert value("lethegate_jobs_total", {"state": "done"}) == 3
    assert value("lethegate_compile_seconds_sum") == 1.5
    assert value("lethegate_policy_rollbacks_total") == 1
