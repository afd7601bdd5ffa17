"""The Helm chart, rendered by Helm's own engine: what Kubernetes accepts, and what is locked."""

import json
from functools import cache
from pathlib import Path

import pytest

yaml = pytest.importorskip("yaml")
helm = pytest.importorskip("helm_python", reason="helm-python-sdk has no build for this machine")

CHART = Path(__file__).resolve().parents[2] / "deploy" / "kubernetes" / "fedsim"
EXAMPLES = {path.stem: path for path in sorted((CHART / "examples").glob("*.yaml"))}
SERVER = {
    "server": {"enabled": True, "bundleSecret": "fedsim-server", "address": "fed.example.org"},
    "gateway": {"tlsSecret": "fedsim-gateway"},
}
NODE = {"name": "hospital-a", "bundleSecret": "fedsim-hospital-a"}


def example(name):
    return yaml.safe_load(EXAMPLES[name].read_text())


def objects_in(text):
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    return [found for found in yaml.load_all(text, loader) if found]


def render(values, release="demo"):
    """Every object of the chart for these values, checked against the schema as an install does."""
    with helm.Chart.load(CHART) as chart:
        chart.validate_schema(values)
        files = chart.render(values, name=release, namespace="fed")
    texts = [text for name, text in sorted(files.items()) if not name.endswith("NOTES.txt")]
    return [found for text in texts for found in objects_in(text)]


@cache
def rendered(name):
    return render(example(name))


def pods(objects):
    """(name, pod spec, labels) of everything that runs."""
    for found in objects:
        if found["kind"] == "Pod":
            yield found["metadata"]["name"], found["spec"], found["metadata"]["labels"]
        elif "template" in found.get("spec", {}):
            template = found["spec"]["template"]
            yield found["metadata"]["name"], template["spec"], template["metadata"]["labels"]


def containers(spec):
    return [*spec.get("initContainers", []), *spec["containers"]]


def of_kind(objects, kind):
    return {found["metadata"]["name"]: found for found in objects if found["kind"] == kind}


@pytest.mark.parametrize("name", EXAMPLES)
def test_helm_finds_nothing_to_warn_of(name):
    report = helm.lint(CHART, example(name), strict=True, kube_version="v1.34.0")
    assert report["errors"] == []
    found = {message["error"] for message in report["messages"]}
    assert found <= {"icon is recommended"}


@pytest.mark.parametrize("version", ["1.27.0", "1.37.0"])
@pytest.mark.parametrize("name", EXAMPLES)
def test_kubernetes_accepts_every_object(name, version):
    validate = pytest.importorskip("kubernetes_validate").validate
    for found in rendered(name):
        validate(found, version, strict=True)


@pytest.mark.parametrize("name", EXAMPLES)
def test_names_are_unique_and_in_the_release_s_namespace(name):
    found = [(o["kind"], o["metadata"]["name"], o["metadata"]["namespace"]) for o in rendered(name)]
    assert len(found) == len(set(found))
    assert {namespace for _, _, namespace in found} == {"fed"}


def test_what_each_install_consists_of():
    def workloads(name):
        return {pod for pod, _, _ in pods(rendered(name))}

    assert workloads("server") == {"demo-server", "demo-gateway", "demo-test"}
    assert workloads("node") == {"demo-node-hospital-a"}
    assert workloads("all") == workloads("server") | {f"demo-node-node-{n}" for n in "abc"}


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_pod_meets_the_restricted_standard(name):
    """Kubernetes' Pod Security Standards, "restricted", and what they leave open."""
    found = list(pods(rendered(name)))
    assert found
    for pod, spec, _ in found:
        own = spec["securityContext"]
        assert own["runAsNonRoot"] is True, pod
        assert own["runAsUser"] > 0, pod
        assert own["runAsGroup"] > 0, pod
        assert own["seccompProfile"] == {"type": "RuntimeDefault"}, pod
        assert spec["automountServiceAccountToken"] is False, pod
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(spec), pod
        for container in containers(spec):
            locked = container["securityContext"]
            assert locked["allowPrivilegeEscalation"] is False, container["name"]
            assert locked["privileged"] is False, container["name"]
            assert locked["readOnlyRootFilesystem"] is True, container["name"]
            assert locked["capabilities"] == {"drop": ["ALL"]}, container["name"]
        kinds = {kind for volume in spec["volumes"] for kind in volume if kind != "name"}
        assert kinds <= {"secret", "configMap", "emptyDir", "persistentVolumeClaim"}, pod


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_container_has_limits(name):
    for _, spec, _ in pods(rendered(name)):
        for container in containers(spec):
            for side in ("requests", "limits"):
                found = container["resources"][side]
                assert {"cpu", "memory", "ephemeral-storage"} <= set(found), container["name"]
        for volume in spec["volumes"]:
            if "emptyDir" in volume:
                assert volume["emptyDir"]["sizeLimit"], volume["name"]


@pytest.mark.parametrize("name", EXAMPLES)
def test_no_secret_is_made_and_none_is_in_the_environment(name):
    objects = rendered(name)
    assert not of_kind(objects, "Secret")
    for _, spec, _ in pods(objects):
        for container in containers(spec):
            assert "envFrom" not in container
            for variable in container.get("env", []):
                assert "secretKeyRef" not in variable.get("valueFrom", {}), variable
                assert "password" not in variable["name"].lower(), variable
        for volume in spec["volumes"]:
            if "secret" in volume:  # 0440: for the group that `fsGroup` makes the pod's own
                assert volume["secret"]["defaultMode"] == 0o440


@pytest.mark.parametrize("name", EXAMPLES)
def test_what_a_server_or_node_keeps_is_on_a_claim_and_mounted_where_it_writes(name):
    for found in of_kind(rendered(name), "StatefulSet").values():
        (claim,) = found["spec"]["volumeClaimTemplates"]
        (container,) = found["spec"]["template"]["spec"]["containers"]
        where = {mount["mountPath"]: mount for mount in container["volumeMounts"]}
        assert where["/federation"] == {
            "name": claim["metadata"]["name"],
            "mountPath": "/federation",
        }
        assert container["args"][-1] == "/federation/bundle"
        assert found["spec"]["replicas"] == 1


def selects(selector, labels):
    return all(labels.get(key) == value for key, value in selector["matchLabels"].items())


def allowed(objects, caller, called, port):
    """Whether policies let `caller` (labels) open `port` of `called` (labels).

    As the API says: both ends must allow it; an end that a policy selects allows what one lists.
    """

    def side(labels, kind, peer_key, peer):
        chosen = [
            policy["spec"]
            for policy in of_kind(objects, "NetworkPolicy").values()
            if selects(policy["spec"]["podSelector"], labels)
            and kind in policy["spec"]["policyTypes"]
        ]
        if not chosen:
            return True
        return any(
            any(p["port"] == port for p in rule["ports"])
            and any(selects(p["podSelector"], peer) for p in rule[peer_key]
                    if "podSelector" in p and "namespaceSelector" not in p)
            for spec in chosen
            for rule in spec.get(kind.lower()) or []
        )  # fmt: skip

    return side(caller, "Egress", "to", called) and side(called, "Ingress", "from", caller)


def test_who_reaches_whom():
    objects = rendered("all")
    labels = {pod: found for pod, _, found in pods(objects)}
    labels["operator"] = {"fedsim.io/role": "operator"}
    labels["stranger"] = {"app": "stranger"}
    open_ = {
        (a, b) for a in labels for b in labels if allowed(objects, labels[a], labels[b], 8000)
    } - {(a, b) for a in ("operator", "stranger") for b in ("operator", "stranger")}
    nodes = {f"demo-node-node-{n}" for n in "abc"}
    assert open_ == {(node, "demo-gateway") for node in nodes} | {
        ("demo-gateway", "demo-server"),
        ("demo-test", "demo-gateway"),
        ("operator", "demo-server"),
    }


def test_a_server_reaches_its_database_and_nothing_else():
    policy = of_kind(rendered("server"), "NetworkPolicy")["demo-server"]["spec"]
    (rule,) = policy["egress"]
    assert rule["to"] == example("server")["server"]["database"]["peers"]
    assert rule["ports"] == [{"port": 5432, "protocol": "TCP"}]
    assert of_kind(rendered("all"), "NetworkPolicy")["demo-server"]["spec"].get("egress") in (
        None,
        [],
    )


def test_a_hospital_s_node_reaches_its_server_and_is_reached_by_nobody():
    policy = of_kind(rendered("node"), "NetworkPolicy")["demo-nodes"]["spec"]
    assert not policy["ingress"]
    (rule,) = policy["egress"]
    assert rule["to"] == [{"ipBlock": {"cidr": "192.0.2.10/32"}}]
    assert not of_kind(rendered("node"), "NetworkPolicy")["demo-default"]["spec"].get("ingress")


def test_a_load_balancer_lets_in_the_addresses_it_was_given():
    service = of_kind(rendered("server"), "Service")["demo-gateway"]["spec"]
    ranges = example("server")["gateway"]["service"]["sourceRanges"]
    assert service["loadBalancerSourceRanges"] == ranges
    assert service["externalTrafficPolicy"] == "Local"
    (rule,) = of_kind(rendered("server"), "NetworkPolicy")["demo-gateway"]["spec"]["ingress"]
    assert [p["ipBlock"]["cidr"] for p in rule["from"] if "ipBlock" in p] == ranges


def test_the_server_itself_is_never_published():
    for name in ("server", "all"):
        assert of_kind(rendered(name), "Service")["demo-server"]["spec"]["type"] == "ClusterIP"


def test_an_entry_of_nodes_changes_only_what_it_says():
    values = {**example("node")}
    values["nodes"] = [*values["nodes"], {**NODE, "name": "hospital-b"}]
    found = of_kind(render(values), "StatefulSet")

    def limits(name):
        (container,) = found[name]["spec"]["template"]["spec"]["containers"]
        return container["resources"]["limits"]

    assert limits("demo-node-hospital-a") == {
        "cpu": "2", "memory": "16Gi", "ephemeral-storage": "4Gi", "nvidia.com/gpu": 1,
    }  # fmt: skip
    assert limits("demo-node-hospital-b") == {
        "cpu": "2", "memory": "4Gi", "ephemeral-storage": "4Gi",
    }  # fmt: skip


def test_a_node_s_data_is_mounted_read_only():
    (found,) = of_kind(rendered("node"), "StatefulSet").values()
    spec = found["spec"]["template"]["spec"]
    (mount,) = [m for m in spec["containers"][0]["volumeMounts"] if m["name"] == "data"]
    assert mount == {"name": "data", "mountPath": "/data", "readOnly": True}


@pytest.mark.parametrize("name", ["demo-server", "demo-gateway"])
def test_disruption_budgets_select_their_pods(name):
    budget = of_kind(rendered("all"), "PodDisruptionBudget")[name]["spec"]
    labels = {pod: found for pod, _, found in pods(rendered("all"))}
    assert {pod for pod in labels if selects(budget["selector"], labels[pod])} == {name}


def test_services_and_workloads_find_each_other():
    objects = rendered("all")
    labels = {pod: found for pod, _, found in pods(objects)}
    for name, service in of_kind(objects, "Service").items():
        selector = {"matchLabels": service["spec"]["selector"]}
        assert {pod for pod in labels if selects(selector, labels[pod])} == {name}


def merged(base, change):
    """`change` laid over `base`, key by key; lists are replaced."""
    both = {**base}
    for key, value in change.items():
        deeper = isinstance(value, dict) and isinstance(base.get(key), dict)
        both[key] = merged(base[key], value) if deeper else value
    return both


REFUSED = {
    "an unknown key": ({"serverr": {}}, "serverr"),
    "an unknown key of a node": ({"nodes": [{**NODE, "gpu": 1}]}, "gpu"),
    "a node without a bundle": ({"nodes": [{"name": "a"}]}, "bundleSecret"),
    "a node's name": ({"nodes": [{**NODE, "name": "Hospital_A"}]}, "pattern"),
    "the tag latest": ({"image": {"tag": "latest"}}, "tag"),
    "a digest that is none": ({"image": {"digest": "sha256:12"}}, "digest"),
    "root": ({"runAsUser": 0}, "runAsUser"),
    "an address with a port": ({"server": {"address": "fed.example.org:8000"}}, "address"),
    "no limits": ({"server": {"resources": {"limits": {"cpu": None}}}}, "cpu"),
    "a size without a unit": ({"server": {"storage": {"size": "20"}}}, "size"),
    "the whole internet": ({"networkPolicy": {"serverCidrs": ["0.0.0.0/0"]}}, "serverCidrs"),
    "half a GPU": ({"nodeDefaults": {"gpus": 0.5}}, "gpus"),
    "a port": ({"gateway": {"service": {"port": 70000}}}, "port"),
    "a gateway without a tag": ({"gateway": {"image": "haproxy"}}, "image"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_the_schema_refuses(case):
    change, named = REFUSED[case]
    with helm.Chart.load(CHART) as chart:
        chart.validate_schema(SERVER)
        with pytest.raises(helm.HelmValuesError, match=named):
            chart.validate_schema(merged(SERVER, change))


MISSING = {
    "nothing to install": {},
    "server.bundleSecret": merged(SERVER, {"server": {"bundleSecret": ""}}),
    "server.address": merged(SERVER, {"server": {"address": ""}}),
    "gateway.tlsSecret": merged(SERVER, {"gateway": {"tlsSecret": ""}}),
    "server.database.peers": merged(SERVER, {"server": {"database": {"passwordSecret": "db"}}}),
    "networkPolicy.serverCidrs": {"nodes": [NODE]},
    "two are named hospital-a": merged(SERVER, {"nodes": [NODE, NODE]}),
}


@pytest.mark.parametrize("named", MISSING)
def test_what_must_go_together_is_named(named):
    with pytest.raises(helm.HelmRenderError, match=named):
        render(MISSING[named])


def test_without_policies_a_node_needs_no_addresses():
    found = render({"nodes": [NODE], "networkPolicy": {"enabled": False}})
    assert not of_kind(found, "NetworkPolicy")
    assert of_kind(found, "StatefulSet")


def test_two_releases_share_a_namespace():
    one, two = (
        {(found["kind"], found["metadata"]["name"]) for found in render(example("all"), release)}
        for release in ("one", "two")
    )
    assert one
    assert not one & two


def test_the_schema_describes_every_value_of_the_chart():
    """The schema refuses keys that it does not know, so every key of values.yaml is in it."""
    schema = json.loads((CHART / "values.schema.json").read_text())

    def keys(part):
        while "$ref" in part:
            part = schema["definitions"][part["$ref"].rsplit("/", 1)[1]]
        return part.get("properties", {})

    def missing(part, values, path=()):
        for key, value in keys(part).items():
            if key not in values and key not in ("global", "requests", "limits"):
                yield ".".join((*path, key))
            elif isinstance(value, dict) and isinstance(values.get(key), dict):
                yield from missing(value, values[key], (*path, key))

    assert list(missing(schema, yaml.safe_load((CHART / "values.yaml").read_text()))) == []
