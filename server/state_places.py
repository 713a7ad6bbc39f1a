"""What lies where in the state directory."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict


class StatePlaces(BaseModel):
    """A state directory's files and folders; which directory it is says a setting."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)

    state_dir: Path

    @property
    def snapshots(self) -> Path:
        """Directory of the policy snapshots."""
        return self.state_dir / "snapshots"

    @property
    def corpora(self) -> Path:
        """Directory of the corpora: indexes, uploads, published lists."""
        return self.state_dir / "corpora"

    @property
    def assistants(self) -> Path:
        """Directory of the registered assistants."""
        return self.state_dir / "assistants"

    @property
    def keys(self) -> Path:
        """Directory of the published API keys, hashed."""
        return self.state_dir / "keys"

    @property
    def audit(self) -> Path:
        """Directory of the audit's files."""
        return self.state_dir / "audit"

    @property
    def statistics(self) -> Path:
        """Directory of what gateways have counted of each target."""
        return self.state_dir / "statistics"

    @property
    def trainings(self) -> Path:
        """Directory of the trainings that run or wait."""
        return self.state_dir / "trainings"

    @property
    def cache(self) -> Path:
        """Directory of what can be rebuilt (vocabulary, embeddings)."""
        return self.state_dir / "cache"

    @property
    def admin_key_file(self) -> Path:
        """Where a generated admin key is kept."""
        return self.state_dir / "admin.key"
