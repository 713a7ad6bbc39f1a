"""What is counted, and under which labels."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, generate_latest

from detectors.detection import Detection, Layer, Strength
from guard.decision import Decision, Verdict
from guard.nets import Catch
from server.metrics.control import ControlMetrics
from server.metrics.gateway import GatewayMetrics
from server.metrics.labels import Failure, Stage
from server.metrics.workers import WorkerFacts
from server.policy import FollowerStatus


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
    assert registry.get_sample_value("lethegate_detections_total", similarity) == 0
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
    metrics.record_failure(Failure.OVERLOADED)
    metrics.record_bypass(Failure.TIMEOUT)
    metrics.set_generation(7)
    value = registry.get_sample_value

    assert value("lethegate_stage_seconds_count", {"stage": "encode"}) == 1
    assert value("lethegate_refusals_total") == 1
    assert value("lethegate_guard_failures_total", {"reason": "overloaded"}) == 1
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


def test_counters_begin_at_zero_with_all_their_labels():
    """Prometheus sees no increase in a series that appears with its first event."""
    registry = CollectorRegistry()
    GatewayMetrics(registry)
    value = registry.get_sample_value

    assert value("lethegate_guard_bypasses_total", {"reason": "no_policy"}) == 0
    assert value("lethegate_guard_failures_total", {"reason": "no_policy"}) == 0
    assert value("lethegate_closed_slots_total", {"reason": "fault"}) == 0
    assert value("lethegate_requests_total", {"verdict": "refuse"}) == 0
    for layer in [*Catch, "other"]:
        labels = {"surface": "content", "layer": str(layer)}
        assert value("lethegate_shield_blocks_total", labels) == 0


def test_followers_are_told_by_kind_at_every_scrape():
    """How many live, which generation the slowest applies, and who refuses a newer one."""
    followers = [
        FollowerStatus("worker", 1, 7, "d"),
        FollowerStatus("worker", 2, 6, "d", failed_generation=7, error="SnapshotCorrupt"),
        # One that came to apply a newer generation than it once refused.
        FollowerStatus("worker", 3, 8, "d", failed_generation=5),
    ]
    registry = CollectorRegistry()
    ControlMetrics(registry, lambda: followers)
    worker, gateway = {"kind": "worker"}, {"kind": "gateway"}
    value = registry.get_sample_value

    assert value("lethegate_live_followers", worker) == 3
    assert value("lethegate_acknowledged_generation", worker) == 6
    assert value("lethegate_refusing_followers", worker) == 1
    assert value("lethegate_live_followers", gateway) == 0
    assert value("lethegate_acknowledged_generation", gateway) is None

    followers.append(FollowerStatus("gateway", 4, None, None))

    assert value("lethegate_acknowledged_generation", gateway) == 0
