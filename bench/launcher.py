"""From the launcher's start to the first byte served, split by phase.

The demo's own root file system and model, the real broker and launcher. The reference is the same
model server started bare: the same program and model as plain files, no broker, no encryption.
"""

from __future__ import annotations

import datetime
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from bench.rows import Row, compared, limited
from casemate.project.build import Project, build_contract_and_policy, build_images
from casemate.project.classifier import build_classifier
from casemate.project.demo.owner import found_project
from casemate.project.programs import Services, answers, casemate_command, pick_port
from casemate.project.running import broker_command

_DATA = Path(__file__).resolve().parent.parent / ".cache" / "demo-data"
_ROUNDS = 5
_START_UP_AIM = 0.2
_WAIT_SECONDS = 60.0
# An event that ends a phase, and what the phase is.
_PHASES = (
    ("first-packet", "launcher start-up: process start to first packet"),
    ("channel", "attested channel, both sides verified"),
    ("secrets", "release of three secrets"),
    ("image", "both images opened and the root extracted"),
    ("started", "secrets placed, workload started"),
    ("listening", "the model server's own start"),
    ("answer", "the first answer"),
)


def rows(scratch: Path) -> Iterator[Row]:
    """Measure; a row a phase, then the whole beside the bare server."""
    onnx = build_classifier((_DATA / "efficientnet-lite0.pth").read_bytes())
    broker_port, port = pick_port(0), pick_port(0)
    folder = scratch / "launcher"
    project = found_project(folder, onnx, broker_port=broker_port, serving_port=port)
    images = {info.path.stem: info.id for info in build_images(project)}
    build_contract_and_policy(project, images, now=datetime.datetime.now(datetime.UTC))
    with Services() as services:
        log = folder / "broker.log"
        project.audit.parent.mkdir()
        broker = services.start("broker", broker_command(project), log=log)
        broker.wait_for(lambda: answers(broker_port), timeout=30)
        runs = [_launch(project, port) for _ in range(_ROUNDS)]
        bare = statistics.median(_bare(project, port) for _ in range(_ROUNDS))
    before = 0.0
    for event, what in _PHASES:
        at = statistics.median(run[event] for run in runs)
        aim = _START_UP_AIM if event == "first-packet" else None
        yield limited("launcher", what, max(at - before, 0.0), "s", at_most=aim)
        before = at
    yield compared(
        "launcher", "launch to first answer", before, "s",
        against="the same model server started bare", reference=bare,
    )  # fmt: skip


def _launch(project: Project, port: int) -> dict[str, float]:
    """When each event came, in seconds since the launcher's process was forked."""
    command = casemate_command(
        "launch",
        *("--contract", str(project.contract), "--images", str(project.images)),
        *("--tee", "simulated", "--development-root", str(project.development_root), "--json"),
    )
    # As `casemate launch` becomes the launcher: what is measured is the launcher.
    command = [sys.executable, "-I", "-m", "casemate.launcher", *command[5:]]
    began = time.monotonic()
    events: dict[str, float] = {}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as launcher:
        assert launcher.stdout is not None
        for line in launcher.stdout:
            event = json.loads(line)["event"]
            events[event] = time.monotonic() - began
            if event == "started":
                break
        try:
            while not answers(port) and time.monotonic() - began < _WAIT_SECONDS:
                time.sleep(0.005)
            events["listening"] = time.monotonic() - began
            _ask(project, port)
            events["answer"] = time.monotonic() - began
        finally:
            launcher.terminate()
    return events


def _bare(project: Project, port: int) -> float:
    ssl_config = project.secrets / "ssl_config"
    command = [
        sys.executable, "-I", "-m", "casemate.serving", "--host=127.0.0.1", f"--port={port}",
        "--model_name=resnet", f"--model_base_path={project.base / 'model'}",
        f"--ssl_config_file={ssl_config}",
    ]  # fmt: skip
    with Services() as services:
        began = time.monotonic()
        server = services.start("server", command, log=project.base / "bare.log")
        server.wait_for(lambda: answers(port), timeout=_WAIT_SECONDS)
        _ask(project, port)
        return time.monotonic() - began


def _ask(project: Project, port: int) -> None:
    """One prediction, by a client whose own start doesn't count."""
    from casemate.client import PinnedCertificate, Question, predict, prepare_picture

    predict(
        Question(
            server=f"localhost:{port}",
            trust=PinnedCertificate(pem=project.certificate.read_bytes()),
            model="resnet",
            pixels=prepare_picture((_DATA / "cat.jpg").read_bytes()),
            timeout=30.0,
        )
    )
