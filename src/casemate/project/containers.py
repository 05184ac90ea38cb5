"""Run a project's container images with podman or docker, with as few rights as they need.

Never ``--privileged``. The broker has no capability at all; the launcher has those without which a
new root can't be made, and memory to decrypt into.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from casemate.encoding import MapReader
from casemate.errors import UnavailableError, UsageError
from casemate.evidence import Tee
from casemate.image.oci.write import write_docker_archive
from casemate.project.build import Project
from casemate.project.package import (
    DEVELOPMENT_ROOT,
    IDENTITY,
    POLICY,
    SECRETS,
    Packaged,
    Part,
)
from casemate.project.programs import answers
from casemate.project.state import read_state, write_state

ENGINES = ("podman", "docker")
LAUNCHER_CAPABILITIES = ("CHOWN", "MKNOD", "SETGID", "SETPCAP", "SETUID", "SYS_CHROOT")
"""Without mount rights: own placed secrets, make devices, change user, drop rights, chroot."""
MEMORY = "/run"
"""Where the launcher finds memory to decrypt into."""
_AUDIT_FOLDER = "/var/log/casemate"
_READY_SECONDS, _POLL_SECONDS, _STOP_SECONDS = 120.0, 0.2, 10
_RUN_HERE = (Part.BROKER, Part.WORKLOAD)
_BROKER_READY = "casemate broker: ready"
_DEVICES = {
    Tee.SGX: ("/dev/sgx_enclave", "/dev/sgx_provision"),
    Tee.TDX: ("/dev/tdx_guest",),
    Tee.SNP: ("/dev/sev-guest",),
    Tee.TPM: ("/dev/tpmrm0",),
    Tee.AZURE_SNP: ("/dev/tpmrm0",),
    Tee.AZURE_TDX: ("/dev/tpmrm0",),
    Tee.NITRO: ("/dev/nsm",),
}
_CONFIGFS = Path("/sys/kernel/config")


@dataclass(frozen=True, slots=True, kw_only=True)
class Containers:
    """What was started.

    Args:
        engine: ``podman`` or ``docker``.
        broker: the broker's container.
        workload: the launcher's.
    """

    engine: str
    broker: str
    workload: str


def find_engine(wanted: str | None = None) -> str:
    """The engine to run containers with: the one that is wanted, or whichever there is.

    Raises:
        UsageError: ``containers.engine`` where there's none.
    """
    for engine in (wanted,) if wanted else ENGINES:
        if shutil.which(engine):
            return engine
    raise UsageError(
        "containers.engine", "there's nothing here to run containers with", field="--engine",
        expected=" or ".join((wanted,) if wanted else ENGINES), got="neither is installed",
        remedy="Install podman, or run without --containers.",
    )  # fmt: skip


def start_containers(
    project: Project,
    packaged: Iterable[Packaged],
    layout: Path,
    *,
    engine: str,
    memory: str,
    broker_options: tuple[str, ...] = (),
    say: Callable[[str], None] = lambda _: None,
) -> Containers:
    """Load images and start broker and workload; return when the workload serves.

    Args:
        project: built.
        packaged: its images.
        layout: the folder in OCI layout that holds them.
        engine: `find_engine`'s.
        memory: how much the launcher may decrypt into: ``1g``.
        broker_options: further options of ``casemate broker``.
        say: told of progress.

    Raises:
        UsageError: ``project.runs`` where it runs already.
        UnavailableError: ``containers.*`` with what the engine or the container said.
    """
    if running_containers(project) is not None:
        raise UsageError(
            "project.runs", "the project runs already, in containers", field="--project",
            remedy="See casemate status; stop it with casemate down.",
        )  # fmt: skip
    references = {each.part: each.reference for each in packaged if each.part in _RUN_HERE}
    _load(engine, references, layout)
    name = project.manifest.name
    found = Containers(
        engine=engine, broker=f"casemate-{name}-broker", workload=f"casemate-{name}-workload"
    )
    project.audit.parent.mkdir(exist_ok=True)
    write_state(_state_path(project), found)
    try:
        command = broker_command(project, found, references[Part.BROKER], broker_options)
        _engine(command)
        _wait(engine, found.broker, lambda: _BROKER_READY in container_log(found, "broker"))
        say(f"{found.broker}: listens on {project.broker_address}")
        _engine(workload_command(project, found, references[Part.WORKLOAD], memory))
        _wait(engine, found.workload, lambda: answers(project.manifest.workload.port))
        say(f"{found.workload}: serves on port {project.manifest.workload.port}")
    except BaseException:
        stop_containers(project)
        raise
    return found


def stop_containers(project: Project) -> bool:
    """Stop and remove a project's containers; whether there were any."""
    found = _read(project)
    if found is None:
        return False
    for name in (found.workload, found.broker):
        _engine([found.engine, "stop", "--time", str(_STOP_SECONDS), name], must=False)
        _engine([found.engine, "rm", "--force", name], must=False)
    _state_path(project).unlink(missing_ok=True)
    return True


def running_containers(project: Project) -> Containers | None:
    """A project's containers, if both run."""
    found = _read(project)
    if found is None:
        return None
    alive = all(_runs(found.engine, name) for name in (found.broker, found.workload))
    return found if alive else None


def container_log(found: Containers, name: str) -> str:
    """What a container said.

    Args:
        found: the containers.
        name: ``broker`` or ``workload``.
    """
    container = found.broker if name == "broker" else found.workload
    done = subprocess.run(
        [found.engine, "logs", container], capture_output=True, text=True, errors="replace"
    )
    return done.stdout + done.stderr


def broker_command(
    project: Project, found: Containers, image: str, options: Sequence[str] = ()
) -> list[str]:
    """The command line that starts the broker's container."""
    # Rootless podman's root is the user who started it.
    rootless = found.engine == "podman" and os.getuid() != 0
    user = "0:0" if rootless else f"{os.getuid()}:{os.getgid()}"
    return [
        *_run(found.engine, found.broker, user),
        *_mounted(project.policy, POLICY),
        *_mounted(project.secrets, SECRETS),
        *_mounted(project.identity, IDENTITY),
        *("--volume", f"{project.audit.parent}:{_AUDIT_FOLDER}"),
        image,
        *("--policy", POLICY, "--secrets", SECRETS, "--identity", IDENTITY),
        *("--listen", project.broker_address, "--audit", f"{_AUDIT_FOLDER}/{project.audit.name}"),
        *options,
    ]


def workload_command(project: Project, found: Containers, image: str, memory: str) -> list[str]:
    """The command line that starts the launcher's container."""
    capabilities = [f"--cap-add={each}" for each in LAUNCHER_CAPABILITIES]
    tee = project.manifest.tee.kind
    devices = [f"--device={each}" for each in _DEVICES.get(tee, ()) if Path(each).exists()]
    if tee in {Tee.TDX, Tee.SNP, Tee.CCA} and _CONFIGFS.is_dir():
        devices += ["--volume", f"{_CONFIGFS}:{_CONFIGFS}"]
    root = project.development_root
    return [
        *_run(found.engine, found.workload, "0:0"),
        *capabilities,
        *devices,
        *("--tmpfs", f"{MEMORY}:rw,exec,dev,size={memory}"),
        *(_mounted(root, DEVELOPMENT_ROOT) if tee is Tee.SIMULATED else ()),
        image,
    ]


def _run(engine: str, name: str, user: str) -> list[str]:
    return [
        *(engine, "run", "--detach", "--name", name, "--network", "host", "--user", user),
        *("--read-only", "--cap-drop=all", "--security-opt", "no-new-privileges"),
    ]


def _mounted(source: Path, target: str) -> tuple[str, str]:
    return "--volume", f"{source}:{target}:ro"


def _load(engine: str, references: dict[Part, str], layout: Path) -> None:
    with tempfile.TemporaryDirectory(dir=layout.parent, prefix=".archive-") as scratch:
        archive = Path(scratch) / "images.tar"
        write_docker_archive(archive, layout, list(references.values()))
        _engine([engine, "load", "--quiet", "--input", str(archive)])


def _wait(engine: str, name: str, ready: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _READY_SECONDS
    while not ready():
        late = time.monotonic() > deadline
        if late or not _runs(engine, name):
            log = subprocess.run(
                [engine, "logs", "--tail", "15", name], capture_output=True, text=True
            )
            raise UnavailableError(
                "containers.timeout" if late else "containers.ended",
                f"{name} {'was not ready in time' if late else 'ended before it was ready'}:\n"
                f"{log.stdout}{log.stderr}",
            )
        time.sleep(_POLL_SECONDS)


def _runs(engine: str, name: str) -> bool:
    done = subprocess.run(
        [engine, "inspect", "--format", "{{.State.Running}}", name],
        capture_output=True, text=True,
    )  # fmt: skip
    return done.stdout.strip() == "true"


def _engine(command: list[str], *, must: bool = True) -> str:
    done = subprocess.run(command, capture_output=True, text=True, errors="replace")
    if must and done.returncode != 0:
        raise UnavailableError(
            "containers.engine", f"{' '.join(command[:2])} failed", field=command[0],
            got=done.stderr.strip()[-400:],
            remedy="Can it run containers at all? Try: podman run --rm IMAGE",
        )  # fmt: skip
    return done.stdout


def _state_path(project: Project) -> Path:
    return project.folder / "containers.json"


def _read(project: Project) -> Containers | None:
    found = read_state(_state_path(project), _containers)
    return found if found is not None and found.engine in ENGINES else None


def _containers(fields: MapReader) -> Containers:
    return Containers(
        engine=fields.take("engine", str),
        broker=fields.take("broker", str),
        workload=fields.take("workload", str),
    )
