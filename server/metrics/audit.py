"""What is counted of the audit."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter


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
