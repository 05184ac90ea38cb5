"""Run a project on this machine: one supervisor, its broker and its workload, and what they say.

The supervisor holds a lock for as long as it runs, so whoever asks sees at once whether it does,
and no number of a process that ended long ago is taken for it.
"""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from cryptography import x509

from casemate.encoding import MapReader
from casemate.errors import UnavailableError, UsageError
from casemate.image.file import ImageFile
from casemate.project.build import Project
from casemate.project.containers import running_containers
from casemate.project.contracts import read_contract_file
from casemate.project.manifest import Manifest
from casemate.project.programs import (
    Services,
    answers,
    casemate_command,
    terminated_like_interrupted,
)
from casemate.project.state import read_state, write_state
from casemate.protocol.contract import LaunchContract

BROKER, WORKLOAD = "broker", "workload"
_BROKER_SECONDS, _WORKLOAD_SECONDS, _DOWN_SECONDS = 30.0, 300.0, 40.0
_CLAIM_SECONDS, _POLL_SECONDS = 0.5, 0.1
_READY = '"event": "ready"'
_SHOWN = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class RunState:
    """What the supervisor says of itself.

    Args:
        pid: its process.
        since: when it began, RFC 3339.
        ready: whether the workload serves.
        broker: ``HOST:PORT``.
        port: the workload's.
    """

    pid: int
    since: str
    ready: bool
    broker: str
    port: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """What there is to know of a project that runs or ran.

    Args:
        name: of the service.
        running: whether it runs.
        ready: whether the workload serves.
        since: when it was started; None where it doesn't run.
        broker: ``HOST:PORT``.
        port: the workload's.
        contract: digest of the launch contract, hex; None before a build.
        images: id of each sealed image, by name.
        certificate_ends: when the TLS certificate ends, RFC 3339; None without one.
        certificate_days: how many days it has left.
        released: who attested and what was released: the last lines of the audit trail.
        refused: who was refused, and why.
    """

    name: str
    running: bool
    ready: bool
    since: str | None
    broker: str
    port: int
    contract: str | None
    images: dict[str, str]
    certificate_ends: str | None
    certificate_days: int | None
    released: tuple[dict[str, str], ...] = ()
    refused: tuple[dict[str, str], ...] = field(default=())


def log_file(project: Project, name: str) -> Path:
    """Where a program of the project writes."""
    return project.folder / "log" / f"{name}.log"


def run_project(
    project: Project,
    *,
    launch_options: tuple[str, ...] = (),
    broker_options: tuple[str, ...] = (),
    say: Callable[[str], None] = lambda _: None,
    on_ready: Callable[[RunState], None] = lambda _: None,
) -> None:
    """Start broker and workload, and stay until one of them ends or we are told to stop.

    Args:
        project: built.
        launch_options: further options of ``casemate launch``.
        broker_options: further options of ``casemate broker``.
        say: told of progress.
        on_ready: told when the workload serves.

    Raises:
        UsageError: ``project.runs`` where it runs already, ``project.unbuilt``.
        UnavailableError: ``program.*``: one ended, or wasn't ready in time.
        KeyboardInterrupt: Ctrl-C, SIGTERM or SIGHUP; everything has ended by then.
    """
    if not project.contract.exists():
        raise UsageError(
            "project.unbuilt", "the project isn't built", field="--project",
            remedy="Build it: casemate build",
        )  # fmt: skip
    with terminated_like_interrupted(), _claimed(project), Services() as services:
        (project.folder / "log").mkdir(exist_ok=True)
        project.audit.parent.mkdir(exist_ok=True)
        state = RunState(
            pid=os.getpid(), since=_now().isoformat(timespec="seconds"), ready=False,
            broker=project.broker_address, port=project.manifest.workload.port,
        )  # fmt: skip
        write_state(_state_path(project), state)
        for name in (BROKER, WORKLOAD):
            log_file(project, name).write_bytes(b"")
        broker = services.start(
            BROKER, [*broker_command(project), *broker_options], log=log_file(project, BROKER)
        )
        broker.wait_for(lambda: _READY in broker.log.read_text(), timeout=_BROKER_SECONDS)
        say(f"the broker listens on {project.broker_address}")
        workload = services.start(
            WORKLOAD, [*launch_command(project), *launch_options], log=log_file(project, WORKLOAD)
        )
        workload.wait_for(lambda: answers(state.port), timeout=_WORKLOAD_SECONDS)
        state = replace(state, ready=True)
        write_state(_state_path(project), state)
        on_ready(state)
        while all(each.process.poll() is None for each in (broker, workload)):
            time.sleep(_POLL_SECONDS)
        ended = broker if broker.process.poll() is not None else workload
        raise UnavailableError(
            "program.ended",
            f"the {ended.name} ended with status {ended.process.returncode}:\n{ended.tail()}",
            remedy=f"casemate logs {ended.name} shows all that it said.",
        )


def start_detached(project: Project, command: list[str]) -> RunState:
    """Start a supervisor in the background, and wait until the workload serves.

    Args:
        project: built.
        command: what runs `run_project`.

    Raises:
        UnavailableError: ``program.ended`` with what it said, ``program.timeout``.
    """
    (project.folder / "log").mkdir(mode=0o700, exist_ok=True)
    log = log_file(project, "up")
    log.write_bytes(b"")
    with log.open("ab") as output:  # several write, and sendfile(2) heeds no one else's place
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True,
        )  # fmt: skip
    deadline = time.monotonic() + _BROKER_SECONDS + _WORKLOAD_SECONDS
    try:
        while time.monotonic() < deadline:
            state = running_state(project)
            if state is not None and state.ready and state.pid == process.pid:
                return state
            if process.poll() is not None:
                raise UnavailableError(
                    "program.ended", f"it didn't start:\n{log.read_text(errors='replace')}"
                )
            time.sleep(_POLL_SECONDS)
        raise UnavailableError("program.timeout", "it wasn't ready in time")
    except BaseException:
        process.terminate()
        process.wait(_DOWN_SECONDS)
        raise


def stop_project(project: Project) -> bool:
    """Stop a project that runs, and wait until nothing of it is left.

    Returns:
        Whether there was anything to stop.

    Raises:
        UnavailableError: ``project.stop`` where it doesn't end.
    """
    state = running_state(project)
    if state is None:
        return False
    with contextlib.suppress(ProcessLookupError):
        os.kill(state.pid, signal.SIGTERM)
    deadline = time.monotonic() + _DOWN_SECONDS
    while running_state(project) is not None:
        if time.monotonic() > deadline:
            raise UnavailableError(
                "project.stop", "it doesn't end", field="pid", got=str(state.pid),
                remedy="See casemate logs; kill the process if nothing else helps.",
            )  # fmt: skip
        time.sleep(_POLL_SECONDS)
    return True


def running_state(project: Project) -> RunState | None:
    """What the supervisor says of itself, or None where none runs."""
    try:
        descriptor = os.open(_lock_path(project), os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        return None if _lock(descriptor) else _read(project)
    finally:
        os.close(descriptor)


def describe(project: Project) -> Status:
    """See `Status`.

    Raises:
        CasemateError: what was built can't be read.
    """
    manifest: Manifest = project.manifest
    state = running_state(project)
    contained = running_containers(project) is not None
    contract = read_contract_file(project.contract) if project.contract.exists() else None
    ends, days = _certificate(project)
    released, refused = _audited(project)
    return Status(
        name=manifest.name,
        running=state is not None or contained,
        ready=contained or (state is not None and state.ready),
        since=state.since if state else None,
        broker=project.broker_address,
        port=manifest.workload.port,
        contract=str(contract.digest()) if contract else None,
        images=_image_ids(project, contract),
        certificate_ends=ends,
        certificate_days=days,
        released=released,
        refused=refused,
    )


def broker_command(project: Project) -> list[str]:
    """The command line of the project's broker."""
    return casemate_command(
        "broker",
        *("--policy", str(project.policy), "--secrets", str(project.secrets)),
        *("--listen", project.broker_address, "--identity", str(project.identity)),
        *("--audit", str(project.audit), "--json"),
    )


def launch_command(project: Project) -> list[str]:
    """The command line of the project's launcher."""
    tee = project.manifest.tee.kind
    root = ("--development-root", str(project.development_root))
    return casemate_command(
        "launch",
        *("--contract", str(project.contract), "--images", str(project.images)),
        *("--tee", tee.value),
        *(root if project.development_root.exists() else ()),
    )


@contextlib.contextmanager
def _claimed(project: Project) -> Iterator[None]:
    """Within, this process is the project's supervisor."""
    descriptor = os.open(_lock_path(project), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        deadline = time.monotonic() + _CLAIM_SECONDS  # whoever asks holds the lock for a moment
        while not _lock(descriptor):
            if time.monotonic() > deadline:
                raise UsageError(
                    "project.runs", "the project runs already", field="--project",
                    remedy="See casemate status; stop it with casemate down.",
                )  # fmt: skip
            time.sleep(_POLL_SECONDS)
        yield
    finally:
        os.close(descriptor)


def _lock(descriptor: int) -> bool:
    """Take the lock, if nobody has it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _lock_path(project: Project) -> Path:
    return project.folder / "run.lock"


def _state_path(project: Project) -> Path:
    return project.folder / "run.json"


def _read(project: Project) -> RunState | None:
    """None while a new supervisor hasn't written it yet."""
    return read_state(_state_path(project), _run_state)


def _run_state(fields: MapReader) -> RunState:
    return RunState(
        pid=fields.take("pid", int),
        since=fields.take("since", str),
        ready=fields.take("ready", bool),
        broker=fields.take("broker", str),
        port=fields.take("port", int),
    )


def _image_ids(project: Project, contract: LaunchContract | None) -> dict[str, str]:
    found = {}
    for image in contract.images if contract is not None else ():
        path = project.images / f"{image.name}.sealed"
        if path.exists():
            file = ImageFile(path)
            file.close()
            found[image.name] = str(file.id)
    return found


def _certificate(project: Project) -> tuple[str | None, int | None]:
    if not project.certificate.exists():
        return None, None
    certificate = x509.load_pem_x509_certificate(project.certificate.read_bytes())
    end = certificate.not_valid_after_utc
    return end.isoformat(), (end - _now()).days


def _audited(project: Project) -> tuple[tuple[dict[str, str], ...], tuple[dict[str, str], ...]]:
    """The last releases and refusals."""
    released: list[dict[str, str]] = []
    refused: list[dict[str, str]] = []
    lines = project.audit.read_text(errors="replace").splitlines() if project.audit.exists() else ()
    for line in lines:
        try:
            event = json.loads(line)
            claims = event.get("claims") or {}
            who = {
                "time": event["time"],
                "peer": event["peer"],
                "tee": claims.get("tee", "unknown"),
            }
            if event["event"] == "released":
                released.append({**who, "secrets": ", ".join(event["secrets"])})
            elif event["event"] == "refused":
                error = event.get("error") or {}
                why = error.get("message", "unknown")
                refused.append({**who, "code": error.get("code", "unknown"), "why": why})
        except (ValueError, KeyError, TypeError, AttributeError):
            continue  # a line that was cut when the machine went down
    return tuple(released[-_SHOWN:]), tuple(refused[-_SHOWN:])


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)
