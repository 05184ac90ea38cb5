"""Real launches, small: a root file system that is one static program, and a broker of its own."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from tests.support.attested import audit_lines
from tests.support.trees import directory, file, symlink

from casemate.image.keys import encode_key_file, generate_key
from casemate.image.seal import seal
from casemate.image.storage import DANGER, is_memory
from casemate.image.tree import TreeEntry
from casemate.launcher.isolation import choose_isolation
from casemate.launcher.options import RootChoice
from casemate.project.keys import load_public_key, make_identity_key
from casemate.project.policies import policy_for_launcher
from casemate.project.programs import (
    Finished,
    Services,
    answers,
    casemate_command,
    pick_port,
    run_program,
)
from casemate.protocol.contract import (
    BrokerIdentity,
    ImageMount,
    LaunchContract,
    SecretPlacement,
    TlsMode,
)
from casemate.protocol.contract_certificate import CertificatePlacement
from casemate.tee.simulated import DevelopmentRoot, measure_launcher

BUSYBOX = Path("/bin/busybox")
CANARY = b"canary-of-a-tls-key-4f1e"
_APPLETS = (
    "sh", "ls", "cat", "id", "env", "ps", "sleep", "kill", "true", "stat", "grep", "mount",
    "mkdir", "touch", "wc", "head",
)  # fmt: skip
_TIMEOUT = 30.0
_MEMORY = ("/dev/shm", "/run", "/tmp", "/var/tmp", "/mnt")
_MOUNTED = ("/mnt", "/media", "/srv", "/opt", "/run", "/var/tmp", "/tmp")


@functools.cache
def root_choices() -> list[str]:
    """The ways to make a new root that this machine allows."""
    allowed = []
    for choice in (RootChoice.NAMESPACE, RootChoice.CHROOT):
        try:
            choose_isolation(choice)
        except Exception:  # noqa: BLE001  whatever the reason, it isn't allowed
            continue
        allowed.append(choice.value)
    return allowed


needs_busybox = pytest.mark.skipif(
    not BUSYBOX.is_file() or not root_choices(),
    reason="needs busybox-static (tools/install-test-programs), and namespaces or chroot",
)


def busybox_root(*more: TreeEntry) -> list[TreeEntry]:
    """A root file system with a shell and a few commands."""
    content = BUSYBOX.read_bytes()
    return [
        directory("bin"),
        file("bin/busybox", content, 0o755),
        *(symlink(f"bin/{name}", "busybox") for name in _APPLETS),
        directory("etc"),
        *more,
    ]


def memory_for_programs() -> Path | None:
    """Where this machine has memory that files can be run from; None in a plain container."""
    for place in map(Path, _MEMORY):
        usable = place.is_dir() and os.access(place, os.W_OK | os.X_OK) and is_memory(place)
        if usable and not os.statvfs(place).f_flag & os.ST_NOEXEC:
            return place
    return None


def storage_options() -> tuple[str, ...]:
    """What a launch is told where it can't mount, and there is no memory to decrypt into.

    It refuses that by itself. Only what else it does is tried there.
    """
    if "namespace" in root_choices() or memory_for_programs():
        return ()
    return (DANGER,)


@contextmanager
def own_storage(folder: Path, environment: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder where this test's launches alone put what they decrypt when they can't mount.

    Args:
        folder: of this test alone; taken where there is no memory for it.
        environment: in which launchers are told of it.
    """
    place = memory_for_programs()
    with tempfile.TemporaryDirectory(prefix="casemate-test-", dir=place or folder) as own:
        environment.setenv("XDG_RUNTIME_DIR" if place else "TMPDIR", own)
        yield Path(own)


def launch_mounts(*folders: Path) -> set[str]:
    """The mounts of this machine that a launch could have left there.

    Others mount and unmount besides; these are where launchers mount, or within ``folders``.
    """
    places = [f"{base}/{name}" for base in _MOUNTED for name in ("root", "lower", "upper", "work")]
    places += [str(folder) for folder in folders]
    found = set()
    for line in Path("/proc/self/mounts").read_text().splitlines():
        source, target = line.split()[:2]
        if (source == "casemate" and target in _MOUNTED) or any(
            target == place or target.startswith(place + "/") for place in places
        ):
            found.add(line)
    return found


@dataclass(slots=True)
class LaunchSite:
    """A folder with everything that a launch needs, and a broker that runs.

    Args:
        folder: of this test alone.
        contract: what the policy was written for.
        services: end with the test.
        options: further ones of every launch.
        tee: those that say in which TEE; simulated if there are none.
    """

    folder: Path
    contract: LaunchContract
    services: Services
    options: tuple[str, ...] = field(default=())
    tee: tuple[str, ...] = field(default=())

    @property
    def contract_file(self) -> Path:
        return self.folder / "launch.cbor"

    @property
    def images(self) -> Path:
        return self.folder / "images"

    @property
    def audit(self) -> Path:
        return self.folder / "audit.jsonl"

    @property
    def broker_log(self) -> Path:
        return self.folder / "broker.log"

    def restart_broker(self) -> None:
        """Stop the broker if it runs, and start it with what lies in the folder now."""
        self.services.stop()
        address = self.contract.broker.address
        broker = self.services.start(
            "broker",
            casemate_command(
                "broker",
                *("--policy", str(self.folder / "policy.toml")),
                *("--secrets", str(self.folder / "secrets"), "--listen", address),
                *("--identity", str(self.folder / "broker.key"), "--audit", str(self.audit)),
            ),
            log=self.broker_log,
        )
        port = self.contract.broker.endpoint[1]
        broker.wait_for(lambda: answers(port), timeout=_TIMEOUT)

    def command(self, *more: str, contract: Path | None = None) -> list[str]:
        """The launcher's command line."""
        simulated = ("--tee", "simulated", "--development-root", str(self.folder / "root.pem"))
        return casemate_command(
            "launch",
            *("--contract", str(contract or self.contract_file), "--images", str(self.images)),
            *(*(self.tee or simulated), *self.options, *more),
        )

    def launch(self, *more: str, contract: Path | None = None) -> Finished:
        """Launch, and wait for the end."""
        return run_program(self.command(*more, contract=contract), timeout=_TIMEOUT)

    def changed(self, **changes: object) -> Path:
        """Another contract than the policy's, as the host would make it."""
        path = self.folder / "changed.cbor"
        path.write_bytes(dataclasses.replace(self.contract, **changes).encode())  # type: ignore[arg-type]
        return path

    def refusals(self) -> list[dict[str, object]]:
        """What the broker refused, and why: the ``error`` of each audit line.

        Without who hung up at once. So does whoever asks whether the broker is there, and the line
        of that may come at any time later.
        """
        refused = [line["error"] for line in audit_lines(self.audit) if line["event"] == "refused"]
        return [each for each in refused if each["code"] not in {"channel.cut", "channel.lost"}]

    @contextmanager
    def running(self, *more: str, ready: str | None = "ready") -> Iterator[Running]:
        """Launch in the background, until the workload says ``ready`` on its standard output.

        And the launcher that it runs, also where the workload says nothing (None): until it knows,
        a signal ends the launch and isn't passed on.
        """
        out = self.folder / f"out-{time.monotonic_ns()}"
        with out.open("ab") as stream:  # what `cat` sends by sendfile would overwrite other lines
            process = subprocess.Popen(
                self.command(*more), stdout=stream, stderr=stream, stdin=subprocess.DEVNULL
            )
        try:
            deadline = time.monotonic() + _TIMEOUT
            while not _says(out, ready):
                assert process.poll() is None, out.read_text(errors="replace")
                assert time.monotonic() < deadline, out.read_text(errors="replace")
                time.sleep(0.02)
            yield Running(process, out, tuple(descendants(process.pid)))
        finally:
            below = descendants(process.pid) if process.poll() is None else []
            process.kill()
            process.wait()
            assert gone_in_time(below), "the keeper doesn't clean up"


@dataclass(frozen=True, slots=True)
class Running:
    """A launcher at work: its process, its output, and the processes below it, parents first."""

    process: subprocess.Popen[bytes]
    output: Path
    below: tuple[int, ...]


@contextmanager
def launch_site(
    folder: Path,
    argv: Sequence[str],
    *,
    entries: Sequence[TreeEntry] | None = None,
    volume: Sequence[TreeEntry] = (),
    environment: dict[str, str] | None = None,
    host_environment: dict[str, str] | None = None,
    secrets: dict[str, tuple[bytes, str, int]] | None = None,
    user: int = 0,
    certificate: CertificatePlacement | None = None,
) -> Iterator[LaunchSite]:
    """Everything for one contract, with its broker running.

    With a certificate, the launcher mints it, and no secret is placed unless one is given.
    """
    keep, images = folder / "secrets", folder / "images"
    for new in (keep, images):
        new.mkdir()
    usual = {} if certificate else {"tls": (CANARY, "/etc/tls.key", 0o400)}
    placed = usual if secrets is None else secrets
    sealed = []
    for name, mount, tree in (
        ("root", "/", busybox_root() if entries is None else entries),
        ("volume", "/data", volume),
    ):
        if mount == "/" or tree:
            key = generate_key()
            _keep(keep / f"{name}_key", encode_key_file(key).reveal())
            info = seal(tree, key, images / f"{name}.sealed")
            sealed.append(ImageMount(name=name, id=info.id, key=f"{name}_key", mount=mount))
    for name, (value, _, _) in placed.items():
        _keep(keep / name, value)
    private, public = make_identity_key()
    _keep(folder / "broker.key", private.reveal())
    _keep(folder / "broker.pub", public)
    port = pick_port(0)
    contract = LaunchContract(
        argv=tuple(argv),
        environment={"PATH": "/bin"} if environment is None else environment,
        host_environment=host_environment or {},
        working_directory="/",
        uid=user,
        gid=user,
        images=tuple(sealed),
        secrets=tuple(
            SecretPlacement(name=name, path=path, mode=mode)
            for name, (_, path, mode) in placed.items()
        ),
        broker=BrokerIdentity(
            address=f"127.0.0.1:{port}", key=load_public_key(folder / "broker.pub")
        ),
        tls=TlsMode.ATTESTED if certificate else TlsMode.SECRET if placed else TlsMode.NONE,
        certificate=certificate,
    )
    with Services() as services:
        site = LaunchSite(folder, contract, services, options=storage_options())
        site.contract_file.write_bytes(contract.encode())
        root = DevelopmentRoot.load_or_create(folder / "root.pem")
        policy = policy_for_launcher(contract, root=root, measurement=measure_launcher())
        (folder / "policy.toml").write_text(policy.render())
        site.restart_broker()
        yield site


def descendants(pid: int) -> list[int]:
    """The processes below ``pid``, parents first."""
    found = []
    with contextlib.suppress(FileNotFoundError):  # processes and threads end while we look
        for task in Path(f"/proc/{pid}/task").iterdir():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                for child in (task / "children").read_text().split():
                    found += [int(child), *descendants(int(child))]
    return found


def alive(pid: int) -> bool:
    """Whether a process runs; one that waits to be reaped doesn't.

    Each of its threads counts: the first may have ended while another one still holds what the
    process has open.
    """
    try:
        threads = list(Path(f"/proc/{pid}/task").iterdir())
    except OSError:
        return False
    return any(_runs(thread) for thread in threads)


def _runs(thread: Path) -> bool:
    try:
        state = (thread / "stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return False
    return state not in {"Z", "X"}


def gone_in_time(pids: Sequence[int], seconds: float = 10.0) -> bool:
    """Whether all of them end in time."""
    deadline = time.monotonic() + seconds
    while any(alive(pid) for pid in pids):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def _says(output: Path, ready: str | None) -> bool:
    lines = output.read_text(errors="replace").splitlines()
    runs = any(line.endswith("the workload runs") for line in lines)
    return runs and (ready is None or ready in lines)


def _keep(path: Path, content: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as stream:
        stream.write(content)
