"""How the server's settings become vLLM's arguments and environment."""

import importlib
import itertools
import os
import re
import shlex
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("vllm", reason="vLLM is not installed")

from server import launch
from server.admin_port import uvicorn_server
from server.errors import StartFault
from server.settings import Settings

# Importing all of vLLM warns about parts of torch.
pytestmark = [pytest.mark.vllm, pytest.mark.filterwarnings("ignore::DeprecationWarning")]
ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [
    path
    for path in (ROOT / "README.md", *sorted((ROOT / "docs" / "pages").rglob("*.md")))
    if "\nlethegate serve " in path.read_text(encoding="utf-8")
]
SPECULATIVE = ["--speculative-config", '{"method": "ngram", "num_speculative_tokens": 2}']


def settings(tmp_path, runner, **more):
    return Settings(state_dir=tmp_path, model_runner=runner, **more)


@pytest.mark.parametrize(("runner", "variable"), [("v1", "0"), ("v2", "1")])
def test_each_runner_has_its_processor(tmp_path, runner, variable):
    """The class and vLLM's variable belong together; vLLM would refuse a mixed pair."""
    args = launch._parse(settings(tmp_path, runner), "model", [])
    module, _, name = args.logits_processors[-1].partition(":")

    assert module == f"guard.vllm_plugin.{runner}"
    assert hasattr(importlib.import_module(module), name)
    assert variable == launch._environment(settings(tmp_path, runner))["VLLM_USE_V2_MODEL_RUNNER"]


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--logprobs-mode", "raw_logprobs"], "drop --logprobs-mode raw_logprobs"),
        (["--grpc"], "drop --grpc"),
        (["--headless"], "drop --headless"),
        (["--api-key", "k"], "LETHEGATE_API_KEYS"),
        (["--enable-log-requests"], "drop --enable-log-requests"),
        (["--enable-log-requests", "--enable-log-outputs"], "--enable-log-outputs"),
    ],
)
def test_flags_that_do_not_go_with_the_guard(tmp_path, flags, told):
    """The start stops with a sentence that says what to change."""
    with pytest.raises(StartFault, match=told):
        launch._parse(settings(tmp_path, "v1"), "model", flags)


def test_vllm_sends_its_traces_to_the_same_place(tmp_path, monkeypatch):
    """By the gateway's protocol, unless its own flag names another place; by default nowhere."""
    protocol = "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"
    monkeypatch.setenv(protocol, "grpc")
    ours = settings(tmp_path, "v1", otlp_endpoint="http://127.0.0.1:4318/v1/traces")
    own = ["--otlp-traces-endpoint", "http://127.0.0.1:4317"]

    assert launch._parse(settings(tmp_path, "v1"), "model", []).otlp_traces_endpoint is None
    assert launch._parse(ours, "model", own).otlp_traces_endpoint == own[1]
    assert os.environ[protocol] == "grpc"
    assert launch._parse(ours, "model", []).otlp_traces_endpoint == ours.otlp_endpoint
    assert os.environ[protocol] == "http/protobuf"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_vllm_takes_the_documents_flags(tmp_path, document, blocks_of):
    """Every `lethegate serve` of a document is one that vLLM and the guard would start with."""
    for block in blocks_of(document):
        for line in re.findall(r"^lethegate serve (.+)$", block.text, re.MULTILINE):
            words = shlex.split(line, comments=True)
            given = dict(itertools.pairwise(words))
            known = {f"--{name.replace('_', '-')}": name for name in Settings.model_fields}
            ours = {known[flag]: value for flag, value in given.items() if flag in known}
            rest = [w for at, w in enumerate(words) if not {w, words[at - 1]} & known.keys()]

            assert launch._parse(settings(tmp_path, "v1", **ours), rest[0], rest[1:]).model


@pytest.mark.parametrize(
    ("variable", "told"),
    [
        ("VLLM_USE_RUST_FRONTEND", "Rust front end"),
        ("VLLM_API_KEY", "LETHEGATE_API_KEYS"),
        ("VLLM_DEBUG_LOG_API_SERVER_RESPONSE", "log"),
    ],
)
def test_variables_that_do_not_go_with_the_guard(variable, told):
    """What bypasses the guard from the environment stops the start too, unless it is off."""
    with pytest.raises(StartFault, match=f"unset {variable}: .*{told}"):
        launch._check_environment({variable: "1"})
    launch._check_environment({variable: "0"})


def test_nobody_is_told_of_a_start(tmp_path, monkeypatch):
    """vLLM's usage statistics are off, unless the operator's environment says otherwise."""
    monkeypatch.delenv("VLLM_NO_USAGE_STATS", raising=False)
    found = launch._environment(settings(tmp_path, "v1"))
    monkeypatch.setenv("VLLM_NO_USAGE_STATS", "0")

    assert found["VLLM_NO_USAGE_STATS"] == "1"
    assert launch._environment(settings(tmp_path, "v1"))["VLLM_NO_USAGE_STATS"] == "0"


def test_idle_connections_outlive_clients_pools(tmp_path, monkeypatch):
    """Of the API and of the admin API: httpx keeps one for 5 seconds, nginx for 60."""
    variable = "VLLM_HTTP_TIMEOUT_KEEP_ALIVE"
    monkeypatch.delenv(variable, raising=False)
    found = launch._environment(settings(tmp_path, "v1"))
    monkeypatch.setenv(variable, "9")

    assert int(found[variable]) > 60
    assert launch._environment(settings(tmp_path, "v1"))[variable] == "9"
    assert uvicorn_server(None).config.timeout_keep_alive > 60


def test_nothing_is_served_while_texts_are_logged():
    """vLLM's most talkative level writes requests and answers down."""
    with pytest.raises(StartFault, match="unset VLLM_LOGGING_LEVEL"):
        launch._check_environment({"VLLM_LOGGING_LEVEL": "debug"})
    launch._check_environment({"VLLM_LOGGING_LEVEL": "INFO"})


@pytest.mark.parametrize("module", ["launcher", "vllm_error"])
def test_an_engine_that_dies_is_noted(monkeypatch, module):
    """vLLM then ends the server as if it had been told to; the exit status must say otherwise."""
    from vllm.entrypoints.launchers import launcher
    from vllm.entrypoints.serve.exception_handling.handlers import vllm_error

    for each in (launcher, vllm_error):
        monkeypatch.setattr(each, "terminate_if_errored", launcher.terminate_if_errored)
    modules = {"launcher": launcher, "vllm_error": vllm_error}
    alive = SimpleNamespace(errored=False, is_running=True)
    dead = SimpleNamespace(errored=True, is_running=False)
    died = launch._note_engine_death()
    server, told_to_end = SimpleNamespace(should_exit=False), SimpleNamespace(should_exit=True)
    terminate = modules[module].terminate_if_errored
    terminate(server=server, engine=alive)
    terminate(told_to_end, dead)

    assert not died.is_set()

    terminate(server, dead)

    assert server.should_exit
    assert died.is_set()


def test_hub_names_pass_and_answers_may_end(tmp_path):
    """The model reaches vLLM and the control process as it was given; SIGTERM waits for streams."""
    args = launch._parse(settings(tmp_path, "v1"), "Org/Name-0.6B", [])
    command = launch._control(args)

    assert args.model == args.model_tag == "Org/Name-0.6B"
    assert command[command.index("--model") + 1] == "Org/Name-0.6B"
    assert args.shutdown_timeout == 30
    assert args.logprobs_mode == "processed_logprobs"


def test_speculative_decoding_needs_v2(tmp_path):
    """The V1 runner takes no processor beside it, so it would run unguarded or not at all."""
    args = launch._parse(settings(tmp_path, "v2"), "model", SPECULATIVE)

    assert args.speculative_config is not None
    with pytest.raises(StartFault, match="--model-runner v2"):
        launch._parse(settings(tmp_path, "v1"), "model", SPECULATIVE)


def test_assistants_and_drafts_exclude_each_other(tmp_path):
    """A target with an assistant would be refused later, request by request."""
    with pytest.raises(StartFault, match="drafted"):
        launch._parse(settings(tmp_path, "v2", assistant_memory_gib=1), "model", SPECULATIVE)


def test_a_worker_that_tells_how_far_prompts_are_read(tmp_path):
    """Only where there may be assistants, and never in place of another one."""

    def worker(runner, *flags, **more):
        return launch._parse(settings(tmp_path, runner, **more), "model", flags).worker_cls

    for runner in ("v1", "v2"):
        assert worker(runner, assistant_memory_gib=1) == launch.WORKER
        assert worker(runner) == "auto"
    assert worker("v1", "--worker-cls", "a.B", assistant_memory_gib=1) == "a.B"


def test_the_runner_is_not_chosen_behind_the_guards_back(tmp_path):
    """vLLM's own variable would pick a runner that the processor does not fit."""
    with pytest.raises(StartFault, match="LETHEGATE_MODEL_RUNNER"):
        launch._check_environment({"VLLM_USE_V2_MODEL_RUNNER": "1"})
