"""Every setting, once: its type, default and meaning; `server.settings_sources` finds the values.

Secrets have no flag (process lists would show them) and no repr.
"""

from __future__ import annotations

import os
from ipaddress import ip_address
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, field_validator

from server.state_places import StatePlaces

ENV_PREFIX = "LETHEGATE_"
CONFIG_ENV = "LETHEGATE_CONFIG"
# Where `lethegate eval` and the tests find public data: no setting of a server.
DATA_ENV = "LETHEGATE_TEST_DATA"
# Between our own processes; never settings of an operator.
INTERNAL_ENV_PREFIX = "LETHEGATE_INTERNAL_"

DEFAULT_ENCODER = "sentence-transformers/all-MiniLM-L6-v2"
DEFAULT_REFUSAL = "I'm sorry, but I can't help with that."
MIB = 1024 * 1024


def default_state_dir() -> Path:
    """`$XDG_STATE_HOME/lethegate`, by default `~/.local/state/lethegate`."""
    root = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(root) / "lethegate"


class Settings(StatePlaces):
    """All settings of the gateway and of the control process, fixed for the process's life."""

    state_dir: Path = Field(
        default_factory=default_state_dir,
        description="Directory of the store, the policy snapshots and the caches; owner-only.",
    )
    database_url: SecretStr | None = Field(
        default=None,
        description="URL of the store, SQLite or PostgreSQL; by default lethegate.db (state dir).",
    )
    encryption_key_file: Path | None = Field(
        default=None,
        description="File with the key that forget text is encrypted with in the store.",
    )
    host: str = Field(
        default="127.0.0.1", description="Address the guarded OpenAI endpoint listens on."
    )
    port: int = Field(
        default=8000, ge=0, le=65535, description="Port of the guarded OpenAI endpoint."
    )
    admin_host: str = Field(default="127.0.0.1", description="Address the admin API listens on.")
    admin_port: int = Field(default=8001, ge=0, le=65535, description="Port of the admin API.")
    console: bool = Field(
        default=True, description="Serve the Web console, at /console of the admin port."
    )
    console_endpoint_url: str | None = Field(
        default=None,
        pattern=r"^https?://[^/?#@\s]+$",
        description="Guarded endpoint that the console asks; by default that of host and port.",
    )
    admin_key: SecretStr | None = Field(
        default=None,
        description="Admin key; by default one is made and kept in admin.key (state dir).",
    )
    auditor_keys: tuple[SecretStr, ...] = Field(
        default=(),
        description="Keys that may read jobs, lists, audit and metrics, but no forget text.",
    )
    node_keys: tuple[SecretStr, ...] = Field(
        default=(),
        description="Keys of nodes, beside those made with `lethegate keys add --role node`.",
    )
    node_key: SecretStr | None = Field(
        default=None, description="On a node: its key for the control process."
    )
    control_url: str | None = Field(
        default=None,
        description="On a node: where the control process is; several, separated by commas.",
    )
    control_ca_file: Path | None = Field(
        default=None,
        description="On a node: certificates (PEM) that a control process with TLS is known by.",
    )
    node_id: str | None = Field(
        default=None,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$",
        description="On a node: what the control process knows it by; by default the host's name.",
    )
    node_max_lag_seconds: float = Field(
        default=0.0,
        ge=0,
        description="On a node: seconds not known to be current before it refuses; 0: never.",
    )
    api_keys: tuple[SecretStr, ...] = Field(
        default=(),
        description="Keys of clients, beside those made with `lethegate keys`.",
    )
    encoder: str = Field(
        default=DEFAULT_ENCODER,
        description="Sentence encoder of the prompt classifier: hub name or local path.",
    )
    encoder_device: str = Field(
        default="auto",
        pattern=r"^(auto|cpu|cuda(:\d+)?)$",
        description="Device of the encoder: auto, cpu, cuda or cuda:N.",
    )
    alpha: float = Field(
        default=0.005,
        gt=0,
        lt=1,
        description="False-positive rate the thresholds are calibrated for.",
    )
    semantic_filter: bool = Field(
        default=False,
        description="Steered answers may not say near-synonyms and other forms of forbidden words.",
    )
    watch_answers: bool = Field(
        default=True,
        description="End any answer in which a registered name is about to be said.",
    )
    allow_media: bool = Field(
        default=False,
        description="Let images, audio and video pass unread while a target is enforced; else 400.",
    )
    minimum_match_tokens: int = Field(
        default=16,
        ge=4,
        le=256,
        description="Tokens of a registered document that a steered answer may not give in a row.",
    )
    veto_max_characters: int = Field(
        default=50_000_000,
        ge=1000,
        description="Most text of all vetoed corpora together; the worker takes 3 bytes for each.",
    )
    assistant_memory_gib: float = Field(
        default=0.0,
        ge=0,
        description="Memory for ULD's assistants, taken at the start, in GiB; 0: none can be used.",
    )
    assistant_cache_tokens: int = Field(
        default=32_768,
        ge=64,
        description="Tokens of running requests that each assistant has room for.",
    )
    assistant_min_weight: float = Field(
        default=0.0,
        ge=0,
        le=10,
        description="Least weight that an API key may have of its own for assistants.",
    )
    assistant_max_weight: float = Field(
        default=10.0,
        gt=0,
        le=10,
        description="Largest weight that an API key may have of its own for assistants.",
    )
    training_device: str = Field(
        default="cpu",
        pattern=r"^(auto|cpu|cuda(:\d+)?)$",
        description="Device that assistants are trained on as jobs: auto, cpu, cuda or cuda:N.",
    )
    training_threads: int = Field(
        default=0,
        ge=0,
        description="Threads of such a training on the CPU; 0: half as many as there are CPUs.",
    )
    refusal_text: str = Field(
        default=DEFAULT_REFUSAL,
        min_length=1,
        max_length=2000,
        description="Answer to a refused request.",
    )
    refusal_mode: Literal["completion", "error"] = Field(
        default="completion",
        description="A refusal is a normal completion (200) or an error (400).",
    )
    max_body_bytes: int = Field(
        default=8 * MIB,
        ge=1024,
        description="Longest request body accepted, in bytes; longer is a 413.",
    )
    requests_per_minute: int | None = Field(
        default=None, ge=1, description="Requests a minute of a key that has no limit of its own."
    )
    tokens_per_minute: int | None = Field(
        default=None, ge=1, description="Tokens a minute of a key that has no limit of its own."
    )
    concurrent_requests: int | None = Field(
        default=None,
        ge=1,
        le=10_000,
        description="Requests at once of a key that has no limit of its own.",
    )
    index_dir: Path | None = Field(
        default=None, description="Directory of the indexes that corpora may take over."
    )
    max_upload_bytes: int = Field(
        default=1024 * MIB,
        ge=1024,
        description="Longest upload of a corpus's documents (JSON lines), in bytes.",
    )
    response_store_bytes: int = Field(
        default=16 * MIB,
        ge=0,
        description="Memory for the stored responses of each key, in bytes; 0: none are kept.",
    )
    response_store_total_bytes: int = Field(
        default=256 * MIB,
        ge=0,
        description="Memory of a gateway for the stored responses of all keys, in bytes.",
    )
    holdback_chars: int = Field(
        default=2000,
        ge=64,
        description="Most streamed characters held back at once while a phrase may be forming.",
    )
    fail_open: bool = Field(
        default=False,
        description="Serve unguarded when the guard itself fails (counted); else 503.",
    )
    screen_timeout_seconds: float = Field(
        default=10.0,
        gt=0,
        le=600,
        description="Longest time for deciding about a request, in seconds.",
    )
    engine_stall_seconds: float = Field(
        default=300.0,
        ge=0,
        description="Seconds in which the engine must end a step, else it hangs; 0: never.",
    )
    acknowledge_timeout_seconds: float = Field(
        default=120.0,
        gt=0,
        description="How long a new policy may wait for its workers, in seconds.",
    )
    keep_snapshots: int = Field(
        default=8, ge=1, description="How many superseded policy snapshots are kept for a rollback."
    )
    keep_versions: int = Field(
        default=10,
        ge=0,
        description="How many revisions of a target before the one in force are kept.",
    )
    model_runner: Literal["v1", "v2"] = Field(
        default="v1",
        description="vLLM's model runner; speculative decoding needs v2, which needs a GPU.",
    )
    audit_max_bytes: int = Field(
        default=64 * MIB, ge=64 * 1024, description="Longest file of the audit, in bytes."
    )
    audit_keep_files: int = Field(
        default=16, ge=1, description="How many files of the audit are kept; the oldest go first."
    )
    audit_fsync: Literal["always", "interval", "never"] = Field(
        default="interval",
        description="When audit records are forced to disk: each batch, each second, or never.",
    )
    audit_required: bool = Field(
        default=False,
        description="Answer 503 while the audit cannot be written; else serve, and count losses.",
    )
    otlp_endpoint: str | None = Field(
        default=None,
        pattern=r"^https?://[^\s]+$",
        description="URL that traces go to, as OTLP over HTTP (.../v1/traces); by default nowhere.",
    )
    target_series: int = Field(
        default=0,
        ge=0,
        le=10_000,
        description="Targets told by id in the admin port's metrics, to auditors only; 0: none.",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="Least severity that is logged."
    )
    log_format: Literal["console", "json"] = Field(
        default="console", description="Form of the log lines on standard error."
    )

    @field_validator("state_dir")
    @classmethod
    def _absolute(cls, value: Path) -> Path:
        return value.expanduser().absolute()

    @field_validator("control_url")
    @classmethod
    def _urls(cls, value: str | None) -> str | None:
        parts = [urlsplit(part.strip()) for part in (value or "").split(",")]
        if value is not None and any(
            part.scheme not in ("http", "https") or not part.hostname for part in parts
        ):
            raise ValueError("must be http:// or https:// addresses, separated by commas")
        return value

    @field_validator("admin_key", "node_key", "database_url")
    @classmethod
    def _not_blank(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and not value.get_secret_value().strip():
            raise ValueError("must not be blank")
        return value

    @field_validator("api_keys", "auditor_keys", "node_keys")
    @classmethod
    def _no_blank_keys(cls, keys: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
        if any(not key.get_secret_value().strip() for key in keys):
            raise ValueError("must not hold a blank key")
        if any("," in key.get_secret_value() for key in keys):
            raise ValueError("must not hold a key with a comma")
        return keys

    @property
    def store_url(self) -> str:
        """The store's SQLAlchemy URL; may hold a password."""
        if self.database_url is not None:
            return self.database_url.get_secret_value()
        return f"sqlite:///{self.state_dir / 'lethegate.db'}"

    @property
    def control_urls(self) -> tuple[str, ...]:
        """Where control processes are, on a node; empty elsewhere."""
        return tuple(url.strip().rstrip("/") for url in (self.control_url or "").split(",") if url)

    @property
    def endpoint_url(self) -> str:
        """Base URL of the guarded endpoint, as reached from this machine."""
        return _local_url(self.host, self.port)

    @property
    def admin_url(self) -> str:
        """Base URL of the admin API, as reached from this machine."""
        return _local_url(self.admin_host, self.admin_port)


SECRETS = frozenset(
    {"admin_key", "auditor_keys", "api_keys", "node_keys", "node_key", "database_url"}
)


def _local_url(host: str, port: int) -> str:
    """Where what listens on an address is reached from this machine."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def is_loopback(host: str) -> bool:
    """Whether an address to listen on can be reached from this machine only."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
