"""Screening: the guard of one API process, from conversation texts to a decision.

Requests wait in one bounded queue; a single thread takes whatever has gathered, encodes all of it
in one batch and decides, so the event loop is never blocked and concurrent requests share the
encoder's work. With no target registered nothing is encoded at all.
"""

from __future__ import annotations

import asyncio
import hashlib
import queue
import threading
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from detectors.encoder import Encoder, load_encoder
from detectors.errors import PromptTooLong
from detectors.windows import prompt_windows
from guard.decision import Decision
from guard.errors import SnapshotError
from guard.follower import Active, Follower, followers
from guard.ledger import CloseReason, Counter, LedgerReader
from guard.nets import AnswerNets
from guard.policy import Policy
from guard.shield import OutputShield
from guard.snapshot import load_snapshot
from server.errors import GuardUnavailable, InvalidRequest, Overloaded
from server.log import fault_fields, get_logger
from server.metrics import GatewayMetrics, Stage, WorkerFacts
from server.settings import Settings

QUEUE_LENGTH = 1024
# What is encoded at once. A GPU takes 64 texts in the time of one; on a CPU eight already cost the
# least per text, and more would only let the first wait for the last.
GPU_BATCH = 64
CPU_BATCH = 8
KNOWN_WINDOWS = 4096
WORKER_WAIT_SECONDS = 10.0
RECENT_POLICIES = 8

Vector = npt.NDArray[np.float32]

log = get_logger("screening")


@dataclass(frozen=True, slots=True)
class _Waiting:
    """One request in the queue."""

    texts: Sequence[str]
    loop: asyncio.AbstractEventLoop
    answer: asyncio.Future[Decision]


class Screening:
    """Encoder, policy in force and the workers' facts. Implements `server.gateway.Guard`."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._ledger = LedgerReader(settings.state_dir / "facts")
        self._queue: queue.Queue[_Waiting] = queue.Queue(QUEUE_LENGTH)
        self._policy: Policy | None = None
        # By digest, newest last: a request that was decided just before a change finds its own.
        self._recent: OrderedDict[str, Policy] = OrderedDict()
        self._encoder: Encoder | None = None
        self._batch = CPU_BATCH
        # Window hash -> embedding, least recently used first; only the screening thread touches it.
        self._known: OrderedDict[bytes, Vector] = OrderedDict()
        self._follower: Follower | None = None
        self._metrics: GatewayMetrics | None = None

    def start(self, metrics: GatewayMetrics) -> None:
        """Load the encoder and follow the active policy, on a thread of their own."""
        self._metrics = metrics
        threading.Thread(target=self._run, name="screening", daemon=True).start()

    def current(self) -> Policy | None:
        """The policy in force; None before the first is loaded."""
        return self._policy

    def unready(self) -> list[str]:
        """Parts that are not ready."""
        parts = {"classifier": self._encoder is None, "policy": self._policy is None}
        parts["workers"] = not any(
            f.kind == "worker" and f.generation for f in followers(self._settings.state_dir)
        )
        return [name for name, missing in parts.items() if missing]

    async def screen(self, texts: Sequence[str]) -> Decision:
        """Decide about one conversation.

        Raises:
            GuardUnavailable: there is no policy or encoder yet.
            Overloaded: too many requests wait.
            InvalidRequest: the conversation is too long.
        """
        policy = self._policy
        if policy is None or self._encoder is None:
            raise GuardUnavailable()
        if policy.is_empty:
            return policy.decide(())
        loop = asyncio.get_running_loop()
        waiting = _Waiting(texts, loop, loop.create_future())
        try:
            self._queue.put_nowait(waiting)
        except queue.Full:
            raise Overloaded() from None
        return await waiting.answer

    def nets(self, decision: Decision) -> AnswerNets:
        """What an answer is checked by, of the policy that its request was decided under.

        Raises:
            GuardUnavailable: that policy is long gone.
        """
        policy = self._recent.get(decision.digest)
        if policy is None:
            raise GuardUnavailable()
        matchers = policy.matchers(decision)
        if self._settings.watch_answers and policy.watch:
            matchers.append(policy.watch)
        if not matchers:
            return AnswerNets()
        limit = self._settings.holdback_chars
        return AnswerNets(enforced=(lambda: OutputShield(matchers, limit),))

    def closed(self, nonce: int) -> CloseReason | None:
        """Why the worker closed this request's slot."""
        return self._ledger.closed(nonce)

    def worker_facts(self) -> WorkerFacts:
        """The workers' counters, for the metrics."""
        ledger = self._ledger
        return WorkerFacts(
            blocked_tokens=ledger.total(Counter.FORBIDDEN_TOKENS),
            intercepted_steps=ledger.total(Counter.INTERCEPTED_STEPS),
            steered_steps=ledger.total(Counter.STEERED_STEPS),
            closed_slots={_REASONS[r]: ledger.closed_total(r) for r in CloseReason},
            snapshot_load_failures=ledger.total(Counter.SNAPSHOT_FAILURES),
        )

    def _run(self) -> None:
        try:
            self._load()
        except Exception as error:
            log.error("screening cannot start", **fault_fields(error))
            return
        while True:
            self._decide(self._gather())

    def _load(self) -> None:
        device = self._settings.encoder_device
        encoder = load_encoder(self._settings.encoder, device=None if device == "auto" else device)
        encoder.encode(["warm up"])
        self._batch = GPU_BATCH if encoder.on_gpu else CPU_BATCH
        self._encoder = encoder
        self._follower = Follower(self._settings.state_dir, "gateway", self._adopt)
        self._follower.start()

    def _adopt(self, active: Active) -> None:
        """Make a policy the current one, once every live worker has it too."""
        assert self._encoder is not None
        snapshot = load_snapshot(self._settings.snapshots, active.digest)
        policy = Policy(active, snapshot, self._encoder.id)
        self._await_workers(active)
        self._recent[active.digest] = policy
        self._recent.move_to_end(active.digest)
        while len(self._recent) > RECENT_POLICIES:
            self._recent.popitem(last=False)
        self._policy = policy
        if self._metrics is not None:
            self._metrics.set_generation(active.generation)

    def _await_workers(self, active: Active) -> None:
        deadline = time.monotonic() + WORKER_WAIT_SECONDS
        while time.monotonic() < deadline:
            workers = [f for f in followers(self._settings.state_dir) if f.kind == "worker"]
            if any(w.failed_generation == active.generation for w in workers):
                raise SnapshotError("a worker could not load the policy")
            if all(w.generation >= active.generation for w in workers):
                return
            time.sleep(0.01)
        # A worker that answers later loads the snapshot when the first request names it.
        log.warning("workers are behind the active policy", generation=active.generation)

    def _gather(self) -> list[_Waiting]:
        """Wait for one request, then take what else is there."""
        batch = [self._queue.get()]
        while len(batch) < self._batch:
            try:
                batch.append(self._queue.get_nowait())
            except queue.Empty:
                break
        return batch

    def _decide(self, batch: Sequence[_Waiting]) -> None:
        """Decide the short conversations together, then each long one for as long as it is awaited.

        So a long conversation delays nobody in its batch, and one that was given up costs no more.
        """
        together: list[tuple[_Waiting, list[str]]] = []
        alone: list[tuple[_Waiting, list[str]]] = []
        for waiting in batch:
            try:
                windows = prompt_windows(waiting.texts)
            except PromptTooLong:
                _answer(waiting, InvalidRequest("The conversation is too long to be screened."))
            else:
                short = len(windows) <= GPU_BATCH
                (together if short else alone).append((waiting, windows))
        for group in (together, *([one] for one in alone)):
            try:
                self._decide_group(group)
            except Exception as error:
                log.error("screening failed", **fault_fields(error))
                for waiting, _ in group:
                    _answer(waiting, GuardUnavailable())

    def _decide_group(self, group: Sequence[tuple[_Waiting, list[str]]]) -> None:
        policy = self._policy
        assert policy is not None
        wanted = list(dict.fromkeys(window for _, windows in group for window in windows))
        vectors: dict[str, Vector] = {}
        for first in range(0, len(wanted), self._batch):
            if all(waiting.answer.done() for waiting, _ in group):
                return
            part = wanted[first : first + self._batch]
            vectors.update(zip(part, self._encode(part), strict=True))
        for waiting, windows in group:
            _answer(waiting, self._classify(policy, waiting.texts, [vectors[w] for w in windows]))

    def _encode(self, windows: Sequence[str]) -> list[Vector]:
        """The embeddings of some windows; those of earlier turns and repeated prompts are known."""
        assert self._encoder is not None
        begun = time.perf_counter()
        keys = [
            hashlib.blake2b(w.encode("utf-8", "surrogatepass"), digest_size=16).digest()
            for w in windows
        ]
        missing = [i for i, key in enumerate(keys) if key not in self._known]
        if missing:
            fresh = self._encoder.encode([windows[i] for i in missing])
            self._known.update((keys[i], row) for i, row in zip(missing, fresh, strict=True))
        vectors = [self._known[key] for key in keys]
        for key in keys:
            self._known.move_to_end(key)
        while len(self._known) > KNOWN_WINDOWS:
            self._known.popitem(last=False)
        self._observe(Stage.ENCODE, begun)
        return vectors

    def _classify(
        self, policy: Policy, texts: Sequence[str], vectors: Sequence[Vector]
    ) -> Decision | Exception:
        begun = time.perf_counter()
        try:
            matrix = np.stack(vectors) if vectors else np.zeros((0, self._dimension()), np.float32)
            return policy.decide(policy.classify(texts, matrix))
        except Exception as error:
            return error
        finally:
            self._observe(Stage.CLASSIFY, begun)

    def _dimension(self) -> int:
        assert self._encoder is not None
        return self._encoder.dimension

    def _observe(self, stage: Stage, begun: float) -> None:
        if self._metrics is not None:
            self._metrics.observe_stage(stage, time.perf_counter() - begun)


_REASONS = {
    CloseReason.NOTHING_LEFT: "nothing_left",
    CloseReason.SNAPSHOT_UNAVAILABLE: "snapshot_unavailable",
    CloseReason.BAD_PARAMETERS: "bad_params",
    CloseReason.INTERNAL_ERROR: "fault",
}


def _answer(waiting: _Waiting, outcome: Decision | Exception) -> None:
    def settle() -> None:
        if waiting.answer.done():
            return
        if isinstance(outcome, Exception):
            waiting.answer.set_exception(outcome)
        else:
            waiting.answer.set_result(outcome)

    waiting.loop.call_soon_threadsafe(settle)
