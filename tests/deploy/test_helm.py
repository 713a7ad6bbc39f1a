"""The Helm chart: what it renders is what the plain manifests are, and valid whatever is set."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import jsonschema
import kubernetes_validate
import pytest
import yaml

from server.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "deploy" / "helm" / "lethegate"
SCHEMA = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))
VALUES = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
CPU = {
    "image": {"repository": "example/lethegate", "tag": "cpu", "pullPolicy": "Always"},
    "imagePullSecrets": ["registry"],
    "model": {"claim": "qwen", "servedName": "qwen", "arguments": ["--max-model-len", "4096"]},
    "settings": {"alpha": "0.01", "watch_answers": False, "max_body_bytes": "1000000"},
    "gpus": 0,
    "state": {"storage": "5Gi", "storageClass": "fast"},
    "networkPolicy": {"enabled": False},
    "encoder": {"claim": "multilingual"},
    "database": {"secret": "postgres", "key": "url"},
    "encryption": {"secret": "sealing", "key": "store.key"},
    "indexes": {"claim": "texts"},
    "drainSeconds": 120,
    "nodeSelector": {"pool": "large"},
    "tolerations": [{"key": "gpu", "operator": "Exists"}],
}
TO_POSTGRES = {"to": [{"ipBlock": {"cidr": "10.0.0.5/32"}}], "ports": [{"port": 5432}]}
NODES = {
    "nodes": {"replicas": 3},
    "control": {"replicas": 2, "sharedClaim": "state"},
    "database": {"secret": "postgres"},
    "networkPolicy": {"egress": [TO_POSTGRES]},
}
NODE_KINDS = ("node", "control")
# What the chart sets by other values than `settings`, or the image.
PLACED = {
    "admin_host",
    "admin_key",
    "admin_port",
    "api_keys",
    "auditor_keys",
    "control_ca_file",
    "control_url",
    "database_url",
    "encryption_key_file",
    "host",
    "index_dir",
    "node_id",
    "node_key",
    "node_keys",
    "port",
    "state_dir",
}


@pytest.fixture(scope="module")
def helm():
    """Helm itself, as a library of Helm's own code."""
    reason = "Helm is not installed (pip install helm-python-sdk)"
    return pytest.importorskip("helm_python", reason=reason)


@pytest.fixture
def render(helm):
    """Renders the chart; gives the resources by kind and name."""

    def rendered(values, name="lethegate", namespace="lethegate"):
        with helm.Chart.load(str(CHART)) as chart:
            chart.validate_schema(values)
            files = chart.render(values, name=name, namespace=namespace)
        found = [
            each
            for path, text in files.items()
            if path.endswith(".yaml")
            for each in yaml.safe_load_all(text)
            if each is not None
        ]
        return {f"{each['kind']} {each['metadata']['name']}": each for each in found}

    return rendered


def secrets_of(container):
    """The variables of a container that come from secrets: name and key of each."""
    found = ((each["name"], each.get("valueFrom", {})) for each in container["env"])
    named = {name: source["secretKeyRef"] for name, source in found if "secretKeyRef" in source}
    return {name: (each["name"], each["key"]) for name, each in named.items()}


def pods_of(rule):
    """The labels of the pods that a network policy's rule is about."""
    peers = rule.get("from", rule.get("to"))
    return [each.get("podSelector", {}).get("matchLabels") for each in peers]


def test_helm_finds_nothing_wrong(helm):
    """Nothing beside the picture that a chart may have."""
    found = helm.lint(str(CHART))

    assert found["errors"] == []
    assert [each["error"] for each in found["messages"]] == ["icon is recommended"]


def test_by_default_it_is_the_plain_manifests(render):
    """Resource by resource; the namespace is made by whoever installs."""
    plain = {
        f"{each['kind']} {each['metadata']['name']}": each
        for path in (ROOT / "deploy" / "kubernetes").glob("*.yaml")
        for each in yaml.safe_load_all(path.read_text(encoding="utf-8"))
        if each["kind"] != "Namespace"
    }

    assert render({}) == plain


@pytest.mark.parametrize("version", ["1.31.0", kubernetes_validate.latest_version()])
def test_other_values_give_valid_resources(render, version):
    """On the CPU, under another name: every resource fits its schema, and says what was set."""
    found = render(CPU, name="other", namespace="models")
    pod = found["StatefulSet other"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    environment = {each["name"]: each.get("value") for each in container["env"]}
    mounted = {each["name"]: each["mountPath"] for each in container["volumeMounts"]}
    volumes = {each["name"]: each for each in pod["volumes"]}

    for resource in found.values():
        kubernetes_validate.validate(resource, version, strict=True)
        assert resource["metadata"]["namespace"] == "models"
    assert "NetworkPolicy other" not in found
    assert container["image"] == "example/lethegate:cpu"
    assert container["args"][2:4] == ["--served-model-name", "qwen"]
    assert container["args"][-2:] == ["--max-model-len", "4096"]
    assert environment["LETHEGATE_ALPHA"] == "0.01"
    assert environment["LETHEGATE_WATCH_ANSWERS"] == "false"
    assert environment["LETHEGATE_MAX_BODY_BYTES"] == "1000000"
    assert "nvidia.com/gpu" not in container["resources"]["limits"]
    assert pod["imagePullSecrets"] == [{"name": "registry"}]
    assert container["args"][4:6] == ["--shutdown-timeout", "120"]
    assert pod["terminationGracePeriodSeconds"] == 150
    assert (pod["nodeSelector"], len(pod["tolerations"])) == ({"pool": "large"}, 1)
    assert environment["LETHEGATE_ENCODER"] == mounted["encoder"]
    assert environment["LETHEGATE_INDEX_DIR"] == mounted["indexes"]
    assert environment["LETHEGATE_ENCRYPTION_KEY_FILE"] == f"{mounted['encryption']}/key"
    assert volumes["encryption"]["secret"]["items"] == [{"key": "store.key", "path": "key"}]
    assert volumes["encryption"]["secret"]["defaultMode"] == 0o440
    assert secrets_of(container)["LETHEGATE_DATABASE_URL"] == ("postgres", "url")
    assert set(mounted) == {*volumes, "state"}
    selector = found["StatefulSet other"]["spec"]["selector"]["matchLabels"]
    assert found["Service other"]["spec"]["selector"] == selector
    assert found["PodDisruptionBudget other"]["spec"]["selector"]["matchLabels"] == selector


@pytest.mark.parametrize("version", ["1.31.0", kubernetes_validate.latest_version()])
def test_nodes_follow_control_processes(render, version):
    """Pods of two kinds: each fits its schema, and every service and policy finds one kind only."""
    found = render(NODES)
    node, control = (found[f"StatefulSet lethegate-{kind}"]["spec"] for kind in ("node", "control"))

    for resource in found.values():
        kubernetes_validate.validate(resource, version, strict=True)
    assert "StatefulSet lethegate" not in found
    assert (node["replicas"], control["replicas"]) == (3, 2)
    nodes, controls = (each["selector"]["matchLabels"] for each in (node, control))
    assert nodes != controls
    assert found["Service lethegate"]["spec"]["selector"] == nodes
    assert found["Service lethegate-nodes"]["spec"]["selector"] == nodes
    assert found["Service lethegate-admin"]["spec"]["selector"] == controls
    for kind, labels in (("node", nodes), ("control", controls)):
        for resource in ("PodDisruptionBudget", "NetworkPolicy"):
            spec = found[f"{resource} lethegate-{kind}"]["spec"]
            selector = spec.get("selector") or spec["podSelector"]
            assert selector["matchLabels"] == labels
        assert found[f"PodDisruptionBudget lethegate-{kind}"]["spec"]["maxUnavailable"] == 1
    assert {node["serviceName"], control["serviceName"]} == {"lethegate-nodes", "lethegate-admin"}


def test_nodes_and_control_processes_have_what_is_theirs(render):
    """Nodes no admin's key, store or admin port; control processes no GPU and no client's keys."""
    found = render(NODES | {"encryption": {"secret": "sealing"}})
    pods = [
        found[f"StatefulSet lethegate-{kind}"]["spec"]["template"]["spec"] for kind in NODE_KINDS
    ]
    node, control = (each["containers"][0] for each in pods)
    plain = {each["name"]: each.get("value") for each in (*node["env"], *control["env"])}
    theirs, ours = secrets_of(node), secrets_of(control)

    assert set(theirs) == {f"LETHEGATE_{each}" for each in ("API_KEYS", "AUDITOR_KEYS", "NODE_KEY")}
    assert (
        theirs["LETHEGATE_NODE_KEY"]
        == ours["LETHEGATE_NODE_KEYS"]
        == (
            "lethegate-keys",
            "node-key",
        )
    )
    assert ours["LETHEGATE_DATABASE_URL"] == ("postgres", "database-url")
    assert "LETHEGATE_API_KEYS" not in ours
    assert plain["LETHEGATE_CONTROL_URL"] == ",".join(
        f"http://lethegate-control-{at}.lethegate-admin.lethegate:8001" for at in range(2)
    )
    assert plain["LETHEGATE_CONSOLE_ENDPOINT_URL"] == "http://lethegate.lethegate:8000"
    (name,) = (each for each in node["env"] if each["name"] == "LETHEGATE_NODE_ID")
    assert name["valueFrom"] == {"fieldRef": {"fieldPath": "metadata.name"}}
    assert [each["name"] for each in node["ports"]] == ["openai"]
    assert [each["name"] for each in control["ports"]] == ["admin"]
    assert "nvidia.com/gpu" in node["resources"]["limits"]
    assert "nvidia.com/gpu" not in control["resources"]["limits"]
    assert "encryption" in {each["name"] for each in control["volumeMounts"]}
    assert "encryption" not in {each["name"] for each in node["volumeMounts"]}
    assert control["args"] == ["control", "--model", "/models/model"]
    settings = {f"LETHEGATE_{name.upper()}" for name in Settings.model_fields}
    assert {each["name"] for each in (*node["env"], *control["env"])} - settings == {
        "HF_HUB_OFFLINE"
    }


def test_a_node_that_is_behind_is_taken_out_not_restarted(render):
    """Alive is the engine, ready is that it may serve; control processes have their own probes."""
    found = render(NODES)
    node, control = (
        found[f"StatefulSet lethegate-{kind}"]["spec"]["template"]["spec"]["containers"][0]
        for kind in NODE_KINDS
    )
    asked = [
        {name: each[f"{name}Probe"]["httpGet"]["path"] for name in ("liveness", "readiness")}
        for each in (node, control)
    ]

    assert asked[0] == {"liveness": "/health", "readiness": "/readyz"}
    assert asked[1] == {"liveness": "/livez", "readiness": "/readyz"}


def test_nodes_are_replaced_one_by_one_and_may_finish(render):
    """The next one waits until the last is ready; the end waits for answers under way."""
    spec = render(NODES | {"drainSeconds": 90})["StatefulSet lethegate-node"]["spec"]
    pod = spec["template"]["spec"]
    (container,) = pod["containers"]
    pause = int(container["lifecycle"]["preStop"]["exec"]["command"][1])
    drain = int(container["args"][container["args"].index("--shutdown-timeout") + 1])

    assert spec["updateStrategy"] == {"type": "RollingUpdate"}
    assert spec["minReadySeconds"] > 0
    assert drain == 90
    # What `server.launch` grants its children comes after the drain.
    assert pod["terminationGracePeriodSeconds"] >= pause + drain + 15


def test_the_control_port_is_open_to_nodes_and_operators_only(render):
    """And whoever goes out goes to each other, to the names' server, and where values say."""
    found = render(NODES)
    node, control = (found[f"NetworkPolicy lethegate-{kind}"]["spec"] for kind in NODE_KINDS)
    nodes, controls = (each["podSelector"]["matchLabels"] for each in (node, control))

    assert node["ingress"] == [{"ports": [{"port": "openai"}]}]
    assert [each["ports"] for each in control["ingress"]] == [[{"port": "admin"}]] * 2
    assert [pods_of(each) for each in control["ingress"]] == [
        [{"lethegate/operator": "true"}],
        [nodes],
    ]
    for policy, peer, port in ((node, controls, "admin"), (control, nodes, "openai")):
        assert policy["policyTypes"] == ["Ingress", "Egress"]
        names, other, further = policy["egress"]
        assert {each["port"] for each in names["ports"]} == {53}
        assert (pods_of(other), other["ports"]) == ([peer], [{"port": port}])
        assert further == TO_POSTGRES


def test_several_control_processes_share_a_state_directory(render):
    """One has a claim of its own; several mount the one that is named, and have no other."""
    shared = render(NODES)["StatefulSet lethegate-control"]["spec"]
    alone = render({"nodes": {"replicas": 2}})
    own = alone["StatefulSet lethegate-control"]["spec"]
    volumes = {each["name"]: each for each in shared["template"]["spec"]["volumes"]}

    assert "volumeClaimTemplates" not in shared
    assert volumes["state"]["persistentVolumeClaim"] == {"claimName": "state"}
    assert own["volumeClaimTemplates"][0]["spec"]["accessModes"] == ["ReadWriteOncePod"]
    assert "PodDisruptionBudget lethegate-control" not in alone


def test_nodes_may_follow_a_control_process_elsewhere(render):
    """Over TLS, with certificates of its own; then there is none here, nor a way to one."""
    found = render(
        {
            "nodes": {
                "replicas": 1,
                "controlUrl": "https://control.internal:8443",
                "controlCa": "own-ca",
            },
            "control": {"replicas": 0},
        }
    )
    pod = found["StatefulSet lethegate-node"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    plain = {each["name"]: each.get("value") for each in container["env"]}
    mounted = {each["name"]: each["mountPath"] for each in container["volumeMounts"]}

    assert not [name for name in found if "control" in name or "admin" in name]
    assert plain["LETHEGATE_CONTROL_URL"] == "https://control.internal:8443"
    assert plain["LETHEGATE_CONTROL_CA_FILE"] == f"{mounted['control-ca']}/ca.crt"
    assert found["NetworkPolicy lethegate-node"]["spec"]["egress"] == []


@pytest.mark.parametrize(
    "values",
    [
        {"control": {"replicas": 2}},
        {"control": {"replicas": 2, "sharedClaim": "state"}},
        {"control": {"replicas": 2}, "database": {"secret": "postgres"}},
        {"nodes": {"replicas": 2}, "control": {"replicas": 0}},
        {"nodes": {"controlUrl": "control:8001"}},
    ],
)
def test_what_does_not_go_together_is_refused(values):
    """Several control processes without what they share; nodes that follow nobody."""
    merged = VALUES | {name: VALUES[name] | part for name, part in values.items()}

    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(merged, SCHEMA)


def test_two_encoders_are_refused(helm):
    """One setting has one place."""
    values = {"settings": {"encoder": "x"}, "encoder": {"claim": "y"}}
    with helm.Chart.load(str(CHART)) as chart, pytest.raises(helm.HelmError, match="exclude"):
        chart.render(values, name="lethegate", namespace="lethegate")


@pytest.mark.parametrize(
    "values",
    [
        {"more": {}},
        {"settings": {"no_such_setting": "0.01"}},
        {"settings": {"admin_key": "secret"}},
        {"settings": {"max_body_bytes": 1000000}},
        {"gpus": -1},
        {"replicas": 2},
    ],
)
def test_what_is_misspelt_is_refused(values):
    """By the values' schema, with which Helm refuses to install; nor are keys taken there."""
    jsonschema.validate(VALUES, SCHEMA)

    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(VALUES | values, SCHEMA)


def test_what_is_misspelt_is_refused_by_helm(helm):
    """With its own reading of the schema."""
    with helm.Chart.load(str(CHART)) as chart, pytest.raises(helm.HelmError):
        chart.validate_schema({"settings": {"no_such_setting": "0.01"}})


def test_settings_and_versions_are_those_of_the_code():
    """Every setting has one place; the chart has the version of what it installs."""
    named = set(SCHEMA["properties"]["settings"]["propertyNames"]["enum"])
    templates = "".join(path.read_text("utf-8") for path in (CHART / "templates").iterdir())
    image = (ROOT / "deploy" / "Dockerfile").read_text("utf-8")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text(encoding="utf-8"))

    assert named | PLACED == set(Settings.model_fields)
    assert not named & PLACED
    for name in PLACED:
        assert f"LETHEGATE_{name.upper()}" in templates + image
    assert chart["appVersion"] == project["version"]
