"""`lethegate bench gateway`: what stands before the engine costs: Lethegate's gateway, and LiteLLM.

Three arms are asked the same prompts in one run: the plain engine, the guarded one with a target
registered, and LiteLLM's proxy before the plain one. First with vLLM; then, where asked for, with
an engine that only counts, so that nothing is seen but what stands before it.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from rich.progress import Progress

from server.bench.admin_job import job_done
from server.bench.gateway_arms import ARMS, RoundLoad, gateway_figures, measure_round
from server.bench.litellm_proxy import litellm_launch, litellm_version
from server.bench.load import Workload
from server.bench.machine_time import MachineTime
from server.bench.servers import (
    SERVED_NAME,
    GuardedLaunch,
    Launch,
    Servers,
    free_ports,
    guarded_launch,
    plain_launch,
)
from server.bench.unnamed import numbered, registered_names, unnamed_prompts
from server.bench.verdicts import leave_out_matched
from server.settings import ENV_PREFIX

METHOD = (
    "Plain vLLM, the guarded server (a target registered, unmatched prompts) and LiteLLM's proxy "
    "before that plain vLLM, without keys and with one process, run all the time; one at a time is "
    "asked. TTFT and time per chunk: streamed chat completions one after another, every prompt by "
    "all arms in an order that turns; medians of the differences for the same prompt, then the "
    "median over rounds. `known`: the same prompt once more to the guarded server, which remembers "
    "its embedding. Requests/s: a closed loop of short streams. No prefix is cached. `scripted`: "
    "the same before an engine that counts without waiting."
)
# The plain server is asked every prompt twice, which would make its second answer the quicker one.
_NO_PREFIX_CACHE = "--no-enable-prefix-caching"
SCRIPTED = RoundLoad(requests=16, max_tokens=256, burst=96, burst_tokens=8, concurrency=32)


@dataclass(frozen=True, slots=True)
class GatewayPlan:
    """What to measure. `python` has LiteLLM; `scripted` asks for the second engine, too."""

    model: str
    flags: Sequence[str]
    target: bytes
    unmatched: Sequence[str]
    python: Path
    rounds: int
    load: RoundLoad
    scripted: bool = True

    @property
    def turns(self) -> int:
        """Rounds with the one that warms up."""
        return self.rounds + 1


@dataclass(frozen=True, slots=True)
class _Engines:
    """How the two are started; `prefix` is of their figures' keys."""

    plain: Launch
    guarded: GuardedLaunch
    load: RoundLoad
    prefix: str = ""


def bench_gateway(plan: GatewayPlan, progress: Progress) -> dict[str, Any]:
    """Measure with vLLM, then with the scripted engine; gives the report's flat figures.

    Raises:
        BenchError: LiteLLM is not there, a server did not start or died, or a request failed.
    """
    version = litellm_version(plan.python)
    flags, machine = [*plan.flags, _NO_PREFIX_CACHE], MachineTime()
    with Servers() as servers:
        plain = plain_launch(plan.model, flags)
        guarded = guarded_launch(plan.model, flags, servers.state)
        found = _measured(plan, servers, _Engines(plain, guarded, plan.load), progress)
    if plan.scripted:
        with Servers() as servers:
            found |= _measured(plan, servers, _scripted(plan, servers), progress)
    return {
        **found,
        "litellm_version": version,
        "machine_share": round(machine.share(), 3),
        "rounds": plan.rounds,
        **asdict(plan.load),
        "model": Path(plan.model).name,
        "vllm_flags": " ".join(flags),
        "method": METHOD,
    }


def _scripted(plan: GatewayPlan, servers: Servers) -> _Engines:
    """The scripted engine, plain and guarded; the control process is started here."""
    ports = free_ports(3)
    url, guarded_url, admin_url = (f"http://127.0.0.1:{port}" for port in ports)
    command = [sys.executable, "-P", "-m", "server.bench.scripted_engine", plan.model]
    key = "scripted"
    environment = {
        f"{ENV_PREFIX}STATE_DIR": str(servers.state),
        f"{ENV_PREFIX}ADMIN_KEY": key,
        f"{ENV_PREFIX}ADMIN_PORT": str(ports[2]),
    }
    control = [sys.executable, "-P", "-m", "server", "control", "--model", plan.model]
    servers.start(Launch("control", control, admin_url, "/readyz", environment))
    return _Engines(
        Launch("plain", [*command, str(ports[0])], url, "/health"),
        GuardedLaunch(
            name="guarded",
            command=[*command, str(ports[1]), "guarded"],
            base_url=guarded_url,
            ready_path="/readyz",
            environment=environment,
            admin_url=admin_url,
            admin_key=key,
        ),
        replace(SCRIPTED, concurrency=plan.load.concurrency),
        "scripted_",
    )


def _measured(
    plan: GatewayPlan, servers: Servers, engines: _Engines, progress: Progress
) -> dict[str, Any]:
    """Start all, one after the other, and measure all rounds."""
    litellm = litellm_launch(plan.python, servers.directory, engines.plain)
    launches = dict(zip(ARMS, (engines.plain, engines.guarded, litellm), strict=True))
    for launch in launches.values():
        task = progress.add_task(f"starting {engines.prefix}{launch.name}", total=1)
        servers.start(launch)
        progress.advance(task)
    with engines.guarded.admin() as admin:
        job_done(admin, admin.register(plan.target))
    alone, bursts = _prompts(plan, engines, progress)
    rounds = []
    task = progress.add_task("rounds, the first to warm up", total=plan.turns)
    for turn in range(plan.turns):
        rounds.append(measure_round(engines.load, launches, turn, alone, bursts))
        servers.check()
        progress.advance(task)
    return gateway_figures(rounds[1:], engines.prefix)


def _prompts(
    plan: GatewayPlan, engines: _Engines, progress: Progress
) -> tuple[list[str], list[str]]:
    """Prompts of the single requests and of the bursts, none twice, for all rounds."""
    load = engines.load
    task = progress.add_task("screening the unmatched questions", total=len(plan.unmatched))
    workload = Workload(engines.guarded.base_url, SERVED_NAME, 1, load.max_tokens)
    questions = leave_out_matched(
        engines.guarded, workload, plan.unmatched, lambda: progress.advance(task)
    )
    singles, burst = plan.turns * load.requests, plan.turns * load.burst
    first = 4 * singles
    if engines.prefix:  # it says nothing but numbers
        return numbered(questions, 0, singles), numbered(questions, first, burst)
    names = registered_names(engines.guarded, plan.target)

    def chosen(wanted: int, size: int, tokens: int, begin: int) -> list[str]:
        asked = Workload(engines.plain.base_url, SERVED_NAME, load.concurrency, tokens)
        task = progress.add_task("choosing prompts that name nobody", total=wanted)
        return unnamed_prompts(
            asked,
            questions,
            names,
            wanted,
            size,
            lambda count: progress.update(task, completed=count),
            begin,
        )

    return (
        chosen(singles, load.requests, load.max_tokens, 0),
        chosen(burst, load.burst, load.burst_tokens, first),
    )
