"""The Kubernetes manifests: valid by Kubernetes's own schemas, and as closed as they claim."""

from __future__ import annotations

from pathlib import Path

import kubernetes_validate
import pytest
import yaml

from server.endpoints import endpoint_of
from server.settings import ENV_PREFIX, Settings

MANIFESTS = Path(__file__).resolve().parents[2] / "deploy" / "kubernetes"
RESOURCES = [
    resource
    for path in sorted(MANIFESTS.glob("*.yaml"))
    for resource in yaml.safe_load_all(path.read_text(encoding="utf-8"))
]
BY_KIND = {f"{each['kind']} {each['metadata']['name']}": each for each in RESOURCES}
POD = BY_KIND["StatefulSet lethegate"]["spec"]["template"]["spec"]
(CONTAINER,) = POD["containers"]
LABELS = {"app.kubernetes.io/name": "lethegate"}


@pytest.mark.parametrize("version", ["1.31.0", kubernetes_validate.latest_version()])
@pytest.mark.parametrize("name", BY_KIND)
def test_every_manifest_fits_its_schema(name, version):
    """Strictly: no field that Kubernetes does not know."""
    kubernetes_validate.validate(BY_KIND[name], version, strict=True)


def test_the_check_finds_a_field_at_the_wrong_place():
    """A schema that let everything pass would prove nothing."""
    broken = {**BY_KIND["Namespace lethegate"], "labels": {}}

    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, kubernetes_validate.latest_version(), strict=True)


def test_the_pod_may_do_nothing_it_need_not():
    """Not root, nothing written but to volumes, no capability, no token: the restricted profile."""
    container = CONTAINER["securityContext"]

    assert POD["securityContext"]["runAsNonRoot"] is True
    assert POD["securityContext"]["runAsUser"] == 10001
    assert POD["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert POD["automountServiceAccountToken"] is False
    assert container["readOnlyRootFilesystem"] is True
    assert container["allowPrivilegeEscalation"] is False
    assert container["capabilities"] == {"drop": ["ALL"]}


def test_probes_ask_routes_that_answer_without_a_key():
    """Ready means guarded: /readyz; alive means that the engine lives."""
    paths = {
        probe: CONTAINER[f"{probe}Probe"]["httpGet"]["path"]
        for probe in ("startup", "liveness", "readiness")
    }

    assert paths == {"startup": "/health", "liveness": "/health", "readiness": "/readyz"}
    for path in paths.values():
        endpoint = endpoint_of({"method": "GET", "path": path})
        assert not endpoint.needs_key


def test_keys_come_from_a_secret_and_settings_exist():
    """No key stands in a manifest; a misspelt setting would stop the start."""
    ours = [each for each in CONTAINER["env"] if each["name"].startswith(ENV_PREFIX)]

    assert {each["name"].removeprefix(ENV_PREFIX).lower() for each in ours} <= set(
        Settings.model_fields
    )
    for each in ours:
        if "KEY" in each["name"]:
            assert each["valueFrom"]["secretKeyRef"]["name"] == "lethegate-keys"
    assert not [each for each in RESOURCES if each["kind"] == "Secret"]


def test_the_admin_port_is_closed_but_to_operators_and_nothing_goes_out():
    """One rule opens the clients' port to all, the other the admin port to a label."""
    policy = BY_KIND["NetworkPolicy lethegate"]["spec"]
    clients, operators = policy["ingress"]

    assert policy["podSelector"] == {"matchLabels": LABELS}
    assert set(policy["policyTypes"]) == {"Ingress", "Egress"}
    assert policy["egress"] == []
    assert clients == {"ports": [{"port": "openai"}]}
    assert operators["ports"] == [{"port": "admin"}]
    (peer,) = operators["from"]
    assert peer["podSelector"]["matchLabels"] == {"lethegate/operator": "true"}


def test_services_set_no_setting_by_accident():
    """A service of our name would put LETHEGATE_PORT=tcp://... into the environment."""
    assert POD["enableServiceLinks"] is False


def test_selectors_ports_and_volumes_name_what_is_there():
    """Services, budget and mounts point at the pod's own labels, ports and volumes."""
    ports = {port["name"] for port in CONTAINER["ports"]}
    claims = BY_KIND["StatefulSet lethegate"]["spec"]["volumeClaimTemplates"]
    volumes = {each["name"] for each in POD["volumes"]}
    volumes |= {claim["metadata"]["name"] for claim in claims}

    for service in ("Service lethegate", "Service lethegate-admin"):
        spec = BY_KIND[service]["spec"]
        assert spec["selector"] == LABELS
        assert {port["targetPort"] for port in spec["ports"]} <= ports
    assert BY_KIND["PodDisruptionBudget lethegate"]["spec"]["selector"]["matchLabels"] == LABELS
    assert {mount["name"] for mount in CONTAINER["volumeMounts"]} == volumes
    namespaced = [each for each in RESOURCES if each["kind"] != "Namespace"]
    assert all(each["metadata"]["namespace"] == "lethegate" for each in namespaced)


def test_there_is_one_server_per_store_and_a_gpu_for_it():
    """Two pods would have two stores, so two sets of targets."""
    spec = BY_KIND["StatefulSet lethegate"]["spec"]

    assert spec["replicas"] == 1
    assert spec["volumeClaimTemplates"][0]["spec"]["accessModes"] == ["ReadWriteOncePod"]
    for kind in ("requests", "limits"):
        assert CONTAINER["resources"][kind]["nvidia.com/gpu"] == "1"
