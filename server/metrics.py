"""Every metric's name, labels and buckets; the only file that names one.

Registries are given, never global. Labels come from closed sets: no target, user or text. A value
outside its set is counted as "other" rather than lost or raised: this runs in the request path.
Every counter exists with all its labels from the start: Prometheus sees no increase in a series
that appears with its first event, so an alert would miss just that one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from importlib.metadata import version
from itertools import product

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from detectors.detection import Detection, Layer, Strength
from guard.decision import Decision, Verdict
from guard.nets import Catch
from server.policy import FollowerStatus
from server.statistics.counts import TargetCounts

REQUESTS = "lethegate_requests_total"
VETOED_TOKENS = "lethegate_vetoed_tokens_total"
BYPASSES = "lethegate_guard_bypasses_total"
CLOSED_SLOTS = "lethegate_closed_slots_total"
OTHER = "other"


class Stage(StrEnum):
    """A step of the request path whose time is measured."""

    PARSE = "parse"
    ENCODE = "encode"
    CLASSIFY = "classify"
    SCREEN = "screen"
    SHIELD = "shield"


class Failure(StrEnum):
    """Why the guard failed a request: a 503, or where `fail_open` allows it served unguarded."""

    GUARD_ERROR = "guard_error"
    TIMEOUT = "timeout"
    NO_POLICY = "no_policy"
    AUDIT = "audit"
    KEYS = "keys"
    NODE = "node"
    OVERLOADED = "overloaded"


class Limit(StrEnum):
    """Which limit of a key was reached."""

    REQUESTS = "requests"
    TOKENS = "tokens"
    CONCURRENCY = "concurrency"


class Storage(StrEnum):
    """What the control process could not read or write."""

    STORE = "store"
    FILES = "files"


SURFACES = frozenset(
    {"content", "text", "reasoning", "refusal", "tool_name", "tool_arguments", "logprobs", OTHER}
)
CORPUS_LABELS = ("forget", "unsafe", "licensed", "allowed", "retain")
CLOSED_SLOT_REASONS = frozenset(
    {"snapshot_unavailable", "assistant_unavailable", "bad_params", "nothing_left", "fault", OTHER}
)

# Guarding takes micro- to milliseconds on a GPU and tens of milliseconds on a CPU.
_STAGE_BUCKETS = (
    *(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05),
    *(0.1, 0.25, 0.5, 1.0, 2.5, 10.0),
)
_MATCH_BUCKETS = (
    *(0.00001, 0.000025, 0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005),
    *(0.01, 0.025, 0.05, 0.1, 0.5),
)
# What `FollowerStatus.kind` may be.
_KINDS = ("gateway", "worker", "node")
_FENCED = "fenced"
NODE_STATES = ("current", "behind", "silent", _FENCED)
_FINISHED = ("done", "failed")
_COMPILE_BUCKETS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800)


@dataclass(frozen=True, slots=True)
class WorkerFacts:
    """Totals over all workers since their start, as read from their counters."""

    blocked_tokens: int = 0
    intercepted_steps: int = 0
    steered_steps: int = 0
    vetoed_tokens: int = 0
    subtracted_steps: int = 0
    closed_slots: Mapping[str, int] = field(default_factory=dict)
    snapshot_load_failures: int = 0
    # Of the machine, not of a worker; None beside a control process.
    node_lag_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """A node as the leading control process sees it; see `server.nodes.fleet`.

    `state` is one of `NODE_STATES`.
    """

    id: str
    lag: int
    seen_seconds: float
    state: str


class AuditMetrics:
    """What a process counts of the audit that it writes."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._written = Counter(
            "lethegate_audit_records_total",
            "Records that this process wrote into the audit.",
            registry=registry,
        )
        self._lost = Counter(
            "lethegate_audit_lost_total",
            "Records that could not be written and were given up.",
            registry=registry,
        )
        self._failures = Counter(
            "lethegate_audit_write_failures_total",
            "Attempts to write the audit that failed and are made again.",
            registry=registry,
        )

    def record_written(self, count: int) -> None:
        """Count records that are in the file."""
        self._written.inc(count)

    def record_lost(self, count: int) -> None:
        """Count records that nobody will find."""
        self._lost.inc(count)

    def record_failure(self) -> None:
        """Count an attempt that failed."""
        self._failures.inc()


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
            "Requests that the guard could not decide about or check.",
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
        _tell_build(registry)
        _begin(self._limited, Limit)
        _begin(self._requests, Verdict)
        _begin(self._failures, Failure)
        _begin(self._bypasses, (Failure.GUARD_ERROR, Failure.NO_POLICY))
        _begin(self._stages, Stage)
        for counter in (self._detections, self._observed):
            _begin(counter, Layer, Strength)
        for counter in (self._shield_blocks, self._observed_blocks):
            _begin(counter, sorted(SURFACES), (*Catch, OTHER))
        for counter in (self._trace_blocks, self._trace_observed):
            _begin(counter, (*CORPUS_LABELS, OTHER))

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
        """Count a request that the guard failed, served or not."""
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


class ControlMetrics:
    """What the control process counts and measures; the last two are read at every scrape."""

    def __init__(
        self,
        registry: CollectorRegistry,
        followers: Callable[[], Sequence[FollowerStatus]] = tuple,
        nodes: Callable[[], Sequence[NodeFacts]] = tuple,
    ) -> None:
        self._targets = Gauge(
            "lethegate_policy_targets",
            "Registered forget targets by status.",
            ["status"],
            registry=registry,
        )
        self._generation = Gauge(
            "lethegate_active_generation",
            "Generation of the policy that was last published.",
            registry=registry,
        )
        self._jobs = Counter(
            "lethegate_jobs_total", "Finished jobs by outcome.", ["state"], registry=registry
        )
        self._queued = Gauge("lethegate_jobs_queued", "Jobs that wait.", registry=registry)
        self._compile = Histogram(
            "lethegate_compile_seconds",
            "Time to compile a policy.",
            buckets=_COMPILE_BUCKETS,
            registry=registry,
        )
        self._activation = Histogram(
            "lethegate_activation_seconds",
            "Time from publishing a policy to its last acknowledgement.",
            buckets=_COMPILE_BUCKETS,
            registry=registry,
        )
        self._rollbacks = Counter(
            "lethegate_policy_rollbacks_total",
            "Policies that were taken back because a follower did not take them.",
            registry=registry,
        )
        self._storage = Counter(
            "lethegate_storage_failures_total",
            "Reads and writes of the store, or of the state directory's files, that failed.",
            ["part"],
            registry=registry,
        )
        self._training_steps = Counter(
            "lethegate_training_steps_total",
            "Steps of trainings of assistants, as jobs.",
            registry=registry,
        )
        self._corpus_documents = Gauge(
            "lethegate_corpus_documents",
            "Documents of the corpora by label.",
            ["label"],
            registry=registry,
        )
        self._corpora = Gauge(
            "lethegate_published_corpora_generation",
            "Generation of the corpora that was last published.",
            registry=registry,
        )
        self.audit = AuditMetrics(registry)
        registry.register(_FollowerCollector(followers))
        registry.register(_NodeCollector(nodes))
        _tell_build(registry)
        _begin(self._jobs, _FINISHED)
        _begin(self._storage, Storage)

    def set_corpus_documents(self, by_label: Mapping[str, int]) -> None:
        """Tell how many documents are registered under each label."""
        for label in CORPUS_LABELS:
            self._corpus_documents.labels(label).set(by_label.get(label, 0))

    def set_corpora_generation(self, generation: int) -> None:
        """Tell which generation of the corpora was published last."""
        self._corpora.set(generation)

    def set_targets(self, by_status: Mapping[str, int]) -> None:
        """Tell how many targets are in each status."""
        for status, count in by_status.items():
            self._targets.labels(status).set(count)

    def set_generation(self, generation: int) -> None:
        """Tell which generation the pointer names."""
        self._generation.set(generation)

    def set_queued(self, count: int) -> None:
        """Tell how many jobs wait."""
        self._queued.set(count)

    def record_jobs(self, state: str, count: int) -> None:
        """Count jobs that ended."""
        self._jobs.labels(state).inc(count)

    def observe_compile(self, seconds: float) -> None:
        """Record how long a compilation took."""
        self._compile.observe(seconds)

    def observe_activation(self, seconds: float) -> None:
        """Record how long the followers took to acknowledge."""
        self._activation.observe(seconds)

    def record_storage_failure(self, part: Storage) -> None:
        """Count what the store or a disk refused."""
        self._storage.labels(part.value).inc()

    def record_training_steps(self, count: int) -> None:
        """Count steps of a training."""
        self._training_steps.inc(count)

    def record_rollback(self) -> None:
        """Count a policy that was taken back."""
        self._rollbacks.inc()


class _FollowerCollector(Collector):
    """Tells at every scrape which generation the live gateways and workers have acknowledged."""

    def __init__(self, followers: Callable[[], Sequence[FollowerStatus]]) -> None:
        self._followers = followers

    def describe(self) -> Iterable[Metric]:
        return _follower_families(())

    def collect(self) -> Iterable[Metric]:
        return _follower_families(self._followers())


class _NodeCollector(Collector):
    """Tells at every scrape how the nodes stand; their ids are the operator's, and bounded."""

    def __init__(self, nodes: Callable[[], Sequence[NodeFacts]]) -> None:
        self._nodes = nodes

    def describe(self) -> Iterable[Metric]:
        return _node_families(())

    def collect(self) -> Iterable[Metric]:
        return _node_families(self._nodes())


class TargetMetrics:
    """What single targets did, by id: at the most `most` of them, so that series stay bounded.

    A target that is told stays told until it is withdrawn: a counter that comes and goes would look
    as if it had been reset. `sums` is read at every scrape. For a registry of its own, which only
    those may read who may list targets.
    """

    def __init__(
        self,
        registry: CollectorRegistry,
        sums: Callable[[], Mapping[str, TargetCounts]] = dict,
        most: int = 0,
    ) -> None:
        registry.register(_TargetCollector(sums, most))


class _TargetCollector(Collector):
    def __init__(self, sums: Callable[[], Mapping[str, TargetCounts]], most: int) -> None:
        self._sums, self._most = sums, most
        self._told: list[str] = []

    def describe(self) -> Iterable[Metric]:
        return _target_families({}, 0)

    def collect(self) -> Iterable[Metric]:
        sums = self._sums()
        told = [target for target in self._told if target in sums]
        others = sorted(sums.keys() - set(told), key=lambda t: (-sums[t].matched, t))
        self._told = told + others[: max(0, self._most - len(told))]
        shown = {target: sums[target] for target in self._told}
        return _target_families(shown, len(sums) - len(shown))


def _target_families(shown: Mapping[str, TargetCounts], untold: int) -> Iterator[Metric]:
    prompts = CounterMetricFamily(
        "lethegate_target_prompts_total",
        "Prompts in which the target was detected, by what followed or would have followed.",
        labels=["target", "outcome"],
    )
    answers = CounterMetricFamily(
        "lethegate_target_cut_answers_total",
        "Answers that were ended, or would have been, for what is the target's.",
        labels=["target", "outcome"],
    )
    prevented = CounterMetricFamily(
        "lethegate_target_prevented_steps_total",
        "Decode steps in which a phrase that had begun could not be completed; V1 runner only.",
        labels=["target"],
    )
    seconds = CounterMetricFamily(
        "lethegate_target_guard_seconds_total",
        "Time added to requests in which the target was detected, its share of it.",
        labels=["target", "stage"],
    )
    for target, counts in shown.items():
        for outcome in ("refused", "steered", "would_refuse", "would_steer"):
            prompts.add_metric([target, outcome], getattr(counts, outcome))
        answers.add_metric([target, "cut"], counts.cut)
        answers.add_metric([target, "would_cut"], counts.would_cut)
        prevented.add_metric([target], counts.prevented_steps)
        for stage, spent in (
            (Stage.SCREEN, counts.screen_seconds),
            (Stage.SHIELD, counts.shield_seconds),
        ):
            seconds.add_metric([target, stage.value], spent)
    yield from (prompts, answers, prevented, seconds)
    yield GaugeMetricFamily(
        "lethegate_untold_targets",
        "Targets of which something was counted and that have no series of their own.",
        value=untold,
    )


class WorkerCollector(Collector):
    """Turns the workers' facts into metrics at every scrape."""

    def __init__(self, facts: Callable[[], WorkerFacts]) -> None:
        self._facts = facts

    def describe(self) -> Iterable[Metric]:
        """The metrics' names."""
        return _families(WorkerFacts())

    def collect(self) -> Iterable[Metric]:
        """The metrics with their values of now."""
        return _families(self._facts())


def _families(facts: WorkerFacts) -> Iterator[Metric]:
    yield CounterMetricFamily(
        "lethegate_blocked_tokens_total",
        "Vocabulary entries masked because they would have completed a phrase, over all steps.",
        value=facts.blocked_tokens,
    )
    yield CounterMetricFamily(
        "lethegate_intercepted_steps_total",
        "Decode steps of a request in which a phrase that had begun could have been completed.",
        value=facts.intercepted_steps,
    )
    yield CounterMetricFamily(
        "lethegate_steered_steps_total",
        "Decode steps of steered requests.",
        value=facts.steered_steps,
    )
    yield CounterMetricFamily(
        VETOED_TOKENS,
        "Vocabulary entries masked because they would have continued a registered document.",
        value=facts.vetoed_tokens,
    )
    yield CounterMetricFamily(
        "lethegate_subtracted_steps_total",
        "Decode steps of a request from which an assistant's logits were subtracted.",
        value=facts.subtracted_steps,
    )
    closed = CounterMetricFamily(
        CLOSED_SLOTS,
        "Requests whose output was closed in the worker, by reason.",
        labels=["reason"],
    )
    totals = dict.fromkeys(sorted(CLOSED_SLOT_REASONS), 0)
    for reason, count in facts.closed_slots.items():
        known = reason if reason in CLOSED_SLOT_REASONS else OTHER
        totals[known] += count
    for reason, count in totals.items():
        closed.add_metric([reason], count)
    yield closed
    yield CounterMetricFamily(
        "lethegate_snapshot_load_failures_total",
        "Policy snapshots that a worker could not load.",
        value=facts.snapshot_load_failures,
    )
    lag = GaugeMetricFamily(
        "lethegate_node_lag_seconds",
        "Time since this node last knew that it applies what is in force; nodes only.",
    )
    if facts.node_lag_seconds is not None:
        lag.add_metric([], facts.node_lag_seconds)
    yield lag


def _count_block(counter: Counter, surface: str, caught: Catch | None) -> None:
    known = surface if surface in SURFACES else OTHER
    counter.labels(known, OTHER if caught is None else caught.value).inc()


def _count(counter: Counter, detections: Iterable[Detection]) -> None:
    for detection in detections:
        counter.labels(detection.layer.value, detection.strength.value).inc()


def _follower_families(followers: Sequence[FollowerStatus]) -> Iterator[Metric]:
    live = GaugeMetricFamily(
        "lethegate_live_followers", "Live gateways and workers.", labels=["kind"]
    )
    refusing = GaugeMetricFamily(
        "lethegate_refusing_followers",
        "Live gateways and workers that could not load a newer policy than they apply.",
        labels=["kind"],
    )
    oldest = GaugeMetricFamily(
        "lethegate_acknowledged_generation",
        "Lowest generation that a live gateway or worker applies; 0 before its first.",
        labels=["kind"],
    )
    for kind in _KINDS:
        those = [follower for follower in followers if follower.kind == kind]
        live.add_metric([kind], len(those))
        newer = [f for f in those if (f.failed_generation or 0) > (f.generation or 0)]
        refusing.add_metric([kind], len(newer))
        if those:
            oldest.add_metric([kind], min(follower.generation or 0 for follower in those))
    yield from (live, refusing, oldest)


def _node_families(nodes: Sequence[NodeFacts]) -> Iterator[Metric]:
    lag = GaugeMetricFamily(
        "lethegate_node_generation_lag",
        "Generations that the last process of a node is behind the policy in force.",
        labels=["node"],
    )
    seen = GaugeMetricFamily(
        "lethegate_node_last_seen_seconds",
        "Time since a node's last report.",
        labels=["node"],
    )
    fenced = GaugeMetricFamily("lethegate_fenced_nodes", "Nodes that may not serve.")
    standing = GaugeMetricFamily(
        "lethegate_nodes", "Nodes that have not left, by how they stand.", labels=["state"]
    )
    for node in nodes:
        if node.state != _FENCED:
            lag.add_metric([node.id], node.lag)
        seen.add_metric([node.id], node.seen_seconds)
    states = [node.state for node in nodes]
    for state in NODE_STATES:
        standing.add_metric([state], states.count(state))
    fenced.add_metric([], states.count(_FENCED))
    yield from (lag, seen, fenced, standing)


def _tell_build(registry: CollectorRegistry) -> None:
    # Not an Info: the library keeps none when several processes share a registry.
    build = Gauge(
        "lethegate_build_info",
        "Always 1; the label tells the version.",
        ["version"],
        registry=registry,
        multiprocess_mode="max",
    )
    build.labels(version("lethegate")).set(1)


def _begin(metric: Counter | Histogram, *labels: Iterable[str]) -> None:
    for values in product(*labels):
        metric.labels(*map(str, values))
