"""A broker at work in this process, and honest launchers that fetch from it: what attacks attack.

The broker is the whole one, on loopback, with its audit trail in a file; only signals are missing,
because they belong to a process and not to a thread of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import datetime
import hashlib
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from casemate.broker.run import BrokerConfig, _serve
from casemate.broker.store import SecretStore, load_secrets
from casemate.channel.party import Limits, RefusedByPeerError
from casemate.evidence import Attester, Evidence
from casemate.launcher.fetch import fetch_secrets
from casemate.launcher.status import Status
from casemate.policy import Alternative, Constraint, Policy, PolicyDocument
from casemate.project.keys import make_identity_key
from casemate.project.policies import policy_for_launcher
from casemate.project.programs import pick_port
from casemate.protocol.contract import (
    BrokerIdentity,
    ImageMount,
    LaunchContract,
    SecretPlacement,
    TlsMode,
)
from casemate.tee.identity_key import IdentityKey
from casemate.tee.simulated import DevelopmentRoot, SimulatedTee
from casemate.types import Sha384, sha384
from casemate.verify import Known
from casemate.verify.roots import VENDOR_ROOTS, VendorRoots

_SECONDS = 10.0


def development_root(label: bytes) -> DevelopmentRoot:
    """A development root whose private key is the SHA-256 of a label."""
    return DevelopmentRoot(Ed25519PrivateKey.from_private_bytes(hashlib.sha256(label).digest()))


ROOT = development_root(b"the root that the policy names")
OTHER_ROOT = development_root(b"a root that nobody named")
MEASUREMENT = sha384(b"the launcher's code")
BROKER_KEY = IdentityKey(make_identity_key()[0])
OTHER_KEY = IdentityKey(make_identity_key()[0])
SECRETS = {"image_key": b"canary-image-key-91c2", "ssl_config": b"canary-ssl-config-57ab"}


def contract_at(port: int, **changes: Any) -> LaunchContract:
    """A contract whose broker is at ``port`` of this machine and has `BROKER_KEY`."""
    contract = LaunchContract(
        argv=("/bin/server", "--port=9000"),
        environment={},
        host_environment={},
        working_directory="/",
        uid=0,
        gid=0,
        images=(ImageMount(name="root", id=Sha384(bytes(48)), key="image_key", mount="/"),),
        secrets=(SecretPlacement(name="ssl_config", path="/etc/tf_ssl.cfg", mode=0o400),),
        broker=BrokerIdentity(address=f"127.0.0.1:{port}", key=BROKER_KEY.spki),
        tls=TlsMode.SECRET,
    )
    return dataclasses.replace(contract, **changes)


def launcher_tee(
    root: DevelopmentRoot = ROOT, *, measurement: Sha384 = MEASUREMENT, debug: bool = False
) -> SimulatedTee:
    """The TEE of a launcher: by default of the one that the policy names."""
    return SimulatedTee(root, measurement=measurement, debug=debug)


def fetched(
    contract: LaunchContract,
    tee: Attester | None = None,
    *,
    timeout: float = 0.0,
) -> dict[str, bytes]:
    """What a launcher gets for its contract; without ``timeout`` it tries once."""
    status = Status(as_json=False, began=time.monotonic())
    secrets = fetch_secrets(contract, tee or launcher_tee(), timeout=timeout, status=status)
    return {name: secret.reveal() for name, secret in secrets.items()}


def refusal_of(contract: LaunchContract, tee: Attester | None = None) -> str:
    """The code that a broker refuses a launcher with."""
    try:
        got = fetched(contract, tee)
    except RefusedByPeerError as error:
        return error.remote_code
    raise AssertionError(f"it released {', '.join(got)}")


def policy_document(
    contract: LaunchContract,
    *,
    secrets: Mapping[str, tuple[str, ...]] | None = None,
    more: Mapping[str, PolicyDocument] | None = None,
    **changes: Constraint,
) -> PolicyDocument:
    """The strictest policy ``launcher`` for a contract, with changes.

    Args:
        contract: what may be launched.
        secrets: what each secret demands, if not ``launcher``.
        more: further policies, each the ``launcher`` of another document.
        changes: constraints in place of the strictest.
    """
    strictest = policy_for_launcher(contract, root=ROOT, measurement=MEASUREMENT)
    (alternative,) = strictest.policies["launcher"].alternatives
    changed = Alternative(tee=alternative.tee, constraints={**alternative.constraints, **changes})
    policies = {"launcher": Policy(name="launcher", alternatives=(changed,))}
    for name, document in (more or {}).items():
        policies[name] = dataclasses.replace(document.policies["launcher"], name=name)
    return PolicyDocument(policies=policies, secrets=secrets or strictest.secrets)


@dataclass(frozen=True, slots=True)
class RunningBroker:
    """A broker at work.

    Args:
        port: where it listens on 127.0.0.1.
        contract: the one that its policy accepts.
        audit: the file of its audit trail.
        stop: stops it, as SIGTERM does; it stops by itself at the end.
    """

    port: int
    contract: LaunchContract
    audit: Path
    stop: Callable[[], None]

    def lines(self, *events: str) -> list[dict[str, Any]]:
        """The audit trail: all of it, or the lines of some events."""
        return [line for line in audit_lines(self.audit) if not events or line["event"] in events]

    def refusals(self, count: int = 1) -> list[dict[str, Any]]:
        """The error of each refusal, once there are ``count``."""
        wait_until(lambda: len(self.lines("refused")) >= count)
        return [line["error"] for line in self.lines("refused")]

    def refused_for(self) -> list[str]:
        """The code of each refusal, once there is one."""
        return [error["code"] for error in self.refusals()]

    def released(self) -> list[str]:
        """The names of everything that it has let go."""
        return [name for line in self.lines("released") for name in line["secrets"]]

    def still_serves(self) -> None:
        """An honest launcher gets its secrets, and in time."""
        assert fetched(self.contract, timeout=3.0) == SECRETS


def audit_lines(audit: Path) -> list[dict[str, Any]]:
    """The whole lines of an audit trail: a broker at work may be in the middle of the last."""
    whole = audit.read_text().rpartition("\n")[0]
    return [json.loads(line) for line in whole.splitlines()]


@contextmanager
def running_broker(
    folder: Path,
    *,
    contract: LaunchContract | None = None,
    document: PolicyDocument | None = None,
    secrets: Mapping[str, bytes] = SECRETS,
    attester: Attester = BROKER_KEY,
    limits: Limits | None = None,
    port: int = 0,
    endorsements: tuple[Path, ...] = (),
    vendors: VendorRoots = VENDOR_ROOTS,
    forecast: datetime.timedelta = datetime.timedelta(days=30),
    knowledge: Callable[[Evidence], Known] | None = None,
) -> Iterator[RunningBroker]:
    """Run a broker while the block runs.

    Args:
        folder: for its files; must be empty of a broker's.
        contract: what its policy accepts; one at its own address if not given.
        document: its policies, if not the strictest for ``contract``.
        secrets: what it holds.
        attester: who it is.
        limits: of its connections.
        port: where it listens; a free one if not given.
        forecast: how far it looks ahead.
        endorsements, vendors, knowledge: for launchers on hardware.
    """
    port = pick_port(port)
    contract = contract or contract_at(port)
    document = document or policy_for_launcher(contract, root=ROOT, measurement=MEASUREMENT)
    (folder / "policy.toml").write_text(document.render())
    (folder / "secrets").mkdir()
    for name, value in secrets.items():
        path = folder / "secrets" / name
        path.touch(mode=0o600)
        path.write_bytes(value)
    with (folder / "audit.jsonl").open("w") as audit:
        config = BrokerConfig(
            policy=folder / "policy.toml",
            secrets=folder / "secrets",
            host="127.0.0.1",
            port=port,
            attester=attester,
            audit=audit,
            limits=limits or Limits(),
            endorsements=endorsements,
            vendors=vendors,
            forecast=forecast,
            knowledge=knowledge,
        )
        with _serving(config) as stop:
            yield RunningBroker(port, contract, folder / "audit.jsonl", stop)


def wait_until(holds: Callable[[], bool], seconds: float = _SECONDS) -> None:
    """Wait until something holds; an error where it doesn't in time."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it doesn't come to hold in time"
        time.sleep(0.01)


class _Loop(asyncio.SelectorEventLoop):
    """An event loop in a thread: what SIGTERM would do is kept to be called."""

    def __init__(self) -> None:
        super().__init__()
        self.stop_serving: Callable[[], object] = lambda: None

    def add_signal_handler(self, sig: int, callback: Any, *args: Any) -> None:
        del sig, args
        self.stop_serving = callback


@contextmanager
def _serving(config: BrokerConfig) -> Iterator[Callable[[], None]]:
    document = PolicyDocument.parse(config.policy.read_text())
    store = SecretStore(load_secrets(config.secrets), document)
    ready, loop, failures = threading.Event(), _Loop(), list[BaseException]()

    def run() -> None:
        try:
            with asyncio.Runner(loop_factory=lambda: loop) as runner:
                runner.run(_serve(config, document, store, lambda *_: ready.set()))
        except BaseException as error:  # noqa: BLE001  it is raised again below
            failures.append(error)
            ready.set()

    thread = threading.Thread(target=run, name="broker under test")

    def stop() -> None:
        with contextlib.suppress(RuntimeError):  # it is closed already
            loop.call_soon_threadsafe(lambda: loop.stop_serving())
        thread.join(_SECONDS)
        assert not thread.is_alive(), "the broker doesn't stop"

    thread.start()
    try:
        assert ready.wait(_SECONDS), "the broker doesn't get ready"
        if not failures:
            yield stop
    finally:
        stop()
    if failures:
        raise failures[0]
