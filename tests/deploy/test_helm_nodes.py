"""The Helm chart with nodes: servers and control processes apart, each with what is its own."""

from __future__ import annotations

import kubernetes_validate
import pytest

from server.settings import Settings

TO_POSTGRES = {"to": [{"ipBlock": {"cidr": "10.0.0.5/32"}}], "ports": [{"port": 5432}]}
NODES = {
    "nodes": {"replicas": 3},
    "control": {"replicas": 2, "sharedClaim": "state"},
    "database": {"secret": "postgres"},
    "networkPolicy": {"egress": [TO_POSTGRES]},
}
NODE_KINDS = ("node", "control")


def pods_of(rule):
    """The labels of the pods that a network policy's rule is about."""
    peers = rule.get("from", rule.get("to"))
    return [each.get("podSelector", {}).get("matchLabels") for each in peers]


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


def test_nodes_and_control_processes_have_what_is_theirs(render, secrets_of):
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
    assert "LETHEGATE_CONSOLE_ENDPOINT_URL" not in plain
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
    assert control["policyTypes"] == ["Ingress", "Egress"]
    assert control["egress"][1:] == [TO_POSTGRES]
    url = {"console_endpoint_url": "https://models.example"}
    control = render(NODES | {"settings": url})["NetworkPolicy lethegate-control"]["spec"]
    for policy, peer, port in ((node, controls, "admin"), (control, nodes, "openai")):
        assert policy["policyTypes"] == ["Ingress", "Egress"]
        names, other, further = policy["egress"]
        assert {each["port"] for each in names["ports"]} == {53}
        assert (pods_of(other), other["ports"]) == ([peer], [{"port": port}])
        assert further == TO_POSTGRES


def test_the_console_asks_no_node_unless_told_to(render):
    """No key of whoever is logged in leaves the control process by default."""
    asked = [
        {
            each["name"]: each.get("value")
            for each in render(NODES | {"settings": settings})["StatefulSet lethegate-control"][
                "spec"
            ]["template"]["spec"]["containers"][0]["env"]
        }.get("LETHEGATE_CONSOLE_ENDPOINT_URL")
        for settings in ({}, {"console_endpoint_url": "https://models.example"})
    ]

    assert asked == [None, "https://models.example"]


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
