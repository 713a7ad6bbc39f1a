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
def test_other_values_give_valid_resources(render, secrets_of, version):
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
