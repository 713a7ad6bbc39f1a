"""The store's tables, in SQL that SQLite and PostgreSQL both speak.

A change here needs a revision in `server/migrations/versions`, which a test compares with this.
Columns that may hold forget text are `Sealed`.

targets ─┬─< versions      every kept revision's document: the newest, the one in force, some before
         └   (job_targets) which revision a job carries; outlives the target
generations                every activation, written before the pointer moves
leases                     which of several control processes leads
replays                    answers to requests with an Idempotency-Key
corpora ─┬─< corpus_documents  what is known of a document beside its text, which the index keeps
         └   (corpus_jobs)     what a job does to which corpus
(training_jobs)            which assistant a job trains, and how
"""

from __future__ import annotations

from enum import StrEnum

from sqlalchemy import (
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
)

from server.sealing import Sealed


class TargetStatus(StrEnum):
    """Where a target is on its way into force."""

    PENDING = "pending"
    COMPILING = "compiling"
    ACTIVE = "active"
    FAILED = "failed"
    WITHDRAWN = "withdrawn"


class JobState(StrEnum):
    """Where a job is; the last three are final."""

    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


class JobKind(StrEnum):
    """What a job brings into force."""

    REGISTER = "register"
    REPLACE = "replace"
    IMPORT = "import"
    WITHDRAW = "withdraw"
    EXPIRE = "expire"
    RECOMPILE = "recompile"
    CORPUS_CREATE = "corpus_create"
    CORPUS_CHANGE = "corpus_change"
    CORPUS_ADD = "corpus_add"
    CORPUS_ADOPT = "corpus_adopt"
    CORPUS_WITHDRAW = "corpus_withdraw"
    CORPUS_DELETE = "corpus_delete"
    CORPUS_VERIFY = "corpus_verify"
    TRAIN = "train"


class CorpusStatus(StrEnum):
    """Where a corpus is: not yet in force, in force, unreadable, or on its way out."""

    PENDING = "pending"
    ACTIVE = "active"
    DAMAGED = "damaged"
    WITHDRAWN = "withdrawn"


CORPUS_KINDS = (
    JobKind.CORPUS_CREATE,
    JobKind.CORPUS_CHANGE,
    JobKind.CORPUS_ADD,
    JobKind.CORPUS_ADOPT,
    JobKind.CORPUS_WITHDRAW,
    JobKind.CORPUS_DELETE,
    JobKind.CORPUS_VERIFY,
)
# Jobs that have a worker of their own, beside the policy's.
OTHER_KINDS = (*CORPUS_KINDS, JobKind.TRAIN)
FINAL_STATES = (JobState.DONE, JobState.FAILED, JobState.CANCELLED)

metadata = MetaData()

meta = Table(
    "meta",
    metadata,
    Column("key", String(64), primary_key=True),
    Column("value", Text, nullable=False),
)

# Times are seconds since the epoch, UTC.
targets = Table(
    "targets",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("revision", Integer, nullable=False),
    Column("active_revision", Integer),
    Column("generation", Integer),
    Column("status", String(16), nullable=False, index=True),
    Column("tenant", String(64), index=True),
    Column("summary", Sealed, nullable=False),
    Column("report", Sealed),
    Column("error_code", String(64)),
    Column("error_message", Text),
    Column("expires_at", Double, index=True),
    Column("created_at", Double, nullable=False),
    Column("updated_at", Double, nullable=False),
)

versions = Table(
    "versions",
    metadata,
    Column("target_id", ForeignKey("targets.id", ondelete="CASCADE"), primary_key=True),
    Column("revision", Integer, primary_key=True),
    Column("document", Sealed, nullable=False),
    # Null for what an older Lethegate wrote.
    Column("created_at", Double),
)

jobs = Table(
    "jobs",
    metadata,
    # Insertion order, for queueing and for pages.
    Column("number", Integer, primary_key=True, autoincrement=True),
    Column("id", String(32), nullable=False, unique=True),
    Column("kind", String(16), nullable=False),
    # Of the key that asked for it.
    Column("tenant", String(64)),
    Column("state", String(16), nullable=False, index=True),
    Column("progress", Double, nullable=False),
    Column("message", Text, nullable=False),
    Column("error_code", String(64)),
    Column("error_message", Text),
    Column("generation", Integer),
    Column("created_at", Double, nullable=False),
    Column("started_at", Double),
    Column("finished_at", Double),
)

job_targets = Table(
    "job_targets",
    metadata,
    Column("job_number", ForeignKey("jobs.number", ondelete="CASCADE"), primary_key=True),
    # No foreign key: the job is remembered when its target is gone.
    Column("target_id", String(64), primary_key=True),
    Column("revision", Integer, nullable=False),
    Index("job_targets_by_target", "target_id"),
)

generations = Table(
    "generations",
    metadata,
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("digest", String(64), nullable=False),
    # The tokenizer, encoder and compiler it was made with.
    Column("fingerprint", Text, nullable=False),
    Column("cause", String(16), nullable=False),
    Column("num_targets", Integer, nullable=False),
    Column("created_at", Double, nullable=False),
    # When every live follower had acknowledged it; null while it is not in force.
    Column("confirmed_at", Double),
)

leases = Table(
    "leases",
    metadata,
    Column("name", String(32), primary_key=True),
    Column("holder", String(64), nullable=False),
    # One more for every process that takes it.
    Column("epoch", Integer, nullable=False),
    # By the database's clock.
    Column("expires_at", Double, nullable=False),
)

replays = Table(
    "replays",
    metadata,
    # SHA-256 of the caller and its Idempotency-Key, and of the request.
    Column("key_digest", String(64), primary_key=True),
    Column("request_digest", String(64), nullable=False),
    # Null while the request is being done.
    Column("status", Integer),
    Column("headers", Sealed),
    Column("body", Sealed),
    Column("created_at", Double, nullable=False, index=True),
)

corpora = Table(
    "corpora",
    metadata,
    Column("id", String(64), primary_key=True),
    # What the operator asked for, and the directory of the index, new for every registration.
    Column("settings", Sealed, nullable=False),
    Column("directory", String(128), nullable=False, unique=True),
    Column("status", String(16), nullable=False),
    Column("created_at", Double, nullable=False),
    Column("updated_at", Double, nullable=False),
)

corpus_documents = Table(
    "corpus_documents",
    metadata,
    Column("corpus_id", ForeignKey("corpora.id", ondelete="CASCADE"), primary_key=True),
    # The index's number of the document.
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("source", Sealed, nullable=False),
    Column("sha256", String(64), nullable=False),
    Column("characters", Integer, nullable=False),
    Column("created_at", Double, nullable=False),
)

corpus_jobs = Table(
    "corpus_jobs",
    metadata,
    Column("job_number", ForeignKey("jobs.number", ondelete="CASCADE"), primary_key=True),
    # No foreign key: the job is remembered when its corpus is gone.
    Column("corpus_id", String(64), nullable=False, index=True),
    Column("payload", Sealed, nullable=False),
)

training_jobs = Table(
    "training_jobs",
    metadata,
    Column("job_number", ForeignKey("jobs.number", ondelete="CASCADE"), primary_key=True),
    Column("assistant_id", String(64), nullable=False, index=True),
    # What was asked for, with texts; emptied when the job ends.
    Column("payload", Sealed, nullable=False),
)
