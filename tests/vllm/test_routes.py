"""vLLM's own route table, with everything switched on, against the table of open endpoints."""

import warnings
from types import SimpleNamespace

import pytest

from server.endpoints import CLOSED, ENDPOINTS, Handling

pytestmark = pytest.mark.vllm


@pytest.fixture(scope="module")
def routes():
    """All routes that the pinned vLLM can have, as `METHOD /path`."""
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for variable in ("VLLM_SERVER_DEV_MODE", "VLLM_ALLOW_RUNTIME_LORA_UPDATING"):
            patch.setenv(variable, "1")
        return {f"{method} {route.path}" for route in _app().routes for method in _methods(route)}


def _app():
    """vLLM's app for a model that can do everything, without an engine behind it."""
    from vllm.config import ProfilerConfig
    from vllm.entrypoints.launchers.app import build_app
    from vllm.entrypoints.launchers.cli_args import make_arg_parser
    from vllm.tasks import FRONTEND_TASKS, GENERATION_TASKS, POOLING_TASKS
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    args = make_arg_parser(FlexibleArgumentParser()).parse_args(["model"])
    args.enable_fault_tolerance = args.enable_scale_out = True
    args.profiler_config = ProfilerConfig(profiler="torch", torch_profiler_dir="/nowhere")
    model = SimpleNamespace(get_pooling_task=lambda _tasks: "embed")
    return build_app(args, (*GENERATION_TASKS, *POOLING_TASKS, *FRONTEND_TASKS), model)


def _methods(route):
    kind = type(route).__name__
    if kind == "Mount":
        return ("MOUNT",)
    return (route.methods - {"HEAD"}) if kind != "APIWebSocketRoute" else ("WEBSOCKET",)


def test_every_route_of_vllm_is_open_or_closed_by_name(routes):
    """A route that a new vLLM adds is in neither table, and this test is red until it is."""
    open_routes = {f"{endpoint.method} {path}" for path, endpoint in ENDPOINTS.items()}

    assert routes - open_routes - CLOSED == {"MOUNT /metrics"}


def test_the_tables_name_no_route_twice_and_none_that_vllm_lacks(routes):
    """What is open is not closed, and what vLLM took away leaves the tables."""
    ours = {
        path
        for path, endpoint in ENDPOINTS.items()
        if endpoint.handling in (Handling.READY, Handling.CHECKS)
    }
    open_routes = {f"{e.method} {path}" for path, e in ENDPOINTS.items() if path not in ours}

    assert not open_routes & CLOSED
    assert open_routes | CLOSED <= routes
