"""The chart's manifests, run for real: broker and replicas in pods, and a client that never fails.

There's no cluster, so `podman kube play` starts the pods, and this test does what controllers do:
it gives services their names, replaces a pod that was killed, and adds one. What podman 4.3 doesn't
do as Kubernetes does is changed in the manifests first, each for a stated reason (`as_podman_can`).
"""

import base64
import json
import os
import shutil
import socket
import subprocess
import time

import pytest
import yaml
from tests.deploy.test_chart import CHART, TOOLS, helm
from tests.support import demo_data, podman

from casemate.project.classifier import build_classifier
from casemate.project.programs import casemate_command

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.timeout(400),
    pytest.mark.skipif(
        not (TOOLS / ".stamp").exists(), reason="needs Helm (tools/install-kubernetes-tools)"
    ),
]
NETWORK = "casemate-test"
PORT = 9000
SECONDS = 20


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    folder = tmp_path_factory.mktemp("podman")
    for program in ("skopeo", "catatonit"):
        if shutil.which(program) is None:
            pytest.skip(f"needs {program} (tools/install-test-programs)")
    if (reason := podman.why_not(folder / "try")) is not None:
        pytest.skip(reason)
    with podman.environment(folder / "here") as variables:
        made = Cluster(variables, folder)
        if made.podman("network", "create", NETWORK, must=False) is None:
            pytest.skip("podman can't make networks here (needs netavark and aardvark-dns)")
        yield made
        made.podman("pod", "rm", "--all", "--force", "--time", "1", must=False)
        made.podman("network", "rm", "--force", NETWORK, must=False)


class Cluster:
    """Pods by podman."""

    def __init__(self, variables, folder):
        self.variables, self.folder = variables, folder

    def podman(self, *arguments, must=True):
        done = subprocess.run(
            ["podman", *arguments], env=self.variables, capture_output=True, text=True, timeout=120
        )
        if done.returncode != 0:
            assert not must, f"podman {' '.join(arguments)}: {done.stderr}"
            return None
        return done.stdout

    def play(self, name, *objects):
        """Start objects under a service's name."""
        path = self.folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump_all(objects))
        self.podman("kube", "play", "--network", f"{NETWORK}:alias={name}", str(path))

    def address(self, pod):
        (found,) = json.loads(f"[{self.podman('pod', 'inspect', pod)}]")
        (infra,) = json.loads(self.podman("inspect", found["InfraContainerID"]))
        return infra["NetworkSettings"]["Networks"][NETWORK]["IPAddress"]

    def said(self, container):
        done = subprocess.run(
            ["podman", "logs", container], env=self.variables, capture_output=True, text=True
        )
        return done.stdout + done.stderr

    def wait_for(self, pod):
        deadline = time.monotonic() + 40
        while time.monotonic() < deadline:
            with socket.socket() as probe:
                probe.settimeout(1)
                if probe.connect_ex((self.address(pod), PORT)) == 0:
                    return
            time.sleep(0.2)
        raise AssertionError(
            self.said(f"{pod}-workload") + self.said("casemate-broker-pod-0-broker")
        )


def casemate(folder, *arguments):
    done = subprocess.run(
        casemate_command(*arguments), cwd=folder, capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr
    return done


@pytest.fixture(scope="module")
def deployed(cluster, tmp_path_factory):
    """A project, packaged and deployed as a user would: its values, secrets and images."""
    folder = tmp_path_factory.mktemp("project")
    casemate(folder, "new", "resnet", "--for", "onnx")
    path = folder / "casemate.toml"
    text = path.read_text().replace("--host=127.0.0.1", "--host=0.0.0.0")
    path.write_text(text.replace('hosts = ["localhost"]', 'hosts = ["casemate-workload"]'))
    model = folder / "model" / "1" / "model.onnx"
    model.parent.mkdir(parents=True)
    model.write_bytes(build_classifier(demo_data.checkpoint()))
    casemate(folder, "build", "--server", "casemate-broker")
    casemate(folder, "package", "--registry", "docker.io/demo", "--output", "oci:packages")
    casemate(folder, "deploy", "--registry", "docker.io/demo", "--packages", "packages")
    for name in ("init_ra_server", "tf_demo", "tf_demo_client"):
        reference = f"docker.io/demo/{name}:latest"
        subprocess.run(
            ["skopeo", "copy", f"oci:{folder}/packages:{reference}",
             f"containers-storage:{reference}"],
            env=cluster.variables, check=True, capture_output=True,
        )  # fmt: skip
    return folder


def as_podman_can(objects, mounted):
    """Change what podman 4.3 doesn't do as Kubernetes does.

    - It writes Secrets as base64, for everybody to read: they are mounted from folders, whose files
      are root's and for the pod's group to read, as a kubelet mounts them.
    - It publishes every container port on the host: replicas would want the same one.
    - It has no probes without systemd.
    - Its images' names have a tag or a digest, not both.
    """
    for each in objects:
        if each["kind"] not in {"Deployment", "Job"}:
            continue
        spec = each["spec"]["template"]["spec"]
        for volume in spec["volumes"]:
            name = volume.get("secret", {}).get("secretName") or volume.get("configMap", {}).get(
                "name"
            )
            if name in mounted:
                volume.pop("secret", None), volume.pop("configMap", None)
                volume["hostPath"] = {"path": str(mounted[name]), "type": "Directory"}
        for container in spec["containers"]:
            for key in ("ports", "startupProbe", "readinessProbe", "livenessProbe"):
                container.pop(key, None)
            name, _, digest = container["image"].partition("@")
            container["image"] = f"{name.rpartition(':')[0]}@{digest}"


def mounted_like_kubelet(folder, scratch):
    """Secrets and certificates as files, as a kubelet makes them."""
    mounted = {}
    for each in yaml.safe_load_all((folder / "deployment" / "secrets.yaml").read_text()):
        target = scratch / each["metadata"]["name"]
        target.mkdir()
        for name, value in each["data"].items():
            content = base64.b64decode(value) if each["kind"] == "Secret" else value.encode()
            (target / name).write_bytes(content)
            os.chown(target / name, 0, 65532)
            (target / name).chmod(0o440)
        mounted[each["metadata"]["name"]] = target
    return mounted


def pod_of(workload, name, *, restart="Always"):
    """A pod as a controller makes it from a template."""
    template = workload["spec"]["template"]
    spec = {**template["spec"], "restartPolicy": restart}
    metadata = {"name": name, "labels": template["metadata"]["labels"]}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def test_replicas_come_and_go_and_no_request_fails(cluster, deployed, tmp_path):
    tmp_path.chmod(0o755)
    mounted = mounted_like_kubelet(deployed, tmp_path)
    shutil.copy(demo_data.FOLDER / "cat.jpg", mounted["casemate-server-certificate"])
    values = yaml.safe_load((deployed / "deployment" / "values.yaml").read_text())
    values["workload"]["isolation"] = "namespace"  # podman mounts volumes nodev: no devices there
    values["client"] = {
        "enabled": True,
        "args": [
            "bench", "--server", f"casemate-workload:{PORT}", "--crt", "/input/server.crt",
            "--image", "/input/cat.jpg", "--cnum", "2", "--loop", "100000",
            "--seconds", str(SECONDS), "--attempts", "5", "--json",
        ],
    }  # fmt: skip
    rendered = helm("template", "it", str(CHART), values=values, tmp_path=tmp_path)
    assert rendered.returncode == 0, rendered.stderr
    objects = list(yaml.safe_load_all(rendered.stdout))
    as_podman_can(objects, mounted)
    kinds = {(each["kind"], each["metadata"]["name"]): each for each in objects}
    workload = kinds["Deployment", "it-workload"]
    cluster.play(
        "casemate-broker",
        kinds["ConfigMap", "casemate-broker-policy"],
        kinds["Deployment", "casemate-broker"],
    )
    cluster.play("casemate-workload", workload)
    for replica in ("it-workload-pod-0", "it-workload-pod-1"):
        cluster.wait_for(replica)

    cluster.play("client", pod_of(kinds["Job", "it-client"], "it-client", restart="Never"))
    time.sleep(4)
    cluster.play("casemate-workload", pod_of(workload, "it-workload-2"))  # one more
    cluster.wait_for("it-workload-2")
    cluster.podman("kill", "--signal", "KILL", "it-workload-pod-0-workload")  # one fails …
    cluster.podman("pod", "rm", "--force", "--time", "1", "it-workload-pod-0")
    cluster.play("casemate-workload", pod_of(workload, "it-workload-3"))  # … and is replaced
    cluster.wait_for("it-workload-3")

    status = cluster.podman("wait", "it-client-client").strip()
    said = cluster.said("it-client-client")
    report = json.loads(said.strip().splitlines()[-1])
    assert (status, report["failed"]) == ("0", {}), said
    assert report["requests"] > 20
    audit = cluster.said("casemate-broker-pod-0-broker")
    assert audit.count('"event": "released"') == 4
    assert '"event": "refused"' not in audit
