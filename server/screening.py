"""Screening: the guard of one API process, from conversation texts to a decision.

Requests wait in bounded queues (`server.lanes`). A thread takes whatever has gathered, encodes all
of it in one batch, compares it with all registered prompts in one product and decides, so the event
loop is never blocked and concurrent requests share the work. Short conversations are decided
together; each long one is worked off in parts by another thread, for as long as it is awaited. An
identical conversation under the same policy is not judged again, and with no target registered
nothing is encoded at all.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import suppress

import numpy as np

from detectors.classifier import Judgement
from detectors.encoder import SentenceEncoder, load_encoder
from detectors.errors import PromptTooLong
from detectors.threads import limit_products
from detectors.windows import prompt_windows
from guard.decision import Decision
from guard.errors import SnapshotError
from guard.follower import Active, ActivePointer, Follower, followers
from guard.key_scope import ALL_TARGETS, KeyScope
from guard.ledger import CloseReason, Counter, LedgerReader
from guard.nets import AnswerNets, MakeNet
from guard.phrase_matcher import PhraseMatcher
from guard.policy import Policy
from guard.shield import OutputShield
from guard.snapshot import load_snapshot
from server.errors import GuardUnavailable, InvalidRequest, ServerFault
from server.known_texts import KnownWindows, Memory, Vector, content_key
from server.lanes import Lane, Waiting
from server.log import fault_fields, get_logger
from server.metrics.gateway import GatewayMetrics
from server.metrics.labels import Stage
from server.metrics.workers import WorkerFacts
from server.provenance.follow import CorporaFollower
from server.settings import Settings
from server.statistics.tally import AnswerCuts, TargetTally

QUEUE_LENGTH = 1024
LONG_QUEUE_LENGTH = 128
# What is encoded at once. A GPU takes 64 texts in the time of one; on a CPU eight already cost the
# least per text, and more would only let the first wait for the last.
GPU_BATCH = 64
CPU_BATCH = 8
# A conversation with more is long. Counting windows takes milliseconds up to so many characters.
SHORT_WINDOWS = 64
SHORT_CHARACTERS = 32_768
KNOWN_WINDOWS = 4096
KNOWN_DECISIONS = 4096
RECENT_POLICIES = 8
# So many decisions that could not be made, and none that could, are no single client's doing.
FAILURES_IN_A_ROW = 3
RETRY_SECONDS = 5.0

# Conversations with their windows.
Group = Sequence[tuple[Waiting, list[str]]]

log = get_logger("screening")


class Screening:
    """Encoder, policy in force and the workers' facts. Implements `server.guarding.Guard`."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._ledger = LedgerReader(settings.state_dir / "facts")
        # A client's long texts may take as long as anybody waits, and then a part of them.
        patience = 2 * settings.screen_timeout_seconds
        self._short = Lane("screening", QUEUE_LENGTH, self._decide_short, patience)
        self._long = Lane("screening-long", LONG_QUEUE_LENGTH, self._decide_long, patience)
        self._failures = 0
        self._policy: Policy | None = None
        # By digest, newest last: a request that was decided just before a change finds its own.
        self._recent: OrderedDict[str, Policy] = OrderedDict()
        self._encoder: SentenceEncoder | None = None
        self._windows: KnownWindows
        self._decisions: Memory[Decision] = Memory(KNOWN_DECISIONS)
        self._batch = CPU_BATCH
        self._follower: Follower | None = None
        self._corpora: CorporaFollower | None = None
        self._metrics: GatewayMetrics | None = None
        self._tally = TargetTally()

    def start(self, metrics: GatewayMetrics, tally: TargetTally | None = None) -> None:
        """Load the encoder and follow the active policy, on a thread of their own.

        `tally` counts the answers that nets end, by the targets they end them for.
        """
        self._metrics = metrics
        self._tally = tally or self._tally
        directory, limit = self._settings.corpora, self._settings.holdback_chars
        self._corpora = CorporaFollower(directory, metrics, limit)
        threading.Thread(target=self._run, name="screening-start", daemon=True).start()

    def current(self) -> Policy | None:
        """The policy in force; None before the first is loaded."""
        return self._policy

    def unready(self) -> list[str]:
        """Parts that are not ready."""
        parts = {"classifier": self._encoder is None, "policy": self._policy is None}
        if self._failures >= FAILURES_IN_A_ROW:
            parts["classifier"] = True
            self._try_again()
        parts["classifier"] |= self._short.hangs or self._long.hangs
        parts["corpora"] = self._corpora is not None and self._corpora.state is None
        parts["workers"] = not any(
            f.kind == "worker" and f.generation for f in followers(self._settings.state_dir)
        )
        return [name for name, missing in parts.items() if missing]

    async def screen(self, texts: Sequence[str], scope: KeyScope = ALL_TARGETS) -> Decision:
        """Decide about one conversation of a key with this scope.

        Raises:
            GuardUnavailable: there is no policy or encoder yet, or corpora cannot be loaded.
            Overloaded: too many requests wait.
            GuardTimeout: the encoder hangs.
            InvalidRequest: the conversation is too long.
        """
        policy = self._policy
        if policy is None or self._encoder is None:
            raise GuardUnavailable()
        if self._corpora is not None and self._corpora.state is None:
            raise GuardUnavailable()
        if not policy.applies_to(scope):
            return policy.decide((), scope)
        short = sum(map(len, texts)) <= SHORT_CHARACTERS
        about = (policy.digest, str(policy.generation), scope.name)
        key = content_key(texts, *about) if short else b""
        if short and (known := self._decisions.get(key)) is not None:
            return known
        waiting = Waiting.of(texts, scope)
        (self._short if short else self._long).put(waiting)
        decision = await waiting.decision
        if short and decision.generation == policy.generation:
            self._decisions.put(key, decision)
        return decision

    def nets(self, decision: Decision, request_id: str = "") -> AnswerNets:
        """What an answer is checked by, of the policy that its request was decided under.

        Raises:
            GuardUnavailable: that policy is long gone.
        """
        policy = self._recent.get(decision.digest)
        if policy is None:
            raise GuardUnavailable()
        judged = decision.would or decision
        enforced, observed = policy.matchers(judged), list[PhraseMatcher]()
        if self._settings.watch_answers:
            watches = policy.watches(decision.scope)
            enforced.append(watches.enforced)
            observed.append(watches.observed)
        cuts = AnswerCuts(self._tally, enforced=decision.would is None)
        would = AnswerCuts(self._tally, enforced=False)
        trace = AnswerNets()
        if self._corpora is not None:
            covered = policy.covered(decision.scope)
            trace = self._corpora.nets(decision, request_id, covered, (cuts, would))
        nets = AnswerNets(
            trace.enforced + self._phrase_nets(enforced, cuts),
            trace.observed + self._phrase_nets(observed, would),
        )
        return nets if decision.would is None else AnswerNets((), nets.enforced + nets.observed)

    def _phrase_nets(
        self, matchers: Sequence[PhraseMatcher], cuts: AnswerCuts
    ) -> tuple[MakeNet, ...]:
        limit = self._settings.holdback_chars
        return (lambda: OutputShield(matchers, limit, cuts),) if any(matchers) else ()

    def closed(self, nonce: int) -> CloseReason | None:
        """Why the worker closed this request's slot."""
        return self._ledger.closed(nonce)

    def prevented(self, nonce: int) -> int:
        """In how many steps the worker kept this request from completing a phrase."""
        return self._ledger.prevented(nonce)

    def worker_facts(self) -> WorkerFacts:
        """The workers' counters, for the metrics."""
        ledger = self._ledger
        return WorkerFacts(
            blocked_tokens=ledger.total(Counter.FORBIDDEN_TOKENS),
            intercepted_steps=ledger.total(Counter.INTERCEPTED_STEPS),
            steered_steps=ledger.total(Counter.STEERED_STEPS),
            vetoed_tokens=ledger.total(Counter.VETOED_TOKENS),
            subtracted_steps=ledger.total(Counter.SUBTRACTED_STEPS),
            closed_slots={_REASONS[r]: ledger.closed_total(r) for r in CloseReason},
            snapshot_load_failures=ledger.total(Counter.SNAPSHOT_FAILURES),
        )

    def _run(self) -> None:
        assert self._corpora is not None
        for start in (self._load_encoder, self._corpora.start, self._follow):
            while not self._is_done(start):
                time.sleep(RETRY_SECONDS)
        self._short.start(self._batch)
        self._long.start(1)

    def _is_done(self, start: Callable[[], None]) -> bool:
        try:
            start()
        except Exception as error:
            log.error("screening_cannot_start", **fault_fields(error))
            return False
        return True

    def _load_encoder(self) -> None:
        device = self._settings.encoder_device
        encoder = load_encoder(self._settings.encoder, device=None if device == "auto" else device)
        encoder.encode(["warm up"])
        limit_products()
        self._batch = GPU_BATCH if encoder.on_gpu else CPU_BATCH
        self._windows = KnownWindows(encoder, KNOWN_WINDOWS)
        self._encoder = encoder

    def _follow(self) -> None:
        self._follower = Follower(self._settings.state_dir, "gateway", self._adopt)
        self._follower.start()

    def _adopt(self, active: Active) -> None:
        """Make a policy the current one, once every live worker has it too."""
        assert self._encoder is not None
        snapshot = load_snapshot(self._settings.snapshots, active.digest)
        policy = Policy(active, snapshot, self._encoder.id, device=self._encoder.device)
        self._await_workers(active)
        self._recent[active.digest] = policy
        self._recent.move_to_end(active.digest)
        while len(self._recent) > RECENT_POLICIES:
            self._recent.popitem(last=False)
        self._policy = policy
        self._tally.keep(policy.target_ids)
        if self._metrics is not None:
            self._metrics.set_generation(active.generation)

    def _await_workers(self, active: Active) -> None:
        """Wait as long as the control process does before it takes the policy back.

        A request must not name a policy that a worker would have to load in the middle of a step.
        """
        pointer = ActivePointer(self._settings.state_dir)
        deadline = time.monotonic() + self._settings.acknowledge_timeout_seconds
        while time.monotonic() < deadline:
            workers = [f for f in followers(self._settings.state_dir) if f.kind == "worker"]
            if any(w.failed_generation == active.generation for w in workers):
                raise SnapshotError("a worker could not load the policy")
            if (newest := pointer.read()) is not None and newest != active:
                raise SnapshotError("the policy was superseded before every worker had it")
            if all(w.generation >= active.generation for w in workers):
                return
            time.sleep(0.01)
        # There is no control process. A worker loads the snapshot when the first request names it.
        log.warning("workers_behind_active_policy", generation=active.generation)

    def _decide_short(self, batch: Sequence[Waiting]) -> None:
        """Decide the short ones together; one that turns out to be long goes to the other lane."""
        together: list[tuple[Waiting, list[str]]] = []
        for waiting in batch:
            windows = _windows(waiting)
            if windows is None:
                continue
            if len(windows) <= SHORT_WINDOWS:
                together.append((waiting, windows))
                continue
            try:
                self._long.put(waiting)
            except ServerFault as error:
                waiting.answer(error)
        if together:
            self._guarded(together, self._decide_together)

    def _decide_long(self, batch: Sequence[Waiting]) -> None:
        for waiting in batch:
            windows = None if waiting.given_up else _windows(waiting)
            if windows is not None:
                self._guarded([(waiting, windows)], self._decide_in_parts)

    def _guarded(self, group: Group, decide: Callable[[Group], None]) -> None:
        try:
            decide(group)
            self._failures = 0
        except Exception as error:
            self._failures += 1
            log.error("screening_failed", **fault_fields(error))
            for waiting, _ in group:
                waiting.answer(GuardUnavailable())

    def _try_again(self) -> None:
        """Have a text screened that nobody has sent: readiness returns without a client's help."""
        waiting = Waiting.of((f"Is anybody there? {time.monotonic_ns()}",))
        waiting.decision.add_done_callback(lambda decided: decided.exception())
        with suppress(ServerFault):
            self._short.put(waiting)

    def _decide_together(self, group: Group) -> None:
        """Encode what is new in any of the conversations, then compare all of them at once."""
        policy = self._policy
        assert policy is not None
        wanted = list(dict.fromkeys(window for _, windows in group for window in windows))
        parts = [np.zeros((0, self._dimension()), np.float32)]
        for first in range(0, len(wanted), self._batch):
            if all(waiting.given_up for waiting, _ in group):
                return
            parts.append(self._encode(wanted[first : first + self._batch]))
        vectors = np.concatenate(parts)
        places = {window: place for place, window in enumerate(wanted)}
        begun = time.perf_counter()
        judgements = [policy.classifier.begin(waiting.texts) for waiting, _ in group]
        own = [vectors[[places[window] for window in windows]] for _, windows in group]
        policy.classifier.compare(judgements, own)
        for (waiting, _), judgement in zip(group, judgements, strict=True):
            self._answer(waiting, policy, judgement)
        self._observe(Stage.CLASSIFY, begun)

    def _decide_in_parts(self, group: Group) -> None:
        """Encode and compare one conversation part by part, and no further once it is given up."""
        policy = self._policy
        assert policy is not None
        [(waiting, windows)] = group
        judgement = policy.classifier.begin(waiting.texts)
        for first in range(0, len(windows), self._batch):
            if waiting.given_up:
                return
            vectors = self._encode(windows[first : first + self._batch])
            begun = time.perf_counter()
            policy.classifier.compare([judgement], [vectors])
            self._observe(Stage.CLASSIFY, begun)
        self._answer(waiting, policy, judgement)

    def _answer(self, waiting: Waiting, policy: Policy, judgement: Judgement) -> None:
        # Made here, where it may take its time, for the first answer of a scope.
        policy.watches(waiting.scope)
        decision = policy.decide(policy.detections(judgement), waiting.scope)
        policy.matchers(decision.would or decision)
        waiting.answer(decision)

    def _encode(self, windows: Sequence[str]) -> Vector:
        begun = time.perf_counter()
        vectors = self._windows.encode(windows)
        self._observe(Stage.ENCODE, begun)
        return vectors

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
    CloseReason.ASSISTANT_UNAVAILABLE: "assistant_unavailable",
}


def _windows(waiting: Waiting) -> list[str] | None:
    """The windows of a conversation; one that cannot be cut is answered, and None."""
    try:
        return prompt_windows(waiting.texts)
    except PromptTooLong:
        waiting.answer(InvalidRequest("The conversation is too long to be screened."))
    except Exception as error:
        log.error("screening_failed", **fault_fields(error))
        waiting.answer(GuardUnavailable())
    return None
