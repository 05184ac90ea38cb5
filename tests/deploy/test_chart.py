"""The Helm chart: lint, every variant against Kubernetes' schemas, and what its pods may do."""

import json
import subprocess
from pathlib import Path

import pytest
import yaml

from casemate.evidence import Tee
from casemate.project.containers import LAUNCHER_CAPABILITIES
from casemate.tee.platform import CHOICES

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "deploy" / "helm" / "casemate"
TOOLS = ROOT / ".cache" / "kubernetes"
pytestmark = pytest.mark.skipif(
    not (TOOLS / ".stamp").exists(), reason="needs Helm (tools/install-kubernetes-tools)"
)
DIGEST = "sha256:" + "ab" * 32
VARIANTS = {
    "defaults": {},
    "sgx": {"tee": {"kind": "sgx", "epc": "1Gi"}},
    "tdx": {"tee": {"kind": "tdx", "runtimeClassName": "kata-qemu-tdx"}},
    "snp": {"tee": {"kind": "snp", "runtimeClassName": "kata-qemu-snp"}},
    "azure": {"tee": {"kind": "azure-snp", "runtimeClassName": "kata-cc-isolation"}},
    "gpu": {"tee": {"kind": "tdx", "gpus": 2}},
    "scaled": {"workload": {"autoscaling": {"enabled": True}}},
    "spread": {"workload": {"antiAffinity": "required"}},
    "balanced": {"workload": {"service": {"type": "LoadBalancer", "port": 443}}},
    "mounting": {"workload": {"isolation": "namespace"}},
    "workload-alone": {"broker": {"enabled": False}},
    "two-brokers": {"broker": {"replicas": 2}},
    "open-network": {"networkPolicy": {"enabled": False}},
    "client": {"client": {"enabled": True, "args": ["predict", "--server", "s:9000"]}},
    "pinned": {"images": {"digests": {"broker": DIGEST, "workload": DIGEST}}},
}


def helm(*arguments, values=None, tmp_path=None):
    command = [str(TOOLS / "helm"), *arguments]
    if values is not None:
        path = tmp_path / "values.json"
        path.write_text(json.dumps(values))
        command += ["--values", str(path)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def rendered(values, tmp_path):
    base = {"broker": {"policy": "version = 1"}}
    for name, table in values.items():
        base[name] = {**base.get(name, {}), **table}
    done = helm("template", "it", str(CHART), values=base, tmp_path=tmp_path)
    assert done.returncode == 0, done.stderr
    return done.stdout


def objects(text):
    return {(each["kind"], each["metadata"]["name"]): each for each in yaml.safe_load_all(text)}


def pod(text, component):
    for each in objects(text).values():
        labels = each["metadata"].get("labels", {})
        if each["kind"] in {"Deployment", "Job"} and (
            labels.get("app.kubernetes.io/component") == component
        ):
            return each["spec"]["template"]["spec"]
    raise AssertionError(component)


def test_every_tee_of_a_project_can_be_deployed(tmp_path):
    """What `casemate deploy` writes as ``tee.kind`` is what the chart's schema takes."""
    schema = json.loads((CHART / "values.schema.json").read_text())
    kinds = schema["properties"]["tee"]["properties"]["kind"]["enum"]
    assert sorted(kinds) == sorted(tee.value for tee in Tee if tee in CHOICES)
    for kind in kinds:
        spec = pod(rendered({"tee": {"kind": kind}}, tmp_path), "workload")
        names = {volume["name"] for volume in spec["volumes"]}
        assert ("development-root" in names) == (kind == "simulated")


def test_lint(tmp_path):
    values = {"broker": {"policy": "version = 1"}}
    done = helm("lint", "--strict", str(CHART), values=values, tmp_path=tmp_path)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_is_valid(variant, tmp_path):
    path = tmp_path / "rendered.yaml"
    path.write_text(rendered(VARIANTS[variant], tmp_path))
    done = subprocess.run(
        [str(TOOLS / "venv/bin/kubernetes-validate"), "--strict", "-k", "1.34.0", str(path)],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def test_kubectl_reads_it(tmp_path):
    path = tmp_path / "rendered.yaml"
    path.write_text(rendered({}, tmp_path))
    done = subprocess.run(
        [str(TOOLS / "kubectl"), "kustomize", "--help"], capture_output=True, text=True
    )
    assert done.returncode == 0
    (tmp_path / "kustomization.yaml").write_text("resources: [rendered.yaml]\n")
    done = subprocess.run(
        [str(TOOLS / "kubectl"), "kustomize", str(tmp_path)], capture_output=True, text=True
    )
    assert objects(done.stdout) == objects(path.read_text())


@pytest.mark.parametrize(
    "values",
    [
        {"tee": {"kind": "none"}},
        {"tee": {"kind": "tdx", "privileged": True}},
        {"broker": {"policy": "x", "port": 0}},
        {"broker": {"policy": "x", "serviceName": "Broker"}},
        {"broker": {"policy": "x"}, "workload": {"antiAffinity": "always"}},
        {"broker": {"policy": "x"}, "images": {"digests": {"broker": "latest"}}},
        {"broker": {"policy": "x"}, "extra": 1},
        {},
    ],
)
def test_wrong_values_are_refused(values, tmp_path):
    done = helm("template", "it", str(CHART), values=values, tmp_path=tmp_path)
    assert done.returncode != 0


@pytest.mark.parametrize("component", ["broker", "client"])
def test_who_needs_no_rights_has_none(component, tmp_path):
    """Pod Security's restricted level, field by field."""
    text = rendered({"client": {"enabled": True}}, tmp_path)
    spec = pod(text, component)
    assert spec["securityContext"] == {
        "runAsNonRoot": True, "runAsUser": 65532, "runAsGroup": 65532, "fsGroup": 65532,
        "seccompProfile": {"type": "RuntimeDefault"},
    }  # fmt: skip
    for container in spec["containers"]:
        assert container["securityContext"] == {
            "capabilities": {"drop": ["ALL"]},
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
        }
    _nothing_of_the_host(spec)


def test_the_launcher_has_what_a_new_root_takes_and_no_more(tmp_path):
    """Within Pod Security's baseline level; mount rights are asked for by name."""
    spec = pod(rendered({}, tmp_path), "workload")
    (container,) = spec["containers"]
    rights = container["securityContext"]
    assert rights["capabilities"] == {"drop": ["ALL"], "add": list(LAUNCHER_CAPABILITIES)}
    assert rights["allowPrivilegeEscalation"] is False
    assert rights["readOnlyRootFilesystem"] is True
    assert "privileged" not in rights
    assert spec["securityContext"] == {
        "runAsUser": 0, "runAsGroup": 0, "seccompProfile": {"type": "RuntimeDefault"},
    }  # fmt: skip
    _nothing_of_the_host(spec)
    mounting = pod(rendered({"workload": {"isolation": "namespace"}}, tmp_path), "workload")
    added = mounting["containers"][0]["securityContext"]["capabilities"]["add"]
    assert set(added) - set(LAUNCHER_CAPABILITIES) == {"SYS_ADMIN"}


def _nothing_of_the_host(spec):
    assert spec["automountServiceAccountToken"] is False
    assert spec["enableServiceLinks"] is False
    assert not {"hostNetwork", "hostPID", "hostIPC"} & set(spec)
    assert all("hostPath" not in volume for volume in spec["volumes"])


def test_decrypted_files_lie_in_memory(tmp_path):
    spec = pod(rendered({}, tmp_path), "workload")
    (memory,) = [v for v in spec["volumes"] if v["name"] == "memory"]
    assert memory["emptyDir"]["medium"] == "Memory"
    assert memory["emptyDir"]["sizeLimit"] == "1Gi"


@pytest.mark.parametrize("component", ["broker", "workload", "client"])
def test_what_a_pod_writes_lies_in_bounded_memory(component, tmp_path):
    spec = pod(rendered({"client": {"enabled": True}}, tmp_path), component)
    written = [each["emptyDir"] for each in spec["volumes"] if "emptyDir" in each]
    assert written
    assert all(each["medium"] == "Memory" and each["sizeLimit"] for each in written)
    assert all(each["resources"]["limits"]["memory"] for each in spec["containers"])


@pytest.mark.parametrize("component", ["broker", "workload"])
def test_secrets_are_for_their_pod_alone_and_only_to_be_read(component, tmp_path):
    spec = pod(rendered({}, tmp_path), component)
    secrets = {volume["name"]: volume["secret"] for volume in spec["volumes"] if "secret" in volume}
    assert secrets
    assert not any(each["optional"] for each in secrets.values()), "it would start without"
    # The broker isn't root: its group, which is its own, has to be let in.
    allowed = 0o440 if component == "broker" else 0o400
    assert {each["defaultMode"] for each in secrets.values()} <= {allowed, 0o400}
    (container,) = spec["containers"]
    mounts = [each for each in container["volumeMounts"] if each["name"] in secrets]
    assert {each["name"] for each in mounts} == set(secrets)
    assert all(each["readOnly"] for each in mounts)


def test_a_broker_starts_with_its_identity_its_policy_and_nothing_less(tmp_path):
    spec = pod(rendered({}, tmp_path), "broker")
    (container,) = spec["containers"]
    given = dict(argument.removeprefix("--").split("=") for argument in container["args"])
    assert given == {
        "policy": "/etc/casemate/policy.toml",
        "secrets": "/run/casemate/secrets",
        "identity": "/run/casemate/identity/broker.key",
        "listen": "0.0.0.0:50051",
    }
    (policy,) = [each["configMap"] for each in spec["volumes"] if "configMap" in each]
    assert policy == {"name": "casemate-broker-policy", "optional": False}
    places = {each["mountPath"]: each for each in container["volumeMounts"]}
    assert places.keys() == {
        "/etc/casemate", "/run/casemate/secrets", "/run/casemate/identity", "/tmp"
    }  # fmt: skip
    assert {path for path, each in places.items() if not each.get("readOnly")} == {"/tmp"}


def test_images_are_pinned_by_digest_where_one_is_given(tmp_path):
    digests = {
        component: f"sha256:{number:064x}"
        for number, component in enumerate(("broker", "workload", "client"))
    }
    values = {
        "images": {"digests": digests, "pullPolicy": "Always"},
        "client": {"enabled": True}, "kserve": {"enabled": True},
    }  # fmt: skip
    text = rendered(values, tmp_path)
    for component, digest in digests.items():
        (container,) = pod(text, component)["containers"]
        assert container["image"].endswith(f"@{digest}")
        assert container["imagePullPolicy"] == "Always"
    (served,) = objects(text)["ClusterServingRuntime", "it-casemate"]["spec"]["containers"]
    assert served["image"].endswith(f"@{digests['workload']}")


def test_pods_are_ready_when_they_answer_and_a_launcher_has_time_to_start(tmp_path):
    text = rendered({"workload": {"startupSeconds": 90}}, tmp_path)
    (broker,) = pod(text, "broker")["containers"]
    for probe in ("readinessProbe", "livenessProbe"):
        assert broker[probe]["tcpSocket"] == {"port": "attested"}
    (workload,) = pod(text, "workload")["containers"]
    for probe in ("readinessProbe", "startupProbe"):
        assert workload[probe]["tcpSocket"] == {"port": "serving"}
    start = workload["startupProbe"]
    assert start["periodSeconds"] * start["failureThreshold"] == 90


def test_confidential_pods_get_their_runtime(tmp_path):
    for variant in ("tdx", "snp", "azure"):
        spec = pod(rendered(VARIANTS[variant], tmp_path), "workload")
        assert spec["runtimeClassName"] == VARIANTS[variant]["tee"]["runtimeClassName"]
    assert "runtimeClassName" not in pod(rendered({}, tmp_path), "workload")


def test_an_update_and_a_drained_node_leave_replicas_that_serve(tmp_path):
    found = objects(rendered({}, tmp_path))
    update = found["Deployment", "it-workload"]["spec"]["strategy"]["rollingUpdate"]
    assert update == {"maxUnavailable": 0, "maxSurge": 1}
    assert found["PodDisruptionBudget", "it-workload"]["spec"]["maxUnavailable"] == 1


def test_resources_follow_the_tee(tmp_path):
    limits = pod(rendered(VARIANTS["sgx"], tmp_path), "workload")["containers"][0]["resources"]
    assert limits["limits"]["sgx.intel.com/epc"] == "1Gi"
    assert limits["limits"]["sgx.intel.com/enclave"] == 1
    gpu = pod(rendered(VARIANTS["gpu"], tmp_path), "workload")["containers"][0]["resources"]
    assert gpu["limits"]["nvidia.com/gpu"] == 2
    plain = pod(rendered({}, tmp_path), "workload")["containers"][0]["resources"]
    assert set(plain["limits"]) == {"memory"}


def test_only_launchers_reach_the_broker(tmp_path):
    found = objects(rendered({}, tmp_path))

    def pods(component):
        return {
            "app.kubernetes.io/name": "casemate",
            "app.kubernetes.io/instance": "it",
            "app.kubernetes.io/component": component,
        }

    assert found["NetworkPolicy", "casemate-broker"]["spec"] == {
        "podSelector": {"matchLabels": pods("broker")},
        "policyTypes": ["Ingress"],
        "ingress": [
            {
                "from": [{"podSelector": {"matchLabels": pods("workload")}}],
                "ports": [{"port": "attested", "protocol": "TCP"}],
            }
        ],
    }
    for component, name in (("broker", "casemate-broker"), ("workload", "it-workload")):
        made = found["Deployment", name]["spec"]["template"]["metadata"]["labels"]
        assert pods(component).items() <= made.items()
    assert found["Service", "casemate-broker"]["spec"]["type"] == "ClusterIP"
    assert ("NetworkPolicy", "casemate-broker") not in objects(
        rendered(VARIANTS["open-network"], tmp_path)
    )


def test_a_changed_policy_starts_new_brokers(tmp_path):
    def annotation(policy):
        text = rendered({"broker": {"policy": policy}}, tmp_path)
        broker = objects(text)["Deployment", "casemate-broker"]
        return broker["spec"]["template"]["metadata"]["annotations"]["checksum/policy"]

    assert annotation("version = 1") != annotation("version = 1\n# another")


def test_the_autoscaler_decides_where_there_is_one(tmp_path):
    found = objects(rendered(VARIANTS["scaled"], tmp_path))
    assert "replicas" not in found["Deployment", "it-workload"]["spec"]
    assert found["HorizontalPodAutoscaler", "it-workload"]["spec"]["minReplicas"] == 2


def test_kserve_gets_a_runtime(tmp_path):
    found = objects(rendered({"kserve": {"enabled": True}}, tmp_path))
    runtime = found["ClusterServingRuntime", "it-casemate"]["spec"]
    (container,) = runtime["containers"]
    assert container["name"] == "kserve-container"
    assert container["securityContext"] == {
        "runAsUser": 0,
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"], "add": list(LAUNCHER_CAPABILITIES)},
    }
    (memory,) = runtime["volumes"]
    assert memory["emptyDir"] == {"medium": "Memory", "sizeLimit": "1Gi"}


def test_plain_manifests_are_the_chart_s(tmp_path):
    """`make manifests` writes them."""
    done = subprocess.run(
        [str(ROOT / "tools" / "render-manifests"), str(tmp_path)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    for path in (ROOT / "deploy" / "manifests").glob("*.yaml"):
        assert path.read_text() == (tmp_path / path.name).read_text(), "run: make manifests"
