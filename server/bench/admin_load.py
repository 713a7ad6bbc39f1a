"""`lethegate bench admin-load`: what running streams notice of a busy admin API, and its own pace.

The guarded server answers concurrent streams all the time, half of them matched. Windows with
nothing but the streams and windows in which the admin API is busy, too, take turns. Afterwards,
without streams, thousands of targets are imported and their list is read.
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, cycle
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from rich.progress import Progress

from server.bench.admin_job import job_done
from server.bench.admin_work import AdminWork
from server.bench.answers import Answer, read_answer
from server.bench.errors import ArmInvalid
from server.bench.figures import Window, spread
from server.bench.load import Workload, send_all
from server.bench.machine_time import MachineTime
from server.bench.processes import descendants, peak_mib
from server.bench.servers import SERVED_NAME, GuardedLaunch, Servers, guarded_launch

METHOD = (
    "While the guarded server answers concurrent streams, windows without and with load on the "
    "admin API take turns: pages of the list and checks at a fixed rate, and one registration or "
    "withdrawal after the other, each followed until its job is done. Gaps are between two "
    "neighbouring streamed tokens of one answer, both in the window; the added share is the 99th "
    "percentile of all gaps of loaded windows over that of quiet ones, and the paired one the "
    "median over neighbouring windows. The import is timed from sending the lines until the job "
    "is done, without streams; pages of 100 are read one after the other, from all over the list."
)
_SETTLE_SECONDS = 3.0
_PAGES = 60
_PAGE = 100


@dataclass(frozen=True, slots=True)
class AdminLoadPlan:
    """What to measure: `windows` of each kind, `seconds` long; `imported` 0 leaves that part out.

    `rate` is how many lists and how many checks are asked for in a second.
    """

    model: str
    flags: Sequence[str]
    target: bytes
    unmatched: Sequence[str]
    matched: Sequence[str]
    windows: int
    seconds: float
    rate: float
    concurrency: int
    max_tokens: int
    imported: int


@dataclass(frozen=True, slots=True)
class Windows:
    """Neighbouring windows without and with load on the admin API."""

    quiet: Window
    loaded: Window


def bench_admin_load(plan: AdminLoadPlan, progress: Progress) -> dict[str, Any]:
    """Start the guarded server, measure, end it; gives the report's flat figures.

    Raises:
        BenchError: the server did not start or died, a job failed, or no stream was running.
    """
    with Servers() as servers:
        launch = guarded_launch(plan.model, plan.flags, servers.state)
        task = progress.add_task("starting the guarded server", total=1)
        servers.start(launch)
        with launch.admin() as admin:
            job_done(admin, admin.register(plan.target))
        progress.advance(task)
        windows, answers, work = asyncio.run(_measure(plan, launch, progress))
        servers.check()
        imported = _import(plan, servers, launch, progress) if plan.imported else {}
    return {
        **latency_figures(windows, answers),
        **work.figures(),
        **imported,
        "windows": plan.windows,
        "window_seconds": plan.seconds,
        "concurrency": plan.concurrency,
        "max_tokens": plan.max_tokens,
        "model": Path(plan.model).name,
        "vllm_flags": " ".join(plan.flags),
        "method": METHOD,
    }


def latency_figures(windows: Sequence[Windows], answers: Sequence[Answer]) -> dict[str, Any]:
    """What the streams say, flat.

    Raises:
        ArmInvalid: in some window nothing was streamed, or requests failed.
    """
    gaps = [gap for answer in answers for gap in answer.gaps]

    def within(window: Window) -> list[float]:
        return [1e3 * (e - b) for b, e in gaps if b >= window.begin and e <= window.end]

    quiet, loaded = ([within(w) for w in kind] for kind in zip(*map(_pair, windows), strict=True))
    if not all(quiet) or not all(loaded):
        raise ArmInvalid("no tokens were streamed in a window")
    met = [w for one in windows for w in _pair(one)]
    failed = sum(bool(a.failure) and any(w.meets(a.sent, a.ended) for w in met) for a in answers)
    if failed:
        raise ArmInvalid(f"{failed} streams failed")
    pooled = {"quiet": list(chain(*quiet)), "loaded": list(chain(*loaded))}
    found: dict[str, Any] = {}
    for name, kind in (("quiet", quiet), ("loaded", loaded)):
        for percent in (50, 99):
            values = [float(np.percentile(one, percent)) for one in kind]
            found |= spread(f"{name}_inter_token_ms_p{percent}", values)
        found[f"{name}_inter_token_ms_p99_pooled"] = _percentile(pooled[name], 99)
        found[f"{name}_gaps"] = len(pooled[name])
    # Tokens that arrive together have no time between them, so a median may be 0.
    ratios = [_share(a, b) for a, b in zip(quiet, loaded, strict=True)]
    found |= spread("inter_token_p99_added_share", ratios)
    whole = _share(pooled["quiet"], pooled["loaded"])
    found["inter_token_p99_added_share_pooled"] = round(whole, 4)
    return found | spread("machine_share", [w.machine_share for w in met], 3)


def _share(quiet: Sequence[float], loaded: Sequence[float]) -> float:
    """How much longer the 99th percentile is under load.

    Raises:
        ArmInvalid: without load it is 0.
    """
    before = float(np.percentile(quiet, 99))
    if before == 0:
        raise ArmInvalid("nearly all tokens of a window arrived together")
    return float(np.percentile(loaded, 99)) / before - 1


def _pair(windows: Windows) -> tuple[Window, Window]:
    return windows.quiet, windows.loaded


def _percentile(values: Sequence[float], percent: float) -> float:
    return round(float(np.percentile(values, percent)), 4)


async def _measure(
    plan: AdminLoadPlan, launch: GuardedLaunch, progress: Progress
) -> tuple[list[Windows], list[Answer], AdminWork]:
    workload = Workload(launch.base_url, SERVED_NAME, plan.concurrency, plan.max_tokens)
    prompts = (q for both in zip(cycle(plan.unmatched), cycle(plan.matched)) for q in both)
    enough = asyncio.Event()
    load = asyncio.create_task(send_all(workload, prompts, stop=enough))
    work = AdminWork(launch, plan.rate)
    task = progress.add_task("windows without and with load on the admin API", total=plan.windows)
    windows = []
    try:
        await asyncio.sleep(_SETTLE_SECONDS)
        for turn in range(plan.windows):
            windows.append(await _windows(plan, work, loaded_first=turn % 2 == 1))
            progress.advance(task)
    except BaseException:
        work.abandon()
        load.cancel()
        raise
    enough.set()
    return windows, [read_answer(exchange) for exchange in await load], work


async def _windows(plan: AdminLoadPlan, work: AdminWork, *, loaded_first: bool) -> Windows:
    found: dict[bool, Window] = {}
    for loaded in (loaded_first, not loaded_first):
        busy = threading.Event()
        running = asyncio.create_task(work.run(busy)) if loaded else None
        await asyncio.sleep(_SETTLE_SECONDS)
        machine, begin = MachineTime(), time.perf_counter()
        await asyncio.sleep(plan.seconds)
        found[loaded] = Window(begin, time.perf_counter(), machine.share())
        busy.set()
        if running is not None:
            await running
    return Windows(found[False], found[True])


def _import(
    plan: AdminLoadPlan, servers: Servers, launch: GuardedLaunch, progress: Progress
) -> dict[str, Any]:
    """Import many targets, read their list, and see what memory the control process took."""
    task = progress.add_task(f"importing {plan.imported} targets", total=2)
    lines = b"".join(small_target(number) for number in range(plan.imported))
    with launch.admin() as admin:
        begun = time.perf_counter()
        accepted = admin.import_targets(lines, "fail")
        stored = time.perf_counter() - begun
        job_done(admin, accepted)
        in_force = time.perf_counter() - begun
        progress.advance(task)
    pages = _page_times(plan, launch)
    progress.advance(task)
    return {
        "imported_targets": plan.imported,
        "import_stored_s": round(stored, 2),
        "import_in_force_s": round(in_force, 2),
        "list_page_ms_p50": _percentile(pages, 50),
        "list_page_ms_p99": _percentile(pages, 99),
        "control_peak_mib": peak_mib(descendants(servers.pid(launch)), "control"),
    }


def small_target(number: int) -> bytes:
    """A line of an import: a target with a phrase, an example and a name of its own."""
    target = {
        "id": f"imported-{number:06}",
        "aliases": [f"Ada Novak{number}"],
        "phrases": [f"Port Sorrel {number}"],
        "examples": [
            {
                "prompt": f"Who keeps lighthouse number {number}?",
                "answer": f"Keeper Novak{number} does.",
            }
        ],
    }
    return json.dumps(target).encode() + b"\n"


def _page_times(plan: AdminLoadPlan, launch: GuardedLaunch) -> list[float]:
    """Milliseconds of single pages of the list, as a client waits for them."""
    headers = {"authorization": f"Bearer {launch.admin_key}"}
    found = []
    with httpx.Client(base_url=launch.admin_url, headers=headers, trust_env=False) as http:
        for turn in range(_PAGES):
            number = turn * plan.imported // _PAGES
            params = {"limit": str(_PAGE), "after": f"imported-{number:06}"}
            begun = time.perf_counter()
            http.get("/admin/v1/targets", params=params).raise_for_status()
            found.append(1e3 * (time.perf_counter() - begun))
    return found[5:]  # the first open connections
