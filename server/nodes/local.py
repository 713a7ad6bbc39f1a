"""What is in force on a node, and who there has taken it up."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

from guard.errors import PointerFenced
from guard.follower import ActivePointer, FollowerState, followers
from server.errors import Outdated
from server.keys.published import prune_lists
from server.nodes.channels import Channel, place_of
from server.nodes.offer import named_assistants
from server.nodes.wire import ChannelReport, FollowerReport, Orders, PointerOut
from server.provenance.registry import Places, prune_registries
from server.retention import prune_snapshots
from server.settings import Settings


class Local:
    """The pointers of a node, which only its agent moves."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        for channel in Channel:
            place_of(settings, channel).mkdir(mode=0o700, parents=True, exist_ok=True)
        self._pointers = {c: ActivePointer(place_of(settings, c)) for c in Channel}

    def pointer(self, channel: Channel) -> PointerOut | None:
        """What is in force here."""
        active = self._pointers[channel].read()
        if active is None:
            return None
        return PointerOut(generation=active.generation, digest=active.digest, epoch=active.epoch)

    def check(self, channel: Channel, wanted: PointerOut | None) -> None:
        """Refuse what would go back.

        Raises:
            Outdated: it is of an earlier lead, or an earlier one of the same lead.
        """
        known = self.pointer(channel)
        if known is None:
            return
        if wanted is None or wanted.epoch < known.epoch:
            raise Outdated("what is in force here is of a later lead")
        if wanted.epoch == known.epoch and (
            wanted.generation < known.generation
            or (wanted.generation == known.generation and wanted.digest != known.digest)
        ):
            raise Outdated("what is in force here is later")

    def put(self, channel: Channel, wanted: PointerOut) -> None:
        """Put something in force for the followers of this node.

        Raises:
            Outdated: something later is in force.
        """
        try:
            pointer = self._pointers[channel]
            pointer.publish(wanted.generation, wanted.digest, wanted.epoch)
        except PointerFenced:
            raise Outdated("what is in force here is of a later lead") from None

    def report(self, channel: Channel) -> ChannelReport:
        """What is in force here, with the followers."""
        pointer = self.pointer(channel)
        found = [_reported(state) for state in followers(place_of(self._settings, channel))]
        if pointer is None:
            return ChannelReport(followers=found)
        return ChannelReport(**pointer.model_dump(), followers=found)

    def prune(self) -> None:
        """Delete what nobody here can need any more."""
        settings = self._settings
        policy, keys = self.pointer(Channel.POLICY), self.pointer(Channel.KEYS)
        if keys is not None:
            prune_lists(settings.keys, keys.digest)
        if policy is not None:
            kept = _newest(settings.snapshots, settings.keep_snapshots + 1)
            kept |= {f.digest for f in followers(settings.state_dir)} | {policy.digest}
            prune_snapshots(settings.snapshots, kept)
            _delete_but(settings.snapshots, ".*.draft", ())
            there = [p.name for p in settings.snapshots.iterdir()]
            named = set().union(*(named_assistants(settings, digest) for digest in there))
            _delete_but(settings.assistants, "*", named)

    def prune_indexes(self, digest: str, directories: Iterable[str]) -> None:
        """Delete the indexes that the list of corpora in force does not name."""
        places = Places(self._settings.corpora)
        prune_registries(places, digest)
        _delete_but(places.root / "index", "*", set(directories))


def is_current(orders: Orders, channel: Channel, report: ChannelReport) -> bool:
    """Whether a node has put in force what it was told to, and all there have taken it up."""
    wanted = orders.pointer(channel)
    if wanted is None:
        return report.generation == 0
    applied = [(report.generation, report.digest)]
    applied += [(f.generation, f.digest) for f in report.followers]
    return all(found == (wanted.generation, wanted.digest) for found in applied)


def _reported(state: FollowerState) -> FollowerReport:
    return FollowerReport(
        kind="worker" if state.kind == "worker" else "gateway",
        pid=state.pid,
        generation=state.generation,
        digest=state.digest,
        failed_generation=state.failed_generation,
        error=state.error if state.error.replace("_", "").isalpha() else "",
    )


def _newest(directory: Path, count: int) -> set[str]:
    found = sorted(directory.iterdir(), key=lambda path: path.stat().st_mtime_ns, reverse=True)
    return {path.name for path in found[:count]}


def _delete_but(directory: Path, pattern: str, kept: Iterable[str]) -> None:
    for path in directory.glob(pattern) if directory.is_dir() else ():
        if path.name not in kept and path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
