"""Evidence from Linux' configfs-tsm: Intel TDX, AMD SEV-SNP and Arm CCA.

A folder is made for each report, so that no other process writes into it unasked; that its
``generation`` moved by exactly one shows that none did.

Source: Linux, Documentation/ABI/testing/configfs-tsm-report, drivers/virt/coco/guest/report.c;
for RTMR3, Documentation/ABI/testing/sysfs-devices-virtual-misc-tdx_guest.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import time
from pathlib import Path
from typing import Self

from casemate.errors import UnavailableError, UsageError
from casemate.evidence import Evidence, Tee
from casemate.evidence.snp_certificates import parse_certificate_table
from casemate.protocol.registers import TDX_RTMR, tdx_register
from casemate.tee.faults import absent, failed, unexpected
from casemate.types import ReportData, Sha384

REPORTS = Path("/sys/kernel/config/tsm/report")
RTMR3 = Path("/sys/devices/virtual/misc/tdx_guest/measurements/rtmr3:sha384")
PROVIDERS = {"tdx_guest": Tee.TDX, "sev_guest": Tee.SNP, "arm_cca_guest": Tee.CCA}
_MAX_BLOB = 4 * 1024 * 1024
_MAX_TEXT = 4096
_ATTEMPTS = 5
_FIRST_PAUSE = 0.02
_PRIVILEGE_LEVELS = range(4)


class TsmReports:
    """An Attester: the guest's hardware, by way of the kernel.

    Args:
        tee: what it must be: TDX, SNP or CCA.
        reports: the folder of reports.
        privilege_level: of the report, where the hardware has such (SNP's VMPL); None for the
            most privileged that this kernel may name.
        rtmr3: TDX's register for what runs.

    Raises:
        UsageError: ``tee.absent`` where this machine is no such guest; ``tee.forbidden``.
    """

    def __init__(
        self,
        tee: Tee,
        *,
        reports: Path = REPORTS,
        privilege_level: int | None = None,
        rtmr3: Path = RTMR3,
    ) -> None:
        if privilege_level is not None and privilege_level not in _PRIVILEGE_LEVELS:
            raise UsageError(
                "tee.privilege-level", "there is no such privilege level",
                field="privilege level", expected="0 to 3", got=str(privilege_level),
            )  # fmt: skip
        self._tee, self._reports, self._rtmr3 = tee, reports, rtmr3
        self._privilege_level = privilege_level
        found = provider(tee, reports)
        if PROVIDERS.get(found) is not tee:
            raise absent(tee, f"the kernel's provider of reports is {found}")

    def attest(self, report_data: ReportData) -> Evidence:
        """A report, with the certificates that the host gives along (SNP).

        Raises:
            UnavailableError: ``tee.busy``, ``tee.conflict``, ``tee.timeout``, ``tee.too-large``,
                ``tee.failed``, ``tee.unexpected``.
        """
        pause = _FIRST_PAUSE
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                return self._attest(report_data)
            except UnavailableError as error:
                if error.code not in {"tee.busy", "tee.conflict"} or attempt == _ATTEMPTS:
                    raise
            time.sleep(pause)
            pause *= 2
        raise AssertionError("unreachable")

    def extend(self, digest: Sha384) -> str | None:
        """Extend RTMR3 of a TD by a digest; see `extend_rtmr3`."""
        return extend_rtmr3(digest, self._rtmr3) if self._tee is Tee.TDX else None

    def _attest(self, report_data: ReportData) -> Evidence:
        with _Folder(self._tee, self._reports) as folder:
            level = self._privilege_level
            if level is None and self._tee is Tee.SNP:
                # Beneath a module that keeps level 0 to itself, the kernel may not name it.
                level = folder.number("privlevel_floor") or None
            if level is not None:
                folder.write("privlevel", str(level).encode())
            before = folder.number("generation")
            folder.write("inblob", report_data)
            data = folder.read("outblob")
            extras = folder.read("auxblob") if self._tee is Tee.SNP else b""
            after = folder.number("generation")
        if after != before + 1:
            raise UnavailableError(
                "tee.conflict",
                "somebody else wrote into our report while it was made; it isn't used",
                field="generation",
                expected=str(before + 1),
                got=str(after),
                remedy="Try again. If it stays so, find the process that does it.",
            )
        if not data:
            raise unexpected(self._tee, "outblob", "a report", "nothing")
        # Only the chain goes along: what changes with time a verifier must know by itself.
        chain = parse_certificate_table(extras).chain
        return Evidence(tee=self._tee, data=data, endorsements=chain)


def provider(tee: str, reports: Path = REPORTS) -> str:
    """Who makes this kernel's reports, by its own name: ``tdx_guest``, ``sev_guest``...

    Raises:
        UsageError: ``tee.absent``, ``tee.forbidden``.
    """
    if not reports.is_dir():
        raise absent(tee, f"no {reports}")
    with _Folder(tee, reports) as folder:
        return folder.text("provider")


def extend_rtmr3(digest: Sha384, register: Path = RTMR3) -> str | None:
    """Extend a TD's RTMR3: it becomes SHA-384(what it was, then the digest).

    Args:
        digest: what runs from now on.
        register: the kernel's file; Linux has it from 6.16 on.

    Returns:
        The register's name, or None where the kernel doesn't offer it.

    Raises:
        UnavailableError: ``tee.unexpected`` where the register isn't what it must have become.
    """
    try:
        before = register.read_bytes()
        with register.open("r+b", buffering=0) as file:
            file.write(digest)
        after = register.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise failed(Tee.TDX, "extending RTMR3", error) from error
    if after != (expected := tdx_register(before, digest)):
        raise unexpected(Tee.TDX, "rtmr3", expected.hex(), after.hex())
    return f"rtmr{TDX_RTMR}"


class _Folder:
    """A report's folder: made, used, and always removed."""

    def __init__(self, tee: str, reports: Path) -> None:
        self._tee = tee
        self._path = reports / f"casemate-{secrets.token_hex(8)}"

    def __enter__(self) -> Self:
        try:
            self._path.mkdir()
        except OSError as error:
            raise failed(self._tee, "making a report's folder", error) from error
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):  # what it was for has come, or its error says more
            self._path.rmdir()

    def read(self, name: str, limit: int = _MAX_BLOB) -> bytes:
        parts, size = [], 0
        try:
            with (self._path / name).open("rb", buffering=0) as file:
                while part := os.read(file.fileno(), 1 << 16):
                    parts.append(part)
                    size += len(part)
                    if size > limit:
                        raise unexpected(self._tee, name, f"at most {limit} bytes", "more")
        except OSError as error:
            raise failed(self._tee, f"reading {name}", error) from error
        return b"".join(parts)

    def text(self, name: str) -> str:
        return self.read(name, _MAX_TEXT).decode("ascii", "replace").strip()

    def number(self, name: str) -> int:
        text = self.text(name)
        if not text.isdecimal():
            raise unexpected(self._tee, name, "a number", text[:40])
        return int(text)

    def write(self, name: str, value: bytes) -> None:
        try:
            descriptor = os.open(self._path / name, os.O_WRONLY | os.O_CLOEXEC)
            try:
                written = os.write(descriptor, value)
            finally:
                os.close(descriptor)  # what is binary takes effect only now
        except OSError as error:
            raise failed(self._tee, f"writing {name}", error) from error
        if written != len(value):
            raise unexpected(self._tee, name, f"{len(value)} bytes taken", str(written))
