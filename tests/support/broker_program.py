"""``casemate broker`` as a program, with a folder of its own."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.attested import (
    SECRETS,
    audit_lines,
    contract_at,
    policy_document,
    wait_until,
)

from casemate.project.files import write_private
from casemate.project.keys import load_public_key, make_identity_key
from casemate.project.programs import Finished, Services, casemate_command, pick_port, run_program
from casemate.protocol.contract import BrokerIdentity, LaunchContract


@dataclass(frozen=True, slots=True)
class BrokerFolder:
    """What a broker is started with.

    Args:
        folder: holds policy, secrets and the identity key.
        contract: what its policy accepts.
    """

    folder: Path
    contract: LaunchContract

    @property
    def audit(self) -> Path:
        return self.folder / "audit.jsonl"

    @property
    def log(self) -> Path:
        return self.folder / "broker.log"

    def command(self, *more: str, identity: bool = True) -> list[str]:
        """The broker's command line, with or without its identity key."""
        return casemate_command(
            "broker",
            *("--policy", str(self.folder / "policy.toml")),
            *("--secrets", str(self.folder / "secrets")),
            *(("--identity", str(self.folder / "broker.key")) if identity else ()),
            *("--listen", self.contract.broker.address),
            *more,
        )

    def fails(self, *more: str) -> Finished:
        """Start it where it can't run, and wait for its end."""
        return run_program(self.command(*more), timeout=20.0)

    @contextmanager
    def running(
        self, *more: str, audit: Path | None = None, identity: bool = True, ends_with: int = 0
    ) -> Iterator[int]:
        """Run it, with its audit trail in a file; gives its process id.

        Args:
            more: further options.
            audit: the file of the trail, if not the usual one.
            identity: whether it has an identity key.
            ends_with: its exit status after SIGTERM.
        """
        trail = ("--audit", str(audit or self.audit))
        command = self.command("--json", *trail, *more, identity=identity)
        self.log.unlink(missing_ok=True)  # an earlier run's would say that it is ready
        with Services() as services:
            service = services.start("broker", command, log=self.log)
            service.wait_for(lambda: self.ready() is not None, timeout=20.0)
            yield service.process.pid
            ((_, status),) = services.stop()
        assert status == ends_with, self.log.read_text()

    def ready(self) -> dict[str, object] | None:
        """What it says on its standard output when it is ready."""
        for line in self.log.read_text().splitlines(keepends=True):
            if line.startswith("{") and line.endswith("\n"):
                ready: dict[str, object] = json.loads(line)
                return ready
        return None

    def lines(self, *events: str) -> list[dict[str, object]]:
        """The lines of its audit trail, of some events."""
        return [line for line in audit_lines(self.audit) if line["event"] in events]

    def wait_for_lines(self, event: str, count: int) -> None:
        wait_until(lambda: len(self.lines(event)) >= count)


def broker_folder(folder: Path, secrets: Mapping[str, bytes] = SECRETS) -> BrokerFolder:
    """A folder for a broker that releases ``secrets`` to one contract."""
    private, public = make_identity_key()
    write_private(folder / "broker.key", private.reveal())
    (folder / "broker.pub").write_bytes(public)
    port = pick_port(0)
    key = load_public_key(folder / "broker.pub")
    contract = contract_at(port, broker=BrokerIdentity(address=f"127.0.0.1:{port}", key=key))
    document = policy_document(contract, secrets=dict.fromkeys(secrets, ("launcher",)))
    (folder / "policy.toml").write_text(document.render())
    for name, value in secrets.items():
        write_private(folder / "secrets" / name, value)
    return BrokerFolder(folder, contract)
