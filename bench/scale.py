"""How a service grows: replicas on this machine's cores, launchers that start at once, a new pod.

Replicas are model servers without a launcher, each a process of its own, and clients that ask them
on the same cores. A burst is that many attested connections with a release each, from one process.
A new pod is a container of podman's, from the command that starts it until it is ready; it is
skipped where podman can't run one.
"""

from __future__ import annotations

import datetime
import json
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from bench.broker import broker_command, write_down
from bench.rows import Row, compared, limited
from casemate.project.build import Project, build_contract_and_policy, build_images
from casemate.project.classifier import build_classifier
from casemate.project.containers import Containers, find_engine, workload_command
from casemate.project.demo.owner import found_project
from casemate.project.package import Part, package
from casemate.project.programs import Services, answers, casemate_command, pick_port
from casemate.project.running import broker_command as project_broker

_DATA = Path(__file__).resolve().parent.parent / ".cache" / "demo-data"
_REPLICAS = (1, 2, 4)
_CLIENTS, _SECONDS = 8, 5.0
_AT_ONCE = 50
_WAIT_SECONDS = 60.0
_PHASES = (  # what the launcher or the server says at a phase's end
    ("runs in:", "container made, launcher started"),
    ("received ", "attested, secrets received"),
    ("the workload runs", "images opened, workload started"),
)


def rows(scratch: Path) -> Iterator[Row]:
    """Measure; replicas, then a burst of launchers, then a pod's start by phase."""
    onnx = build_classifier((_DATA / "efficientnet-lite0.pth").read_bytes())
    folder = scratch / "scale"
    project = found_project(folder, onnx, broker_port=pick_port(0), serving_port=pick_port(0))
    images = {info.path.stem: info.id for info in build_images(project)}
    build_contract_and_policy(project, images, now=datetime.datetime.now(datetime.UTC))
    yield from _replicas(project)
    yield from _burst(scratch / "burst")
    yield from _pod(project, scratch)


def _replicas(project: Project) -> Iterator[Row]:
    one = 0.0
    for count in _REPLICAS:
        with Services() as services:
            ports = [pick_port(0) for _ in range(count)]
            for port in ports:
                server = services.start(
                    f"server-{port}", _server(project, port), log=project.base / "server.log"
                )
                server.wait_for(lambda at=port: answers(at), timeout=_WAIT_SECONDS)  # type: ignore[misc]
            rate = _ask(project, ports)
        one = one or rate
        yield compared(
            "scale", f"predictions a second, replicas: {count}, clients: {_CLIENTS}", rate, "1/s",
            against="one replica", reference=one,
        )  # fmt: skip


def _server(project: Project, port: int) -> list[str]:
    return [
        sys.executable, "-I", "-m", "casemate.serving", "--host=127.0.0.1", f"--port={port}",
        "--model_name=resnet", f"--model_base_path={project.base / 'model'}",
        f"--ssl_config_file={project.secrets / 'ssl_config'}",
    ]  # fmt: skip


def _ask(project: Project, ports: list[int]) -> float:
    """Predictions a second of all together, the clients spread evenly."""
    commands = [
        casemate_command(
            "bench",
            "--server",
            f"localhost:{port}",
            "--crt",
            str(project.certificate),
            "--image",
            str(_DATA / "cat.jpg"),
            "--cnum",
            str(max(1, _CLIENTS // len(ports))),
            "--loop",
            "100000",
            "--seconds",
            str(_SECONDS),
            "--json",
        )
        for port in ports
    ]
    running = [subprocess.Popen(each, stdout=subprocess.PIPE) for each in commands]
    return sum(float(json.loads(each.communicate(timeout=120)[0])["tps"]) for each in running)


def _burst(folder: Path) -> Iterator[Row]:
    folder.mkdir()
    contract = write_down(folder)
    port = contract.broker.endpoint[1]
    with Services() as services:
        broker = services.start(
            "broker", broker_command(folder, contract), log=folder / "broker.log"
        )
        broker.wait_for(lambda: answers(port), timeout=30)
        command = [sys.executable, "-m", "bench.broker_client", str(folder), "--at-once"]
        done = subprocess.run(
            [*command, str(_AT_ONCE)], capture_output=True, check=True, timeout=120
        )
    took = sorted(json.loads(done.stdout))
    what = f"{_AT_ONCE} launchers start at once"
    yield limited("scale", f"releases a second, {what}", len(took) / took[-1], "1/s")
    yield limited(
        "scale", f"median until the secrets are there, {what}", statistics.median(took), "s"
    )
    yield limited("scale", f"p99 until the secrets are there, {what}", took[-1], "s")


def _pod(project: Project, scratch: Path) -> Iterator[Row]:
    if shutil.which("podman") is None:
        print("    no podman: a pod's start is skipped", file=sys.stderr)
        return
    engine, layout, archive = find_engine("podman"), scratch / "layout", scratch / "images.tar"
    from casemate.image.oci.write import write_docker_archive

    (image,) = [
        each
        for each in package(project, layout, registry="bench", tag="scale", names={})
        if each.part is Part.WORKLOAD
    ]
    write_docker_archive(archive, layout, [image.reference])
    loaded = subprocess.run(
        [engine, "load", "--quiet", "--input", str(archive)], capture_output=True, text=True
    )
    if loaded.returncode != 0:
        print(f"    podman can't load images: {loaded.stderr.strip()[-200:]}", file=sys.stderr)
        return
    name = "casemate-bench-scale"
    found = Containers(engine=engine, broker="", workload=name)
    project.audit.parent.mkdir(exist_ok=True)
    try:
        with Services() as services:
            broker = services.start(
                "broker", project_broker(project), log=project.base / "broker.log"
            )
            broker.wait_for(lambda: answers(project.manifest.broker[1]), timeout=30)
            yield from _started(workload_command(project, found, image.reference, "1g"), project)
    finally:
        subprocess.run([engine, "rm", "--force", "--time", "1", name], capture_output=True)
        subprocess.run([engine, "rmi", "--force", image.reference], capture_output=True)


def _started(command: list[str], project: Project) -> Iterator[Row]:
    began = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        print(f"    podman can't run it: {done.stderr.strip()[-200:]}", file=sys.stderr)
        return
    before, name = 0.0, command[command.index("--name") + 1]
    for mark, what in _PHASES:
        while mark not in _said(command[0], name) and time.monotonic() - began < _WAIT_SECONDS:
            time.sleep(0.01)
        at = time.monotonic() - began
        yield limited("scale", f"a new pod: {what}", at - before, "s")
        before = at
    while not answers(project.manifest.workload.port) and time.monotonic() - began < _WAIT_SECONDS:
        time.sleep(0.01)
    at = time.monotonic() - began
    yield limited("scale", "a new pod: model loaded, ready", at - before, "s")
    yield limited("scale", "a new pod: in all", at, "s")


def _said(engine: str, name: str) -> str:
    done = subprocess.run([engine, "logs", name], capture_output=True, text=True)
    return done.stdout + done.stderr
