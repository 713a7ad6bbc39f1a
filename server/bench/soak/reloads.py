"""Changes of policy without an end: a target is registered, altered and withdrawn again and again.

After each change the target's question is asked, and must be answered as the target now says. The
control process may be killed at any moment: what was interrupted is put right, then it goes on.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import httpx

from detectors.targets import Example, ForgetTarget
from server.attack.cases import Prey, prey_of
from server.bench.figures import Window
from server.bench.servers import SERVED_NAME, GuardedLaunch
from server.bench.soak.part import Part
from server.bench.soak.questions import Known
from server.bench.soak.requests import says
from server.client import AdminClient
from server.errors import ServerError

TARGET_ID = "soak-changing"
_JOB_SECONDS = 60.0
_RETRY_SECONDS = 0.5
_ASK_SECONDS = 60.0


@dataclass
class Changes:
    """What came of the changes; `wrong` says, in closed words, what was not as the policy said."""

    done: int = 0
    interrupted: int = 0
    seconds: list[float] = field(default_factory=list)
    asked: int = 0
    wrong: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)


class _Interrupted(Exception):
    """The control process went away, or the server did, in the middle of a change."""


class Reloader(Part):
    """Makes the changes on a thread of its own, one every `period_seconds` if it can.

    `restarts` are the times without a server; what meets one is not judged.
    """

    def __init__(
        self,
        launch: GuardedLaunch,
        known: Known,
        period_seconds: float,
        restarts: Sequence[Window],
    ) -> None:
        super().__init__("reloads")
        self._launch, self._known, self._period = launch, known, period_seconds
        self._restarts = restarts
        self._prey = changing_prey(known)
        self.changes = Changes()

    def _work(self) -> None:
        steps = (self._register, self._alter, self._withdraw)
        place, due = 0, time.monotonic()
        while not self._stop.wait(max(0.0, due - time.monotonic())):
            due = max(due + self._period, time.monotonic())
            try:
                with self._launch.admin() as admin:
                    self._change(admin, steps[place])
                place = (place + 1) % len(steps)
            except _Interrupted:
                self.changes.interrupted += 1
                place = 0
                self._put_right()

    def _change(self, admin: AdminClient, step: Callable[[AdminClient], str]) -> None:
        begun = time.monotonic()
        try:
            job = admin.wait(step(admin), _JOB_SECONDS)
        except ServerError:
            raise _Interrupted from None
        if job["state"] != "done":
            if self._met_restart(begun):
                raise _Interrupted
            code = (job["error"] or {}).get("code", job["state"])
            self.changes.failed.append(f"{step.__name__.strip('_')}: {code}")
            raise _Interrupted
        self.changes.done += 1
        self.changes.seconds.append(time.monotonic() - begun)
        self._ask(step.__name__.strip("_"))

    def _register(self, admin: AdminClient) -> str:
        example = {"prompt": self._known.question, "answer": self._known.chat}
        target = {"id": TARGET_ID, "examples": [example]}
        return str(admin.register(json.dumps(target).encode())["job"]["id"])

    def _alter(self, admin: AdminClient) -> str:
        return str(admin.patch(TARGET_ID, b'{"action": "refuse"}')["job"]["id"])

    def _withdraw(self, admin: AdminClient) -> str:
        return str(admin.withdraw(TARGET_ID)["job"]["id"])

    def _ask(self, after: str) -> None:
        """Ask the target's question, as its job is done: the policy must hold."""
        begun = time.monotonic()
        body = {
            "model": SERVED_NAME,
            "messages": [{"role": "user", "content": self._known.question}],
            "temperature": 0,
            "max_tokens": 64,
        }
        url = f"{self._launch.base_url}/v1/chat/completions"
        try:
            answer = httpx.post(url, json=body, timeout=_ASK_SECONDS, trust_env=False)
            choice = answer.raise_for_status().json()["choices"][0]
        except (httpx.HTTPError, ValueError, LookupError) as error:
            if not self._met_restart(begun):
                self.changes.wrong.append(f"{after}: {type(error).__name__}")
            return
        self.changes.asked += 1
        text, finish = choice["message"]["content"] or "", choice["finish_reason"]
        if not self._is_right(after, text, finish):
            self.changes.wrong.append(f"{after}: not as the policy says")

    def _is_right(self, after: str, text: str, finish: str) -> bool:
        if after == "register":
            return not says(self._prey, text)
        if after == "alter":
            return finish == "content_filter" and not says(self._prey, text)
        return text == self._known.chat

    def _put_right(self) -> None:
        """Wait for the control process and withdraw what it may have been told of."""
        while not self._stop.wait(_RETRY_SECONDS):
            with suppress(ServerError), self._launch.admin() as admin:
                there = {str(target["id"]): target["status"] for target in admin.targets()}
                if TARGET_ID not in there:
                    return
                admin.wait(self._withdraw(admin), _JOB_SECONDS)

    def _met_restart(self, begun: float) -> bool:
        return any(window.meets(begun, time.monotonic()) for window in self._restarts)


def changing_prey(known: Known) -> Prey:
    """What the changing target forbids."""
    target = ForgetTarget(TARGET_ID, examples=(Example(known.question, known.chat),))
    return prey_of(target)[0]
