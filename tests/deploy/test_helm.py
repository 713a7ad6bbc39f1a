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

    for resource in found.values():
        kubernetes_validate.validate(resource, version, strict=True)
        assert resource["metadata"]["namespace"] == "models"
    assert "NetworkPolicy other" not in found
    assert container["image"] == "example/lethegate:cpu"
    assert container["args"][-4:] == ["--served-model-name", "qwen", "--max-model-len", "4096"]
    assert environment["LETHEGATE_ALPHA"] == "0.01"
    assert environment["LETHEGATE_WATCH_ANSWERS"] == "false"
    assert environment["LETHEGATE_MAX_BODY_BYTES"] == "1000000"
    assert "nvidia.com/gpu" not in container["resources"]["limits"]
    assert pod["imagePullSecrets"] == [{"name": "registry"}]
    selector = found["StatefulSet other"]["spec"]["selector"]["matchLabels"]
    assert found["Service other"]["spec"]["selector"] == selector
    assert found["PodDisruptionBudget other"]["spec"]["selector"]["matchLabels"] == selector


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
    """Every setting that can be named exists; the chart has the version of what it installs."""
    named = set(SCHEMA["properties"]["settings"]["propertyNames"]["enum"])
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text(encoding="utf-8"))

    assert named <= set(Settings.model_fields)
    assert not {name for name in named if "key" in name or "database" in name}
    assert chart["appVersion"] == project["version"]
