"""The audit of a process, as its settings say."""

from __future__ import annotations

from server.audit.files import AuditFiles
from server.audit.writer import AuditWriter
from server.metrics.audit import AuditMetrics
from server.settings import Settings


def open_audit(settings: Settings, metrics: AuditMetrics) -> AuditWriter:
    """A writer that runs."""
    writer = AuditWriter(audit_files(settings), metrics, settings.audit_fsync)
    writer.start()
    return writer


def audit_files(settings: Settings) -> AuditFiles:
    """The files in the state directory."""
    return AuditFiles(settings.audit, settings.audit_max_bytes, settings.audit_keep_files)
