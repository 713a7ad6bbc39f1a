"""What the control process counts and measures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from server.metrics.audit import AuditMetrics
from server.metrics.followers import FollowerCollector
from server.metrics.labels import CORPUS_LABELS, Storage
from server.metrics.nodes import NodeCollector, NodeFacts
from server.metrics.series import begin, tell_build
from server.policy import FollowerStatus

_FINISHED = ("done", "failed")
_COMPILE_BUCKETS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800)


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
            "lethegate_jobs_total", "Finished jobs by state.", ["state"], registry=registry
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
        registry.register(FollowerCollector(followers))
        registry.register(NodeCollector(nodes))
        tell_build(registry)
        begin(self._jobs, _FINISHED)
        begin(self._storage, Storage)

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
