"""Four attacks of whoever runs the machine, against the real programs, and why each is refused."""

from __future__ import annotations

import dataclasses
import json
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import casemate
from casemate.errors import InternalError
from casemate.project.build import Project
from casemate.project.demo.imposter import imposter
from casemate.project.files import replace_public
from casemate.project.programs import casemate_command, run_program
from casemate.protocol.contract import LaunchContract

# What -m casemate.launcher does, with another folder of code in front.
_RUN_CHANGED = (
    "import runpy, sys; sys.path.insert(0, sys.argv.pop(1)); "
    "runpy.run_module('casemate.launcher', run_name='__main__', alter_sys=True)"
)
_MEANING = {
    "measurement": "the measurement of the launcher's code",
    "launch": "the digest of the launch contract",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """An attack and what came of it.

    Args:
        attack: what was done, as a clause.
        exit_code: the launcher's.
        code: the stable code of the reason.
        reason: the reason, as a sentence.
    """

    attack: str
    exit_code: int
    code: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Attacker:
    """Whoever runs the machine.

    Args:
        project: what the owner built.
        contract: the contract that the policy names.
        options: how the launcher is started, without contract and images.
        server: a server with an attested certificate, ``host:port``.
        clients: the policy under which clients verify it.
        photo: what they would send.
    """

    project: Project
    contract: LaunchContract
    options: tuple[str, ...]
    server: str
    clients: Path
    photo: Path

    def change_code(self) -> Refusal:
        """Add one line to a copy of the launcher's code, and run that."""
        copy = self.project.base / "changed-code"
        shutil.copytree(
            Path(casemate.__file__).parent,
            copy / "casemate",
            ignore=shutil.ignore_patterns("__pycache__"),
        )
        changed = copy / "casemate" / "launcher" / "fetch.py"
        replace_public(changed, changed.read_bytes() + b"# one line more\n")
        command = [sys.executable, "-I", "-c", _RUN_CHANGED, str(copy)]
        return self._by_broker(
            "a launcher with one line of code more", command, self.project.contract
        )

    def change_command(self) -> Refusal:
        """Take TLS off the model server's command line."""
        argv = tuple(part for part in self.contract.argv if not part.startswith("--ssl_config"))
        changed = dataclasses.replace(self.contract, argv=argv)
        path = self.project.base / "changed.cbor"
        replace_public(path, changed.encode())
        return self._by_broker(
            "a command line without --ssl_config_file", casemate_command("launch"), path
        )

    def flip_byte(self) -> Refusal:
        """Flip a bit in the middle of the sealed root file system."""
        path = self.project.base / "flipped.sealed"
        shutil.copyfile(self.project.images / "root.sealed", path)
        with path.open("r+b") as file:
            file.seek(path.stat().st_size // 2)
            byte = file.read(1)[0]
            file.seek(-1, 1)
            file.write(bytes([byte ^ 1]))
        exit_code, error = self._launch(
            casemate_command("launch"), self.project.contract, "--image", f"root={path}"
        )
        message = str(error["message"]).replace(f"{self.project.base}/", "")
        return Refusal(
            attack="a sealed image with one flipped bit",
            exit_code=exit_code,
            code=str(error["code"]),
            reason=f"The launcher stopped before anything ran: {message}.",
        )

    def take_the_servers_place(self) -> Refusal:
        """Answer as the server, with its evidence copied into a certificate of another key."""
        with imposter(self.server, self.project.base) as (port, received):
            done = run_program(
                casemate_command(
                    "predict",
                    *("--server", f"localhost:{port}", "--policy", str(self.clients)),
                    *("--image", str(self.photo), "--json"),
                )
            )
        if done.status == 0 or any(received):
            raise InternalError(
                "demo.not-refused",
                f"an attack was not refused (status {done.status}):\n{done.stderr}",
            )
        return Refusal(
            attack="a server of the host's that shows the genuine server's evidence",
            exit_code=done.status,
            code=str(json.loads(done.stdout)["error"]["code"]),
            reason="The client sent nothing: the evidence is about another key than that of the "
            "certificate in which it came.",
        )

    def _by_broker(self, attack: str, launcher: list[str], contract: Path) -> Refusal:
        exit_code, error = self._launch(launcher, contract)
        refused = self._audit_line(str(error.get("correlation_id")))
        mismatch = refused["mismatches"][0]
        field, expected, got = (str(mismatch[key]) for key in ("field", "expected", "got"))
        return Refusal(
            attack=attack,
            exit_code=exit_code,
            code=str(refused["code"]),
            reason=f"The broker released nothing: {_MEANING.get(field, field)} is "
            f"{_short(got)}, and the policy wants {_short(expected)}.",
        )

    def _launch(
        self, launcher: list[str], contract: Path, *more: str
    ) -> tuple[int, dict[str, object]]:
        done = run_program(
            [
                *launcher,
                *("--contract", str(contract), "--images", str(self.project.images)),
                *(*self.options, *more, "--json"),
            ],
            timeout=60,
        )
        for line in done.stdout.splitlines():
            event = json.loads(line)
            if event["event"] == "error":
                return done.status, event["error"]
        raise InternalError(
            "demo.not-refused", f"an attack was not refused (status {done.status}):\n{done.stderr}"
        )

    def _audit_line(self, correlation_id: str) -> dict[str, list[dict[str, object]]]:
        for line in self.project.audit.read_text().splitlines():
            event = json.loads(line)
            if event["event"] == "refused" and event["correlation_id"] == correlation_id:
                error: dict[str, list[dict[str, object]]] = event["error"]
                return error
        raise InternalError("demo.audit", f"the broker's audit has no refusal {correlation_id}")


def _short(value: str) -> str:
    return value if len(value) <= 24 else f"{value[:12]}…"
