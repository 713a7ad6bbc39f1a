"""Helm itself, and the chart as it renders it."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

CHART = Path(__file__).resolve().parents[2] / "deploy" / "helm" / "lethegate"


@pytest.fixture(scope="session")
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


@pytest.fixture(scope="session")
def secrets_of():
    """Tells which variables of a container come from secrets: name and key of each."""

    def found(container):
        sources = {each["name"]: each.get("valueFrom", {}) for each in container["env"]}
        named = {
            name: source["secretKeyRef"]
            for name, source in sources.items()
            if "secretKeyRef" in source
        }
        return {name: (each["name"], each["key"]) for name, each in named.items()}

    return found
