"""LiteLLM's proxy, run by the interpreter of an environment of its own, before a server of ours."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from server.bench.errors import InputMissing
from server.bench.servers import SERVED_NAME, Launch, free_ports

_VERSION = "from importlib.metadata import version; print(version('litellm'))"
_START = "from litellm import run_server; run_server()"
_TRY_SECONDS = 120
# It would fetch prices and tell of its use.
_ENVIRONMENT = {
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "LITELLM_TELEMETRY": "False",
    "LITELLM_LOG": "ERROR",
    # Ours, where this was started from a checkout.
    "PYTHONPATH": "",
}


def litellm_version(python: Path) -> str:
    """The version of an interpreter's LiteLLM.

    Raises:
        InputMissing: it has none.
    """
    command = [str(python), "-c", _VERSION]
    try:
        found = subprocess.run(command, check=True, capture_output=True, timeout=_TRY_SECONDS)
    except (OSError, subprocess.SubprocessError):
        raise InputMissing(f"{python} has no package litellm[proxy]") from None
    return found.stdout.decode().strip()


def litellm_launch(python: Path, directory: Path, upstream: Launch) -> Launch:
    """LiteLLM's proxy with one process, no keys and no database, before `upstream`.

    Its configuration is written into `directory`.
    """
    (port,) = free_ports(1)
    served = {
        "model_name": SERVED_NAME,
        "litellm_params": {
            "model": f"hosted_vllm/{SERVED_NAME}",
            "api_base": f"{upstream.base_url}/v1",
            "api_key": "none",
        },
    }
    found = {
        "model_list": [served],
        "litellm_settings": {"num_retries": 0, "telemetry": False},
        # On loopback, for as long as the bench runs; checking keys would cost it time.
        "general_settings": {"dangerously_permit_weak_or_unset_master_key": True},
    }
    # JSON is YAML.
    config = directory / f"litellm-{upstream.name}.yaml"
    config.write_text(json.dumps(found))
    command = [str(python), "-c", _START, "--config", str(config)]
    command += ["--host", "127.0.0.1", "--port", str(port), "--num_workers", "1"]
    return Launch(
        name="litellm",
        command=command,
        base_url=f"http://127.0.0.1:{port}",
        ready_path="/health/liveliness",
        environment=_ENVIRONMENT,
    )
