"""A real TPM 2.0 in software, swtpm, as a process of its own: Debian's ``swtpm``, ``swtpm-tools``.

Everything that a TPM does is done by it. What it can't be is hardware: who runs it has its seeds.
"""

from __future__ import annotations

import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from cryptography import x509

from casemate.errors import CasemateError
from casemate.tee.tpm_commands import ENDORSEMENT, OWNER, TpmCommands, sized
from casemate.tee.tpm_link import open_tpm

_SECONDS = 15.0
_EVICT, _NV_DEFINE, _NV_WRITE = 0x120, 0x12A, 0x137
_OWNER_WRITE, _OWNER_READ, _AUTH_READ, _NO_DA = 1 << 1, 1 << 17, 1 << 18, 1 << 25
_CHUNK = 512


def software_tpm_missing() -> str | None:
    """Which program is missing, or None where all are there."""
    for program in ("swtpm", "swtpm_setup", "swtpm_localca", "certtool"):
        if shutil.which(program) is None:
            return f"{program} isn't installed (Debian: swtpm swtpm-tools gnutls-bin)"
    return None


@dataclass
class SoftwareTpm:
    """A TPM that runs while a block does; a block after it finds the same one, started again.

    Args:
        folder: for its state; absolute, empty.
        certified: whether it gets endorsement certificates, which takes a second or two.
        port: listen there on loopback; else on a unix socket in the folder.
    """

    folder: Path
    certified: bool = False
    port: int | None = None

    @property
    def place(self) -> str:
        """Where drivers find it."""
        return str(self.folder / "tpm.sock") if self.port is None else f"127.0.0.1:{self.port}"

    @property
    def authorities(self) -> tuple[x509.Certificate, x509.Certificate]:
        """Who issued the endorsement certificates: signer, then root."""
        ca = self.folder / "ca"
        signer, root = ca / "issuercert.pem", ca / "swtpm-localca-rootca-cert.pem"
        return (
            x509.load_pem_x509_certificate(signer.read_bytes()),
            x509.load_pem_x509_certificate(root.read_bytes()),
        )

    def __enter__(self) -> Self:
        state = self.folder / "state"
        if not state.is_dir():
            state.mkdir()
            if self.certified:
                self._certify(state)
        Path(self.folder / "tpm.sock").unlink(missing_ok=True)
        server = f"type=unixio,path={self.place}"
        if self.port is not None:
            server = f"type=tcp,port={self.port},bindaddr=127.0.0.1"
        self._process = subprocess.Popen(
            [
                "swtpm", "socket", "--tpm2", "--tpmstate", f"dir={state}",
                "--server", server,
                "--flags", "not-need-init,startup-clear",
            ],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        )  # fmt: skip
        deadline = time.monotonic() + _SECONDS
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                stderr = self._process.stderr
                raise RuntimeError(f"swtpm: {stderr.read()!r}" if stderr else "swtpm")
            time.sleep(0.01)
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(_SECONDS)
        if self._process.stderr is not None:
            self._process.stderr.close()

    def persist(self, handle: int, template: bytes) -> None:
        """Keep a primary key of the endorsement hierarchy under a persistent handle."""
        with open_tpm(self.place) as link:
            commands = TpmCommands("tpm", link)
            with commands.primary(ENDORSEMENT, template) as (key, _):
                _run(commands, _EVICT, (OWNER, key), handle.to_bytes(4, "big"))

    def define(self, index: int, content: bytes, *, owner_read: bool = False) -> None:
        """Define an NV index and write it, readable by its own or by the owner's authorisation."""
        attributes = _OWNER_WRITE | _NO_DA | (_OWNER_READ if owner_read else _AUTH_READ)
        public = (
            index.to_bytes(4, "big") + b"\x00\x0b" + attributes.to_bytes(4, "big") + sized(b"")
            + len(content).to_bytes(2, "big")
        )  # fmt: skip
        with open_tpm(self.place) as link:
            commands = TpmCommands("tpm", link)
            _run(commands, _NV_DEFINE, (OWNER,), sized(b"") + sized(public))
            for at in range(0, len(content), _CHUNK):
                part = content[at : at + _CHUNK]
                _run(commands, _NV_WRITE, (OWNER, index), sized(part) + at.to_bytes(2, "big"))

    def _answers(self) -> bool:
        try:
            with open_tpm(self.place):
                return True
        except CasemateError:
            return False

    def _certify(self, state: Path) -> None:
        (ca := self.folder / "ca").mkdir()
        settings = {
            "localca.conf": f"statedir = {ca}\nsigningkey = {ca}/signkey.pem\n"
            f"issuercert = {ca}/issuercert.pem\ncertserial = {ca}/certserial\n",
            "localca.options": "--tpm-manufacturer IBM\n--tpm-model swtpm\n--tpm-version 2\n"
            "--platform-manufacturer Test\n--platform-version 1\n--platform-model Test\n",
            "setup.conf": f"create_certs_tool = {shutil.which('swtpm_localca')}\n"
            f"create_certs_tool_config = {self.folder}/localca.conf\n"
            f"create_certs_tool_options = {self.folder}/localca.options\n",
        }
        for name, text in settings.items():
            (self.folder / name).write_text(text)
        done = subprocess.run(
            [
                "swtpm_setup", "--tpm2", "--tpmstate", str(state), "--create-ek-cert",
                "--config", str(self.folder / "setup.conf"), "--overwrite",
            ],
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        if done.returncode:
            raise RuntimeError(done.stdout + done.stderr)


def _run(commands: TpmCommands, code: int, handles: tuple[int, ...], parameters: bytes) -> None:
    commands._run(code, handles, parameters, password=True)  # noqa: SLF001  for tests alone
