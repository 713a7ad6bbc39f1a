"""What the gateway counts and measures."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from detectors.detection import Detection, Layer, Strength
from guard.decision import Decision, Verdict
from guard.nets import Catch
from server.metrics.audit import AuditMetrics
from server.metrics.labels import CORPUS_LABELS, OTHER, SURFACES, Failure, Limit, Stage
from server.metrics.series import begin, tell_build
from server.metrics.workers import WorkerCollector, WorkerFacts

REQUESTS = "lethegate_requests_total"
BYPASSES = "lethegate_guard_bypasses_total"
# Guarding takes micro- to milliseconds on a GPU and tens of milliseconds on a CPU.
_STAGE_BUCKETS = (
    *(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05),
    *(0.1, 0.25, 0.5, 1.0, 2.5, 10.0),
)
_MATCH_BUCKETS = (
    *(0.00001, 0.000025, 0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005),
    *(0.01, 0.025, 0.05, 0.1, 0.5),
)


class GatewayMetrics:
    """What the gateway counts and measures; `facts` is read at every scrape."""

    def __init__(
        self, registry: CollectorRegistry, facts: Callable[[], WorkerFacts] = WorkerFacts
    ) -> None:
        self._requests = Counter(REQUESTS, "Requests by verdict.", ["verdict"], registry=registry)
        self._detections = Counter(
            "lethegate_detections_total",
            "Detections that were enforced.",
            ["layer", "strength"],
            registry=registry,
        )
        self._observed = Counter(
            "lethegate_observed_detections_total",
            "Detections of targets in observe mode, which changed nothing.",
            ["layer", "strength"],
            registry=registry,
        )
        self._stages = Histogram(
            "lethegate_stage_seconds",
            "Time a request spent in one stage of the guard.",
            ["stage"],
            buckets=_STAGE_BUCKETS,
            registry=registry,
        )
        self._refusals = Counter(
            "lethegate_refusals_total", "Requests answered with a refusal.", registry=registry
        )
        self._shield_blocks = Counter(
            "lethegate_shield_blocks_total",
            "Outputs cut by the shield, by the surface that would have leaked and what was found.",
            ["surface", "layer"],
            registry=registry,
        )
        self._observed_blocks = Counter(
            "lethegate_observed_blocks_total",
            "Outputs that the shield would have cut for targets in observe mode.",
            ["surface", "layer"],
            registry=registry,
        )
        self._failures = Counter(
            "lethegate_guard_failures_total",
            "Requests that the guard could not decide about or check, or whose engine hangs.",
            ["reason"],
            registry=registry,
        )
        self._bypasses = Counter(
            BYPASSES,
            "Requests served unguarded because the guard failed and fail_open is set.",
            ["reason"],
            registry=registry,
        )
        self._generation = Gauge(
            "lethegate_policy_generation",
            "Generation of the policy that this gateway applies.",
            registry=registry,
            multiprocess_mode="livemin",
        )
        self._engine_silence = Gauge(
            "lethegate_engine_silent_seconds",
            "For how long the engine has owed an answer that it gives between two steps.",
            registry=registry,
            multiprocess_mode="livemax",
        )
        self._trace_blocks = Counter(
            "lethegate_provenance_blocks_total",
            "Passages of registered documents that ended an answer, by the corpus's label.",
            ["label"],
            registry=registry,
        )
        self._trace_observed = Counter(
            "lethegate_provenance_observed_total",
            "Passages that observed corpora would have ended an answer for.",
            ["label"],
            registry=registry,
        )
        self._match = Histogram(
            "lethegate_match_seconds",
            "Time to hold a piece of an answer against the corpora.",
            buckets=_MATCH_BUCKETS,
            registry=registry,
        )
        self._corpora = Gauge(
            "lethegate_corpora_generation",
            "Generation of the corpora that this gateway applies.",
            registry=registry,
            multiprocess_mode="livemin",
        )
        self._corpora_failures = Counter(
            "lethegate_corpora_load_failures_total",
            "Corpora that this gateway could not load; those it has go on ruling.",
            registry=registry,
        )
        self._keys = Gauge(
            "lethegate_keys_generation",
            "Generation of the list of API keys that this gateway applies; 0 before its first.",
            registry=registry,
            multiprocess_mode="livemin",
        )
        self._keys_failures = Counter(
            "lethegate_keys_load_failures_total",
            "Lists of API keys that this gateway could not read; the one it has goes on ruling.",
            registry=registry,
        )
        self._limited = Counter(
            "lethegate_limited_requests_total",
            "Requests refused because a limit of their key was reached.",
            ["limit"],
            registry=registry,
        )
        self.audit = AuditMetrics(registry)
        registry.register(WorkerCollector(facts))
        tell_build(registry)
        begin(self._limited, Limit)
        begin(self._requests, Verdict)
        begin(self._failures, Failure)
        begin(self._bypasses, (Failure.GUARD_ERROR, Failure.NO_POLICY))
        begin(self._stages, Stage)
        for counter in (self._detections, self._observed):
            begin(counter, Layer, Strength)
        for counter in (self._shield_blocks, self._observed_blocks):
            begin(counter, sorted(SURFACES), (*Catch, OTHER))
        for counter in (self._trace_blocks, self._trace_observed):
            begin(counter, (*CORPUS_LABELS, OTHER))

    def record_decision(self, decision: Decision) -> None:
        """Count one screened request and what was detected in it."""
        self._requests.labels(decision.verdict.value).inc()
        _count(self._detections, decision.detections)
        _count(self._observed, decision.observed)

    def observe_stage(self, stage: Stage, seconds: float) -> None:
        """Record how long a request spent in one stage."""
        self._stages.labels(stage.value).observe(seconds)

    def record_refusal(self) -> None:
        """Count a request that was answered with a refusal."""
        self._refusals.inc()

    def record_shield_block(self, surface: str, caught: Catch | None) -> None:
        """Count an output that the shield cut; nothing is `caught` where the shield failed."""
        _count_block(self._shield_blocks, surface, caught)

    def record_observed_block(self, surface: str, caught: Catch | None) -> None:
        """Count an output that would have been cut."""
        _count_block(self._observed_blocks, surface, caught)

    def record_failure(self, reason: Failure) -> None:
        """Count a request that the guard or the engine failed, served or not."""
        self._failures.labels(reason.value).inc()

    def record_bypass(self, reason: Failure) -> None:
        """Count a request that was served unguarded."""
        self._bypasses.labels(reason.value).inc()

    def record_passage(self, label: str, *, enforced: bool) -> None:
        """Count a passage of a registered document in an answer."""
        counter = self._trace_blocks if enforced else self._trace_observed
        counter.labels(label if label in CORPUS_LABELS else OTHER).inc()

    def observe_match(self, seconds: float) -> None:
        """Record how long a piece of an answer took to be held against the corpora."""
        self._match.observe(seconds)

    def set_engine_silence(self, seconds: float) -> None:
        """Tell for how long the engine has owed an answer; 0: it owes none."""
        self._engine_silence.set(seconds)

    def set_corpora(self, generation: int) -> None:
        """Tell which generation of the corpora this gateway applies."""
        self._corpora.set(generation)

    def record_corpora_failure(self) -> None:
        """Count corpora that could not be loaded."""
        self._corpora_failures.inc()

    def record_limited(self, limit: Limit) -> None:
        """Count a request that a limit of its key refused."""
        self._limited.labels(limit.value).inc()

    def set_keys(self, generation: int) -> None:
        """Tell which list of API keys this gateway applies."""
        self._keys.set(generation)

    def record_keys_failure(self) -> None:
        """Count a list of API keys that could not be read."""
        self._keys_failures.inc()

    def set_generation(self, generation: int) -> None:
        """Tell which policy generation this gateway applies."""
        self._generation.set(generation)


def _count_block(counter: Counter, surface: str, caught: Catch | None) -> None:
    known = surface if surface in SURFACES else OTHER
    counter.labels(known, OTHER if caught is None else caught.value).inc()


def _count(counter: Counter, detections: Iterable[Detection]) -> None:
    for detection in detections:
        counter.labels(detection.layer.value, detection.strength.value).inc()
