"""The image's recipe and the compose files, as far as they can be checked without a daemon."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from server.settings import ENV_PREFIX, Settings
from tests.scripts import load_script

CHECKOUT = Path(__file__).resolve().parents[2]
DEPLOY = CHECKOUT / "deploy"
DOCKERFILE = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
COMPOSE = yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))
CUDA = yaml.safe_load((DEPLOY / "compose.cuda.yaml").read_text(encoding="utf-8"))
NODES = yaml.safe_load((DEPLOY / "compose.nodes.yaml").read_text(encoding="utf-8"))
POSTGRES = yaml.safe_load((DEPLOY / "compose.postgres.yaml").read_text(encoding="utf-8"))
SERVICES = COMPOSE["services"]
NODE_SERVICES = [NODES["services"][name] for name in ("node-a", "node-b")]


def images():
    manifests = [
        yaml.safe_load(path.read_text(encoding="utf-8"))
        for path in (DEPLOY / "kubernetes").glob("statefulset.yaml")
    ]
    found = [service["image"] for service in (*SERVICES.values(), POSTGRES["services"]["postgres"])]
    found += [each["spec"]["template"]["spec"]["containers"][0]["image"] for each in manifests]
    base = re.search(r"^ARG PYTHON=(\S+)", DOCKERFILE, flags=re.MULTILINE)
    return [*found, f"python:{base[1]}"]


@pytest.mark.parametrize("image", images())
def test_images_have_a_tag_and_name_no_registry(image):
    """A moving tag would change what is tested; where images come from is the operator's choice."""
    name, _, tag = image.partition(":")

    assert tag
    assert tag != "latest"
    assert "." not in name.split("/")[0]


def test_the_image_copies_what_exists_and_no_more_is_sent_to_the_build():
    """Keys, stores and models beside the checkout never reach the builder."""
    copied = {
        source
        for line in re.findall(r"^COPY (?!--from)(.+)$", DOCKERFILE, flags=re.MULTILINE)
        for source in line.split()[:-1]
    }
    first, *rules = [
        line
        for line in (DEPLOY / "Dockerfile.dockerignore").read_text(encoding="utf-8").splitlines()
        if line and not line.startswith("#")
    ]

    assert all((CHECKOUT / source).exists() for source in copied)
    assert first == "*"
    assert {rule.removeprefix("!") for rule in rules if rule.startswith("!")} == copied
    for package in ("server", "guard", "detectors", "tracing"):
        assert package in copied


def test_the_image_is_pinned_not_root_and_tells_its_health():
    """Installed by the hashed lists, run by a number that is not 0, healthy when it guards."""
    last_stage = DOCKERFILE.split("\nFROM ")[-1]

    assert 'deploy/install.py "${ACCELERATOR}" --without-dev' in DOCKERFILE
    assert re.search(r"^USER 10001:10001$", last_stage, flags=re.MULTILINE)
    assert "/readyz" in last_stage[last_stage.index("HEALTHCHECK") :]
    assert 'ENTRYPOINT ["lethegate"]' in last_stage


@pytest.mark.parametrize(
    "names",
    [
        re.findall(rf"\b{ENV_PREFIX}(\w+)=", DOCKERFILE),
        [
            name.removeprefix(ENV_PREFIX)
            for name in SERVICES["lethegate"]["environment"]
            if name.startswith(ENV_PREFIX)
        ],
        [
            name.removeprefix(ENV_PREFIX)
            for service in NODES["services"].values()
            for name in service.get("environment", ())
            if name.startswith(ENV_PREFIX)
        ],
    ],
    ids=["image", "compose", "nodes"],
)
def test_every_setting_given_exists(names):
    """An unknown one would stop the start."""
    assert names
    assert {name.lower() for name in names} <= set(Settings.model_fields)


def test_compose_opens_ports_on_this_machine_only():
    """Whoever opens them to others puts TLS before them."""
    for service in (*SERVICES.values(), *NODE_SERVICES):
        assert all(port.startswith("127.0.0.1:") for port in service["ports"])


def test_compose_writes_to_volumes_only():
    """The server's and Prometheus's root cannot be written, and no capability is kept."""
    for name in ("lethegate", "prometheus"):
        assert SERVICES[name]["read_only"] is True
    for service in SERVICES.values():
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]


def test_compose_mounts_what_exists():
    """Each mounted file of the checkout is there, each named volume is declared."""
    for service in SERVICES.values():
        for mount in service["volumes"]:
            source = mount.split(":")[0]
            if source.startswith("./"):
                assert (DEPLOY / source).exists(), source
            elif not source.startswith("$"):
                assert source in COMPOSE["volumes"]


def test_every_variable_is_in_the_example():
    """Who fills in the example has filled in all that compose insists on."""
    files = "".join(path.read_text("utf-8") for path in DEPLOY.glob("compose*.yaml"))
    needed = set(re.findall(r"\$\{(\w+):\?", files))
    example = (DEPLOY / "compose.env.example").read_text(encoding="utf-8")

    assert needed == set(re.findall(r"^(\w+)=$", example, flags=re.MULTILINE))
    ignored = (CHECKOUT / ".gitignore").read_text(encoding="utf-8").splitlines()
    assert "deploy/compose.env" in ignored


def test_prometheus_reads_its_key_where_compose_puts_it():
    """The server's /metrics needs an auditor's key, since it listens beyond loopback."""
    (secret,) = SERVICES["prometheus"]["secrets"]
    scraped = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text("utf-8"))
    server, control = scraped["scrape_configs"]

    assert server["authorization"]["credentials_file"] == f"/run/secrets/{secret['target']}"
    assert "authorization" not in control
    assert {each["static_configs"][0]["targets"][0] for each in (server, control)} == {
        "lethegate:8000",
        "lethegate:8001",
    }


def test_two_nodes_follow_the_server():
    """Each with a name, a port and volumes of its own, and otherwise as closed as the server."""
    server = SERVICES["lethegate"]
    names, ports, volumes = (
        [each["environment"]["LETHEGATE_NODE_ID"] for each in NODE_SERVICES],
        [port for each in NODE_SERVICES for port in each["ports"]],
        [volume for each in NODE_SERVICES for volume in each["volumes"][1:]],
    )
    scraped = yaml.safe_load((DEPLOY / "prometheus" / "nodes.yml").read_text("utf-8"))
    targets = scraped["scrape_configs"][0]["static_configs"][0]["targets"]

    assert names == ["node-a", "node-b"]
    assert len(set(ports)) == 2
    assert {each.split(":")[0] for each in volumes} == set(NODES["volumes"])
    for node in NODE_SERVICES:
        assert node["environment"]["LETHEGATE_CONTROL_URL"] == "http://lethegate:8001"
        assert "LETHEGATE_ADMIN_KEY" not in node["environment"]
        for same in ("command", "read_only", "cap_drop", "security_opt", "tmpfs", "image"):
            assert node[same] == server[same]
    assert targets == ["lethegate:8000", *(f"{name}:8000" for name in names)]


def test_a_database_is_there_before_the_server_and_reached_by_it_alone():
    """No port is opened for it, no capability kept; the server waits until it answers."""
    server, database = (POSTGRES["services"][name] for name in ("lethegate", "postgres"))
    url = server["environment"]["LETHEGATE_DATABASE_URL"]

    assert "database_url" in Settings.model_fields
    assert url == "postgresql://lethegate:${DATABASE_PASSWORD:?}@postgres/lethegate"
    assert server["depends_on"] == {"postgres": {"condition": "service_healthy"}}
    assert "healthcheck" in database
    assert "ports" not in database
    assert (database["read_only"], database["cap_drop"]) == (True, ["ALL"])
    assert {each.split(":")[0] for each in database["volumes"]} == set(POSTGRES["volumes"])


def test_the_cuda_file_asks_for_a_gpu():
    """And builds the other list of packages."""
    service = CUDA["services"]["lethegate"]
    (device,) = service["deploy"]["resources"]["reservations"]["devices"]

    assert service["build"]["args"] == {"ACCELERATOR": "cuda"}
    assert device["capabilities"] == ["gpu"]


@pytest.mark.parametrize(("dev", "lists"), [(True, ["cpu", "dev"]), (False, ["cpu"])])
def test_an_image_is_installed_without_the_tools(monkeypatch, dev, lists):
    """The same pinned lists, with or without those of the tests."""
    install = load_script(DEPLOY / "install.py")
    commands = []
    monkeypatch.setattr(install, "run", lambda command, environment=None: commands.append(command))
    install.main("cpu", dev=dev)
    (hashed,) = [
        command
        for command in commands
        if "--require-hashes" in command and "uv" in Path(command[0]).name
    ]
    read = [Path(hashed[at + 1]).stem for at, part in enumerate(hashed) if part == "-r"]

    assert read == lists
