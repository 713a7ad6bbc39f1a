"""`lethegate serve`: vLLM's own OpenAI server with the guard in it, and the control process beside.

The only file of the server that imports vllm. vLLM runs in this process tree with our ASGI
middleware and logits processor; the control process is a child that is started again when it dies,
because nothing in the request path needs it.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from guard.server_life import SERVER_PID, watch_spawned
from server.admin_port import KEEP_ALIVE_SECONDS
from server.auth import admin_key
from server.control import START_AGAIN
from server.errors import StartFault
from server.log import configure_logging, get_logger
from server.settings import CONFIG_ENV, ENV_PREFIX, Settings
from server.settings_sources import as_environment
from server.state_dir import own_directory

MIDDLEWARE = "server.middleware.GuardMiddleware"
# By vLLM's model runner: each takes its own interface only.
PROCESSORS = {
    "v1": "guard.vllm_plugin.v1:GuardLogitsProcessor",
    "v2": "guard.vllm_plugin.v2:GuardLogitsProcessor",
}
# Tells the processors about prompts, so that assistants keep pace and read nothing twice.
WORKER = "guard.vllm_plugin.worker.GuardWorker"
LOGPROBS_MODE = "processed_logprobs"
NODE = ["node", "--with-parent"]
DRAIN_SECONDS = 30
_STOP_SECONDS = 15
_BACKOFF_SECONDS = (0.2, 1.0, 2.0, 5.0, 10.0)

log = get_logger("launch")


def serve(settings: Settings, model: str, vllm_args: list[str]) -> int:
    """Serve a model until SIGTERM or Ctrl-C; returns the exit status, 1 if the engine died.

    Raises:
        StartFault: a vLLM flag or variable conflicts with the guard, or the state directory cannot
            be used. The message says what to change.
    """
    configure_logging(settings.log_level, settings.log_format)
    signal.signal(signal.SIGTERM, _interrupt)
    own_directory(settings.state_dir)
    admin_key(settings)
    _check_environment(os.environ)
    os.environ.update(_environment(settings))
    args = _parse(settings, model, vllm_args)
    _clear_facts(settings.state_dir)
    engine_died = _note_engine_death()
    child = _child(settings, args)
    child.start()
    watch_spawned()
    try:
        _run_vllm(args)
    except KeyboardInterrupt:
        log.info("stopped_while_starting")
    finally:
        child.stop()
    if engine_died.is_set():
        log.error("engine_died")
    return int(child.failed or engine_died.is_set())


def _interrupt(_number: int, _frame: Any) -> None:
    """SIGTERM before vLLM has handlers of its own: leave as Ctrl-C does, ending the children."""
    raise KeyboardInterrupt


def _run_vllm(args: argparse.Namespace) -> None:
    from vllm.entrypoints.cli.serve import ServeSubcommand

    ServeSubcommand.cmd(args)


def _note_engine_death() -> threading.Event:
    """An event that is set when vLLM ends the server because its engine died.

    vLLM ends it then as if it had been told to; whoever supervises it has to see that it was not.
    Read at vLLM 0.32: both modules know the function that sees to the end.
    """
    from vllm.entrypoints.launchers import launcher
    from vllm.entrypoints.serve.exception_handling.handlers import vllm_error

    died, terminate = threading.Event(), launcher.terminate_if_errored

    def terminate_and_note(server: Any, engine: Any) -> None:
        was_ending = server.should_exit
        terminate(server, engine)
        if server.should_exit and not was_ending:
            died.set()

    for module in (launcher, vllm_error):
        vars(module)["terminate_if_errored"] = terminate_and_note
    return died


def _check_environment(environment: Any) -> None:
    refused = {
        "VLLM_USE_RUST_FRONTEND": "the Rust front end bypasses the guard's middleware",
        "VLLM_USE_V2_MODEL_RUNNER": f"the model runner is set with {ENV_PREFIX}MODEL_RUNNER",
        "VLLM_API_KEY": f"client keys are set with {ENV_PREFIX}API_KEYS",
        "VLLM_DEBUG_LOG_API_SERVER_RESPONSE": "it would write answers into the log",
    }
    if environment.get("VLLM_LOGGING_LEVEL", "").upper() == "DEBUG":
        raise StartFault("unset VLLM_LOGGING_LEVEL: at DEBUG requests and answers are logged")
    for variable, reason in refused.items():
        if environment.get(variable, "").lower() not in ("", "0", "false"):
            raise StartFault(f"unset {variable}: {reason}")


def _environment(settings: Settings) -> dict[str, str]:
    """What vLLM's processes and the control process inherit."""
    os.environ.pop(CONFIG_ENV, None)  # its values are in `settings` already
    return {
        **as_environment(settings),
        SERVER_PID: str(os.getpid()),
        # vLLM would tell its makers of every start.
        "VLLM_NO_USAGE_STATS": os.environ.get("VLLM_NO_USAGE_STATS", "1"),
        "VLLM_HTTP_TIMEOUT_KEEP_ALIVE": os.environ.get(
            "VLLM_HTTP_TIMEOUT_KEEP_ALIVE", str(KEEP_ALIVE_SECONDS)
        ),
        # It would keep what the engine said. The gateway stores what clients were shown.
        "VLLM_ENABLE_RESPONSES_API_STORE": "0",
        "VLLM_USE_V2_MODEL_RUNNER": str(int(settings.model_runner == "v2")),
        "VLLM_WORKER_MULTIPROC_METHOD": os.environ.get("VLLM_WORKER_MULTIPROC_METHOD", "spawn"),
    }


def _parse(settings: Settings, model: str, vllm_args: list[str]) -> argparse.Namespace:
    """vLLM's arguments with the guard's parts added.

    Raises:
        StartFault: a flag conflicts with the guard.
    """
    from vllm.entrypoints.launchers.cli_args import make_arg_parser, validate_parsed_serve_args
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    parser = make_arg_parser(FlexibleArgumentParser(prog="lethegate serve"))
    parser.set_defaults(logprobs_mode=LOGPROBS_MODE, shutdown_timeout=DRAIN_SECONDS)
    address = ["--host", settings.host, "--port", str(settings.port)]
    args: argparse.Namespace = parser.parse_args([model, *vllm_args, *address])
    _check_flags(args, settings)
    if settings.assistant_memory_gib > 0 and args.worker_cls == "auto":
        args.worker_cls = WORKER
    if settings.otlp_endpoint is not None and args.otlp_traces_endpoint is None:
        args.otlp_traces_endpoint = settings.otlp_endpoint
        os.environ["OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"] = "http/protobuf"
    args.model = args.model_tag
    # Added last is outermost; of the processors the last has the last word.
    args.middleware = [*(args.middleware or ()), MIDDLEWARE]
    args.logits_processors = [*(args.logits_processors or ()), PROCESSORS[settings.model_runner]]
    validate_parsed_serve_args(args)
    return args


def _check_flags(args: argparse.Namespace, settings: Settings) -> None:
    conflicts = {
        f"drop --logprobs-mode {args.logprobs_mode}: other modes would show forbidden tokens": (
            args.logprobs_mode != LOGPROBS_MODE
        ),
        "drop --grpc: the gRPC server bypasses the guard's middleware": getattr(
            args, "grpc", False
        ),
        "drop --headless: the guard needs vLLM's API server": args.headless,
        "drop --speculative-config or set --model-runner v2: vLLM's V1 model runner takes no "
        "logits processor together with speculative decoding": (
            args.speculative_config is not None and settings.model_runner == "v1"
        ),
        "drop --speculative-config or --assistant-memory-gib: assistants are not subtracted from "
        "drafted tokens": (
            args.speculative_config is not None and settings.assistant_memory_gib > 0
        ),
        f"drop --api-key: client keys are set with {ENV_PREFIX}API_KEYS": bool(args.api_key),
        "drop --enable-log-requests and --enable-log-outputs: they would write prompts and answers "
        "into the log": args.enable_log_requests or args.enable_log_outputs,
    }
    for sentence, is_so in conflicts.items():
        if is_so:
            raise StartFault(sentence)


def _clear_facts(state_dir: Path) -> None:
    """Counters of the last run's workers would be counted as this run's."""
    for path in (state_dir / "facts").glob("*.ledger"):
        path.unlink(missing_ok=True)


def _child(settings: Settings, args: argparse.Namespace) -> Child:
    """The process beside the engine, not started."""
    return Child("node", NODE) if settings.control_url else Child("control", _control(args))


def _control(args: argparse.Namespace) -> list[str]:
    """The arguments of the control process."""
    command = ["control", "--with-parent", "--model", args.model]
    if args.tokenizer:
        command += ["--tokenizer", args.tokenizer]
    if args.trust_remote_code:
        command.append("--trust-remote-code")
    return command


class Child:
    """The control process, or on a node what stands for it: started again when it dies.

    `failed` tells that it cannot start, which ends the server: a wrong address or a locked store
    does not mend itself. Whatever it dies of once it was up, the server goes on.
    """

    def __init__(self, name: str, arguments: list[str]) -> None:
        self._name = name
        self._command = [sys.executable, "-P", "-m", "server", *arguments]
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._supervise, name=name, daemon=True)
        self._process: subprocess.Popen[bytes] | None = None
        # Else one could be started just when `stop` has looked for it.
        self._starting = threading.Lock()
        self.failed = False

    def start(self) -> None:
        """Start it and watch over it."""
        self._thread.start()

    def stop(self) -> None:
        """End it and wait."""
        self._stopping.set()
        with self._starting:
            process = self._process
        if process is not None and process.poll() is None:
            process.terminate()
            try:
                process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
        self._thread.join(_STOP_SECONDS)

    def _supervise(self) -> None:
        attempt = 0
        while not self._stopping.is_set():
            # A process group of its own: Ctrl-C reaches this process, which then ends the child.
            # Not a session of its own: Linux then schedules it as another group of tasks, which
            # beside a busy engine made a registration last 16 to 44 s instead of 6.
            with self._starting:
                if self._stopping.is_set():
                    return
                self._process = subprocess.Popen(self._command, process_group=0)
            status = self._process.wait()
            if self._stopping.is_set():
                return
            if status > 0 and status != START_AGAIN and attempt == 0:
                self.failed = True
                log.error("process_beside_engine_does_not_start", which=self._name)
                os.kill(os.getpid(), signal.SIGTERM)
                return
            pause = _BACKOFF_SECONDS[min(attempt, len(_BACKOFF_SECONDS) - 1)]
            log.warning(
                "process_beside_engine_died",
                which=self._name,
                status=status,
            )
            self._stopping.wait(pause)
            attempt += 1
